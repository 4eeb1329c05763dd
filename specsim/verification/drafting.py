"""How the several drafts of one node are drawn: the half of a multi-draft rule that its proof depends on."""

# ruff: noqa: ARG001 - rules share one signature, whatever each of them reads

from __future__ import annotations

from collections.abc import Callable

from specsim.verification.coins import Coins, Number, Weights

Drafting = Callable[[Weights, int, Coins], tuple[int, ...]]
"""``drafting(q, k, coins) -> drafts``, in the order in which they will be tested."""


def independent(q: Weights, k: int, coins: Coins) -> tuple[int, ...]:
    """Draw k i.i.d. tokens of q; duplicates are possible."""
    return tuple(coins.pick(q, ("draft", i)) for i in range(k))


def without_replacement(q: Weights, k: int, coins: Coins) -> tuple[int, ...]:
    """Up to k different tokens, each drawn from q with the earlier ones removed (fewer where q's support ends)."""
    drafts: list[int] = []
    left = list(q)
    while len(drafts) < k and any(left):
        drafts.append(coins.pick(left, ("draft", len(drafts))))
        left[drafts[-1]] = 0
    return tuple(drafts)


def most_likely(q: Weights, k: int, coins: Coins) -> tuple[int, ...]:
    """The k likeliest tokens of q in descending order, the lowest index first among equals: nothing is random."""
    return tuple(sorted(range(len(q)), key=lambda x: (-q[x], x))[:k])


def most_likely_and_one(q: Weights, k: int, coins: Coins) -> tuple[int, ...]:
    """The k - 1 likeliest tokens, and one drawn from q restricted to the others (Hu et al., arXiv 2502.18779)."""
    top = tuple(x for x in most_likely(q, k - 1, coins) if q[x] > 0)
    rest = [0 if x in top else mass for x, mass in enumerate(q)]
    return (*top, coins.pick(rest, "draft")) if any(rest) else top


def hub(q: Weights, k: int, coins: Coins) -> tuple[int, ...]:
    """Two tokens of which one is a = argmax q: (i, a) with q(i), (a, i) with q(a) q(i)/(1 - q(a)).

    SpecHub, arXiv 2411.05289. Where q has one token only, that token alone.
    """
    if k != 2:
        raise ValueError(f"k={k}: the hub is of two drafts")
    a = most_likely(q, 1, coins)[0]
    if q[a] == 1:
        return (a,)
    first = coins.pick(q, ("draft", 0))
    if first != a:
        return (first, a)
    return (a, coins.pick([0 if x == a else mass for x, mass in enumerate(q)], ("draft", 1)))


def tuple_law(drafting: Drafting, q: Weights, k: int, unit: Number) -> dict[tuple[int, ...], Number]:
    """Exact law of the tuple of drafts."""
    from specsim.verification.coins import law_of

    return law_of(lambda coins: drafting(q, k, coins), unit=unit)
