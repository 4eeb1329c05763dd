"""Wrong chain rules, made from the right ones with one part replaced; ``mutants`` names each and says who made it."""

# ruff: noqa: ARG001, ARG005 - rules share one signature, whatever each of them reads

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from specsim.verification import chains
from specsim.verification.case import String
from specsim.verification.chains import (
    ChainRule,
    Rows,
    Stop,
    argmax,
    block_threshold,
    drafted,
    excess,
    positive_part,
    ratio,
    scaled,
    survival_weights,
    without,
)
from specsim.verification.coins import Coins, Number, Weights, pick_with
from specsim.verification.lossy import declared_rows
from specsim.verification.nodes import normalised

Accept = Callable[[Rows, Rows, String, int, Coins], bool]
Residual = Callable[[Rows, Rows, tuple[int, ...], int], Weights]


def token_with(
    accept: Accept | None = None, residual: Residual | None = None, bonus: Residual | None = None
) -> ChainRule:
    """The token rule with one of its parts replaced."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        d = drafted(d)
        q = declared_rows(q)
        for i, x in enumerate(d):
            fine = coins.accept(i).below(ratio(p[i][x], q[i][x])) if accept is None else accept(p, q, d, i, coins)
            if not fine:
                return Stop(d[:i], or_those(excess(p[i], q[i]) if residual is None else residual(p, q, d, i), p[i]))
        return Stop(d, or_those(p[len(d)] if bonus is None else bonus(p, q, d, len(d)), p[len(d)]))

    return rule


def or_those(weights: Weights, otherwise: Weights) -> Weights:
    """The weights, or others where nothing could be drawn from them."""
    return weights if any(weights) else otherwise


def by(odds: Callable[[Rows, Rows, tuple[int, ...], int], Number]) -> Accept:
    """Accept with the given odds by the position's own coin."""
    return lambda p, q, d, i, coins: coins.accept(i).below(odds(p, q, d, i))


def _powered(row: Weights, power: float) -> list[float]:
    raised = [float(x) ** power if x > 0 else 0.0 for x in row]
    return [x / sum(raised) for x in raised]


def _rounded(row: Weights, bits: int) -> list[float]:
    """Each number with a significand of ``bits`` bits (11 in half precision, 8 in bfloat16), exact in floats."""

    def near(x: float) -> float:
        mantissa, exponent = math.frexp(x)
        return math.ldexp(round(mantissa * 2**bits) / 2**bits, exponent)

    return [near(float(x)) for x in row]


def uniform_of_bits(bits: int) -> Accept:
    """A coin with 2^bits equally likely values, compared with <=: zero comes up, and accepts the impossible."""

    def accept(p: Rows, q: Rows, d: tuple[int, ...], i: int, coins: Coins) -> bool:
        odds = min(1, ratio(p[i][d[i]], q[i][d[i]]))
        steps = min(math.floor(odds * 2**bits) + 1, 2**bits)
        exact = type(p[i][d[i]])
        return coins.accept(i).below(exact(steps) / exact(2**bits))

    return accept


def same_coin(p: Rows, q: Rows, d: tuple[int, ...], i: int, coins: Coins) -> bool:
    """Accept by the first position's coin."""
    return coins.accept(0).below(ratio(p[i][d[i]], q[i][d[i]]))


