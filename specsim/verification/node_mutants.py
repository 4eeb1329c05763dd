"""Wrong rules for several drafts at a node, and right ones fed with drafts they don't fit."""

# ruff: noqa: ARG001, E501 - rules share one signature, whatever each of them reads; the table has a row a line

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

from specsim.verification import drafting as draw
from specsim.verification import nodes
from specsim.verification.chains import argmax, excess, ratio
from specsim.verification.coins import Coins, Weights
from specsim.verification.nodes import Drafts, NodeRule, Pick, normalised
from specsim.verification.wrong_chains import or_those


@dataclass(frozen=True)
class NodeMutant:
    """A wrong rule for several drafts at a node, or a right one fed with drafts it doesn't fit."""

    name: str
    claims: str
    wrong: str
    rule: NodeRule
    drafting: draw.Drafting


def _no_update(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    for j, x in enumerate(drafts):
        if coins.accept(("sibling", j)).below(ratio(p[x], q[x])):
            return Pick(j, None)
    return Pick(None, excess(p, q))


def _not_renormalised(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    for j, x in enumerate(drafts):
        if coins.accept(("sibling", j)).below(p[x]):
            return Pick(j, None)
    return Pick(None, or_those([0 if x in drafts else mass for x, mass in enumerate(p)], p))


def _one_coin(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    left = list(p)
    for j, x in enumerate(drafts):
        if coins.accept("node").below(ratio(left[x], q[x])):
            return Pick(j, None)
        left = normalised(excess(left, q))
    return Pick(None, left)


def _last_residual_is_target(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    pick = nodes.recursive(p, q, drafts, coins)
    return pick if pick.accepted is not None else Pick(None, p)


def _greedy_tree(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    top = argmax(p)
    return Pick(drafts.index(top), None) if top in drafts else Pick(None, p)


def _hub_shortcut(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    a = argmax(q)
    if a in drafts and float(p[a]) > 0.5:
        return Pick(drafts.index(a), None)
    return nodes.hub_transport(p, q, drafts, coins)


NODE_MUTANTS: tuple[NodeMutant, ...] = (
    NodeMutant("different drafts judged as independent", "recursive", "drawn without replacement, verified with", nodes.recursive, draw.without_replacement),
    NodeMutant("independent drafts judged as different", "recursive_without_replacement", "drawn with replacement, verified without", nodes.recursive_without_replacement, draw.independent),
    NodeMutant("no update between siblings", "recursive", "every sibling is judged against p itself", _no_update, draw.independent),
    NodeMutant("one coin for all siblings", "recursive", "a node's siblings share one coin", _one_coin, draw.independent),
    NodeMutant("target after the last sibling", "recursive", "with all rejected a token of p", _last_residual_is_target, draw.independent),
    NodeMutant("certain drafts not renormalised", "certain", "siblings are judged by p, not by what is left of it", _not_renormalised, draw.most_likely),
    NodeMutant("drawn drafts judged as certain", "recursive", "independent draws, duplicates too, taken as certain without renormalising", _not_renormalised, draw.independent),
    NodeMutant("greedy among siblings", "recursive", "accepts the sibling that is p's argmax", _greedy_tree, draw.independent),
    NodeMutant("lenient tree threshold", "target_only", "cumulative threshold 0.8 instead of 1", partial(nodes.target_only, accept_all=0.8), draw.most_likely),
    NodeMutant("single-token threshold", "target_only", "any draft with p >= 0.4 is accepted", partial(nodes.target_only, accept_single=0.4), draw.most_likely),
    NodeMutant("k-sequential without its factor", "k_sequential", "rho = 1 whatever p and q", partial(nodes.k_sequential, rho=1), draw.independent),
    NodeMutant("hub shortcut", "hub_transport", "a likely hub is accepted outright", _hub_shortcut, draw.hub),
)  # fmt: skip
"""Wrong rules for several drafts."""
