"""Rules that verify several drafts at one position: which draft is accepted, or what is emitted instead.

A node rule reads the target's row p, the drafter's row q, the drafts in the order tested, and its coins. It returns a
``Pick``: the index of the accepted draft, or the weights of the token emitted when all are rejected. Each is lossless
for drafts drawn as its docstring says, and only for those: ``drafting`` holds the matching draws.
"""

# ruff: noqa: ARG001 - rules share one signature, whatever each of them reads

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from specsim.verification import drafting as draw
from specsim.verification.chains import argmax, excess, positive_part, ratio, without
from specsim.verification.coins import Coins, Number, Weights, law_of
from specsim.verification.optimal import couple

Drafts = tuple[int, ...]


class Pick(NamedTuple):
    """The accepted draft's index, or None and the weights of the token that is emitted instead."""

    accepted: int | None
    weights: Weights | None


NodeRule = Callable[[Weights, Weights, Drafts, Coins], Pick]


def recursive(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    """p_1 = p; accept x_j with min(1, p_j/q); on rejection p_{j+1} = norm((p_j - q)+); at the end from the last p_j.

    Lossless for i.i.d. drafts. P(accept) = 1 - prod_j TV(p_j, q). SpecInfer, arXiv 2305.09781; multi-candidate
    speculative decoding.
    """
    left = list(p)
    for j, x in enumerate(drafts):
        if coins.accept(("sibling", j)).below(ratio(left[x], q[x])):
            return Pick(j, None)
        left = normalised(excess(left, q))
    return Pick(None, left)


def recursive_without_replacement(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    """As ``recursive`` with q_{j+1} = norm(q_j without x_j), the law from which the next draft really came.

    Lossless for drafts drawn without replacement and tested in the order drawn. Sequoia, arXiv 2402.12374; EAGLE,
    2401.15077.
    """
    left, drafted = list(p), list(q)
    for j, x in enumerate(drafts):
        if coins.accept(("sibling", j)).below(ratio(left[x], drafted[x])):
            return Pick(j, None)
        left = normalised(excess(left, drafted))
        drafted = [0 if y == x else mass for y, mass in enumerate(drafted)]
        if not any(drafted):
            break
        drafted = normalised(drafted)
    return Pick(None, left)


def certain(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    """Accept x_j with p_j(x_j) (as if q were 1 there); on rejection p_{j+1} = p_j without x_j, normalised.

    Lossless for different drafts that are certain given the prefix, such as the k likeliest. P(accept) = sum_j p(x_j).
    EAGLE-2, arXiv 2406.16858, and EAGLE-3 with dynamic trees.
    """
    left = list(p)
    for j, x in enumerate(drafts):
        if coins.accept(("sibling", j)).below(left[x]):
            return Pick(j, None)
        left = normalised(without(left, x))
    return Pick(None, left)


def target_only(
    p: Weights, q: Weights, drafts: Drafts, coins: Coins, *, accept_all: Number = 1, accept_single: Number = 1
) -> Pick:
    """One coin a node: accept the first j with u < C_j/accept_all, C_j = p(x_1) + .. + p(x_j), or p(x_j) >=
    accept_single; otherwise from p without the drafts.

    Lossless iff both thresholds are 1, and then it has the law of ``certain``. With C_k <= accept_all and no single
    hit, TV = C_k (1/accept_all - 1). SGLang's ``tree_speculative_sampling_target_only``.
    """
    coin, reached = coins.accept("node"), p[0] * 0
    for j, x in enumerate(drafts):
        reached += p[x]
        if coin.below(reached / accept_all) or p[x] >= accept_single:
            return Pick(j, None)
    rest = [0 if x in drafts else mass for x, mass in enumerate(p)]
    return Pick(None, rest if any(rest) else p)


def k_sequential(p: Weights, q: Weights, drafts: Drafts, coins: Coins, *, rho: Number = None) -> Pick:
    """Accept each x_j with min(1, p/(rho q)); else from p - min(q, p/rho) (1 - (1 - beta)^k)/beta, beta = sum min(q,
    p/rho).

    Lossless for i.i.d. drafts wherever 1 - (1 - beta)^k <= rho beta; the default rho is the smallest that satisfies it
    (to 1e-12). P(accept) = 1 - (1 - beta)^k >= (1 - 1/e) of the optimum. K-SEQ of SpecTr, arXiv 2310.15141.
    """
    k = len(drafts)
    rho = smallest_rho(p, q, k) if rho is None else rho
    for j, x in enumerate(drafts):
        if coins.accept(("sibling", j)).below(ratio(p[x], rho * q[x])):
            return Pick(j, None)
    shared = [min(b, a / rho) for a, b in zip(p, q, strict=True)]
    beta = sum(shared)
    hit = 1 - (1 - beta) ** k
    rest = positive_part(p, [x * hit / beta for x in shared]) if beta > 0 else list(p)
    return Pick(None, rest if any(rest) else p)


def smallest_rho(p: Weights, q: Weights, k: int) -> Number:
    """The smallest valid factor of ``k_sequential`` in [1, k], from above to 2^-40, so that it is valid itself.

    As rho falls beta rises, and the accepted mass 1 - (1 - beta)^k = sum_x min(q, p/rho) hit/beta must fit under p.
    """
    unit = p[0] * 0 + 1

    def valid(rho: Number) -> bool:
        beta = sum(min(b, a / rho) for a, b in zip(p, q, strict=True))
        return bool(1 - (1 - beta) ** k <= rho * beta)

    low, high = unit, unit * max(k, 1)
    if valid(low):
        return low
    for _ in range(40):
        middle = (low + high) / 2
        low, high = (low, middle) if valid(middle) else (middle, high)
    return high


def hub_transport(p: Weights, q: Weights, drafts: Drafts, coins: Coins) -> Pick:
    """The pair's mass goes to its token i != a first ((i, a), then (a, i)), what is left over to the hub a.

    Lossless for two drafts from ``drafting.hub``; otherwise what remains of p is emitted. SpecHub, arXiv 2411.05289.
    """
    if len(drafts) == 1:
        return recursive(p, q, drafts, coins)
    a = argmax(q)
    kept: dict[Drafts, Number] = {}
    left, over = list(p), q[0] * 0
    for i, mass in enumerate(q):
        if i == a or not mass > 0:
            continue
        for pair, drawn in (((i, a), mass), ((a, i), q[a] * mass / (1 - q[a]))):
            kept[pair] = min(drawn, left[i])
            left[i] -= kept[pair]
            over += drawn - kept[pair]
            kept[pair] = kept[pair] / drawn if drawn > 0 else 0
    hub_share = min(1, left[a] / over) if over > 0 else 0
    left[a] -= hub_share * over
    i = drafts[0] if drafts[0] != a else drafts[1]
    if coins.accept(("sibling", 0)).below(kept[drafts]):
        return Pick(drafts.index(i), None)
    if coins.accept(("sibling", 1)).below(hub_share):
        return Pick(drafts.index(a), None)
    return Pick(None, left if any(left) else p)


def optimal_transport(
    p: Weights,
    q: Weights,
    drafts: Drafts,
    coins: Coins,
    *,
    drawn: draw.Drafting = draw.independent,
    k: int | None = None,
) -> Pick:
    """Accept token x of the tuple D with f(D, x)/P(D), f the largest flow from tuples to their tokens under p;
    otherwise from p minus all that flowed.

    Lossless, and no rule accepts more. For small vocabularies: it enumerates the tuples. ``drawn`` says how the drafts
    came. SpecTr's linear program, arXiv 2310.15141.
    """
    tuples = draw.tuple_law(drawn, q, len(drafts) if k is None else k, unit=p[0] * 0 + 1)
    flow = couple(p, tuples)
    odds = [flow.get((drafts, x), 0) for x in drafts]
    first_of = {x: j for j, x in reversed(list(enumerate(drafts)))}
    share = [mass if first_of[x] == j else 0 for j, (x, mass) in enumerate(zip(drafts, odds, strict=True))]
    flowed = [sum(mass for (_, y), mass in flow.items() if y == x) for x in range(len(p))]
    rest = positive_part(p, flowed)
    j = coins.pick([*share, max(tuples[drafts] - sum(share), 0)], "flow")
    return Pick(j, None) if j < len(drafts) else Pick(None, rest if any(rest) else p)


def normalised(weights: Weights) -> list[Number]:
    """The weights divided by their sum."""
    total = sum(weights)
    return [weight / total for weight in weights]


MATCHING: dict[str, tuple[NodeRule, draw.Drafting]] = {
    "recursive": (recursive, draw.independent),
    "recursive_without_replacement": (recursive_without_replacement, draw.without_replacement),
    "certain": (certain, draw.most_likely),
    "target_only": (target_only, draw.most_likely),
    "k_sequential": (k_sequential, draw.independent),
    "hub_transport": (hub_transport, draw.hub),
    "optimal_transport": (optimal_transport, draw.independent),
    "optimal_transport_without_replacement": (
        partial(optimal_transport, drawn=draw.without_replacement),
        draw.without_replacement,
    ),
    "optimal_transport_hybrid": (partial(optimal_transport, drawn=draw.most_likely_and_one), draw.most_likely_and_one),
}
"""Every node rule with the way of drawing under which it is lossless."""


def node_law(
    rule: NodeRule, drafting: draw.Drafting, p: Weights, q: Weights, k: int
) -> dict[tuple[int, int | None], Number]:
    """Exact law of (emitted token, index of the accepted draft or None) at one node, drafts drawn by ``drafting``."""

    def run(coins: Coins) -> tuple[int, int | None]:
        drafts = drafting(q, k, coins)
        pick = rule(p, q, drafts, coins)
        if pick.accepted is not None:
            return drafts[pick.accepted], pick.accepted
        return coins.pick(pick.weights or p, "residual"), None

    return law_of(run, unit=p[0] * 0 + 1)


def emitted(law: dict[tuple[int, int | None], Number]) -> dict[int, Number]:
    """Law of the token alone."""
    out: dict[int, Number] = {}
    for (token, _), mass in law.items():
        out[token] = out.get(token, 0) + mass
    return out


def acceptance(law: dict[tuple[int, int | None], Number]) -> Number:
    """Probability that one of the drafts was accepted."""
    return sum(mass for (_, index), mass in law.items() if index is not None)
