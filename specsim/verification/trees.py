"""Verification of a tree of drafts: node rules from the root down, and traversal from the leaves up.

A shape is the number of children of a node at each depth: (2, 1) is two drafts, each continued by one.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence

from specsim.verification import drafting as draw
from specsim.verification.case import Case, Number, String
from specsim.verification.chains import positive_part, ratio
from specsim.verification.coins import Coins, Weights, law_of
from specsim.verification.nodes import NodeRule, normalised

Shape = Sequence[int]


class _Keyed:
    """Coins whose keys are those of one node."""

    def __init__(self, coins: Coins, node: object) -> None:
        self._coins, self._node = coins, node
        self.pick = coins.pick

    def accept(self, key: object) -> object:
        return self._coins.accept((self._node, key))


def tree_law(rule: NodeRule, drafting: draw.Drafting, case: Case, shape: Shape) -> dict[String, Number]:
    """Exact law of the string that one round emits: accept a child by ``rule`` from the root on, stop at the first node
    that accepts none and emit its residual; after a leaf, a token of p.

    Lossless where the node rule is lossless for this drafting. E[N] = sum over nodes of the product of their edges'
    acceptance. Subtrees of a node are drawn independently, so only the one that is visited matters.
    """

    def run(coins: Coins) -> String:
        path: String = ()
        for depth, width in enumerate(shape):
            p, q = case.target[path], case.draft[path]
            here: Coins = _Keyed(coins, depth)  # type: ignore[assignment]
            drafts = drafting(q, width, here)
            pick = rule(p, q, drafts, here)
            if pick.accepted is None:
                return (*path, coins.pick(pick.weights or p))
            path = (*path, drafts[pick.accepted])
            if path[-1] == case.eos:
                return path
        return (*path, coins.pick(case.target[path]))

    return law_of(run, unit=_unit(case))


def traversal_law(case: Case, shape: Shape) -> dict[String, Number]:
    """Exact law of traversal verification (arXiv 2505.12398) with children drawn without replacement; see
    ``traverse``.
    """
    return law_of(lambda coins: traverse(case, shape, coins), unit=_unit(case))


def traverse(case: Case, shape: Shape, coins: Coins) -> String:
    """Draw a tree without replacement and verify it from its leaves up; return the emitted string.

    A node carries (r, M, Q): the root (1, p, q), a child reached by x has r = min(1, r M(x)/Q(x)) and fresh (p, q) of
    its own. The leftmost leaf is accepted with r, emitting its path and a token of M. If not, it is removed, and its
    parent becomes S = sum (r M - Q)+, M = norm((r M - Q)+), r = S/(S + 1 - r), Q = norm(Q without x); with no children
    left it is a leaf itself. Lossless; on a chain it has the law of block verification. The formulation is ours.
    """
    root = _Node((), _grow(case, (), shape, coins))

    def settle(node: _Node, r: Number) -> String | None:
        """The emitted string if it ends in this subtree."""
        p, q = case.target[node.path], case.draft.get(node.path, ())
        m, left = list(p), list(q)
        for child in node.children:
            x = child.path[-1]
            found = settle(child, min(1, r * ratio(m[x], left[x])))
            if found is not None:
                return found
            over = positive_part([r * mass for mass in m], left)
            more = sum(over)
            if more > 0:
                m = normalised(over)
            r = more / (more + 1 - r) if more + 1 - r > 0 else r
            left = [0 if y == x else mass for y, mass in enumerate(left)]
            left = normalised(left) if any(left) else left
        if not node.path or coins.accept(("leaf", node.path)).below(r):
            return (*node.path, coins.pick(m))
        return None

    emitted = settle(root, _unit(case))
    return emitted if emitted is not None else ()


class _Node:
    """A prefix and its drafted continuations."""

    def __init__(self, path: String, children: list[_Node]) -> None:
        self.path, self.children = path, children


def _grow(case: Case, path: String, shape: Shape, coins: Coins) -> list[_Node]:
    if not shape:
        return []
    drafts = draw.without_replacement(case.draft[path], shape[0], coins)
    return [_Node((*path, x), _grow(case, (*path, x), shape[1:], coins)) for x in drafts]


def tree_expected_tokens(
    rule: NodeRule,
    drafting: draw.Drafting,
    case: Case,
    shape: Shape,
    law: Callable[..., dict[tuple[int, int | None], Number]],
) -> Number:
    """E[N] by the formula: 1 for the root, and for every accepted path its probability under the nodes' laws."""

    def below(path: String, depth: int) -> Number:
        if depth == len(shape):
            return 1
        at = law(rule, drafting, case.target[path], case.draft[path], shape[depth])
        total: Number = 1
        for token, outcomes in itertools.groupby(
            sorted(at.items(), key=lambda item: item[0][0]), key=lambda i: i[0][0]
        ):
            share = sum(mass for (_, index), mass in outcomes if index is not None)
            if share:
                total += share * below((*path, token), depth + 1)
        return total

    return below((), 0)


def _unit(case: Case) -> Number:
    row: Weights = case.target[()]
    return row[0] * 0 + 1