def residual_by_the_rejecting_coin(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    """One uniform rejects the draft and picks its replacement."""
    q, d = declared_rows(q), drafted(d)
    for i, x in enumerate(d):
        if not coins.accept(i).below(ratio(p[i][x], q[i][x])):
            return Stop((*d[:i], pick_with(coins.accept(i), excess(p[i], q[i]))), None)
    return Stop(d, p[len(d)])


def goes_on_after_rejection(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    """Replace a rejected draft and judge the later ones all the same."""
    q, d, out = declared_rows(q), drafted(d), []
    for i, x in enumerate(d):
        kept = coins.accept(i).below(ratio(p[i][x], q[i][x]))
        out.append(x if kept else coins.pick(excess(p[i], q[i]), i))
    return Stop(tuple(out), p[len(d)])


def counts_later_acceptances(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    """Keep as many drafts as coins succeeded anywhere."""
    q, d = declared_rows(q), drafted(d)
    taken = [coins.accept(i).below(ratio(p[i][x], q[i][x])) for i, x in enumerate(d)]
    n = sum(taken)
    return Stop(d[:n], p[n] if n == len(d) else excess(p[n], q[n]))


def no_bonus(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    """Emit nothing after a full draft."""
    stop = chains.token(p, q, d, coins)
    return Stop(stop.tokens, None) if d and len(stop.tokens) == len(drafted(d)) else stop


def greedy_residual(p: Rows, q: Rows, d: tuple[int, ...], i: int) -> Weights:
    """The residual's argmax."""
    over = excess(p[i], q[i])
    return [1 if x == argmax(over) else 0 for x in range(len(over))]


def cut(row: Weights, keep: int) -> list[Number]:
    """The row's largest entries, the others 0."""
    top = sorted(range(len(row)), key=lambda x: (-row[x], x))[:keep]
    return [mass if x in top else 0 for x, mass in enumerate(row)]


def at_least_a_fiftieth(q: Number) -> Number:
    """A probability, or 0.02 where it is less, in its own kind of number."""
    floor = type(q)(1) / 50
    return max(q, floor)


def softmaxed(p: Rows, q: Rows, d: tuple[int, ...], i: int) -> Weights:
    """The residual through a softmax."""
    return [math.exp(float(x)) for x in positive_part(p[i], q[i])]


def one_element(p: Rows, q: Rows, d: tuple[int, ...], i: int) -> Weights:
    """P less the rejected token's q, the other tokens' q forgotten."""
    return [max(a - q[i][x], 0) if x == d[i] else a for x, a in enumerate(p[i])]


def next_row(i: int, rows: Rows) -> int:
    """Index of the row after i, the last one at the end."""
    return min(i + 1, len(rows) - 1)


def at_temperature(power: float) -> ChainRule:
    """The token rule with p raised to a power."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        return chains.token([_powered(row, power) for row in p], declared_rows(q), d, coins)

    return rule


def with_draft_at_temperature(power: float) -> ChainRule:
    """The token rule with q raised to a power."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        return chains.token(p, [_powered(row, power) for row in declared_rows(q)], d, coins)

    return rule


def in_precision(bits: int) -> ChainRule:
    """The token rule on numbers of so many bits."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        return chains.token(
            [_rounded(row, bits) for row in p], [_rounded(row, bits) for row in declared_rows(q)], d, coins
        )

    return rule


def cut_to_likeliest(keep: int) -> ChainRule:
    """The target cut to its likeliest tokens before verification, though the request asked for none of it."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        return chains.token([normalised(cut(row, keep)) for row in p], q, d, coins)

    return rule


def block_with(
    threshold: Callable[[Rows, Rows, Sequence[Number], tuple[int, ...], int], Number] = lambda p, q, r, d, i: (
        block_threshold(p, q, r, i)
    ),
    residual: Callable[[Rows, Rows, Sequence[Number], int], Weights] = lambda p, q, r, i: excess(
        scaled(p[i], r[i]), q[i]
    ),
    weights: Callable[[Rows, Rows, tuple[int, ...]], list[Number]] = survival_weights,
    first_failure: str | None = None,
) -> ChainRule:
    """Block verification with one of its parts replaced; ``first_failure`` stops there instead of at the last
    success.
    """

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        q, d = declared_rows(q), drafted(d)
        rho = weights(p, q, d)
        hits = (i for i in range(len(d), 0, -1) if coins.accept(i - 1).below(threshold(p, q, rho, d, i)))
        if first_failure:
            n = next((i for i in range(len(d)) if not coins.accept(i).below(threshold(p, q, rho, d, i + 1))), len(d))
        else:
            n = next(hits, 0)
        return Stop(d[:n], p[n] if n == len(d) else or_those(residual(p, q, rho, n), p[n]))

    return rule


def uncapped(p: Rows, q: Rows, d: tuple[int, ...]) -> list[Number]:
    """Products of p/q along the drafts, never capped at 1."""
    weights: list[Number] = [1]
    for i, x in enumerate(d):
        weights.append(weights[-1] * ratio(p[i][x], q[i][x]))
    return weights


def uncapped_leaf(p: Rows, q: Rows, rho: Sequence[Number], d: tuple[int, ...], i: int) -> Number:
    """Block verification's thresholds, the last one from the uncapped product."""
    return min(1, uncapped(p, q, d)[i]) if i == len(d) else block_threshold(p, q, rho, i)


def uncapped_threshold(p: Rows, q: Rows, rho: Sequence[Number], d: tuple[int, ...], i: int) -> Number:
    """Block verification's thresholds from uncapped products."""
    if i == len(d):
        return min(1, rho[i])
    more = sum(positive_part(scaled(p[i], rho[i]), q[i]))
    rest = sum(positive_part(q[i], scaled(p[i], rho[i])))
    return more / (more + rest) if more + rest > 0 else 1


def no_rest(p: Rows, q: Rows, rho: Sequence[Number], d: tuple[int, ...], i: int) -> Number:
    """Thresholds S instead of S/(S + 1 - rho)."""
    return rho[i] if i == len(d) else sum(positive_part(scaled(p[i], rho[i]), q[i]))


def point_mass_with(
    accept: Callable[[Weights, int], Number] = lambda row, x: row[x],
    residual: Callable[[Weights, int], Weights] = without,
) -> ChainRule:
    """The point-mass rule with one of its parts replaced."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        d = drafted(d)
        for i, x in enumerate(d):
            if not coins.accept(i).below(accept(p[i], x)):
                return Stop(d[:i], or_those(residual(p[i], x), p[i]))
        return Stop(d, p[len(d)])

    return rule


def match_against(row: Callable[[Rows, int], Weights]) -> ChainRule:
    """Sample and match, the sample drawn from another row."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        d = drafted(d)
        out: String = ()
        for i in range(len(d) + 1):
            out = (*out, coins.pick(row(p, i), i))
            if i == len(d) or out[-1] != d[i]:
                break
        return Stop(out, None)

    return rule


def match_then_target(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    """Sample and match, a mismatch replaced by a second sample."""
    d = drafted(d)
    for i, x in enumerate(d):
        if coins.pick(p[i], i) != x:
            return Stop(d[:i], p[i])
    return Stop(d, p[len(d)])


def greedy_last_tie(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    """Greedy, the last among equals taken."""

    def top(row: Weights) -> int:
        return max(range(len(row)), key=lambda x: (row[x], x))

    d = drafted(d)
    n = next((i for i, x in enumerate(d) if x != top(p[i])), len(d))
    return Stop((*d[:n], top(p[n])), None)


def greedy_shifted(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    """Greedy, a mismatch replaced by the next row's argmax."""
    d = drafted(d)
    n = next((i for i, x in enumerate(d) if x != argmax(p[i])), len(d))
    return Stop((*d[:n], argmax(p[next_row(n, p)])), None)
