"""Rules that verify one chain of drafts: what is accepted, and what the token after it is drawn from.

A rule reads ``p`` (gamma + 1 target rows), ``q`` (gamma rows of the law the drafts were drawn from, or None), the
drafts ``d`` (a -1 ends the chain early) and its coins. It returns a ``Stop``: the accepted tokens, and weights of one
more. Every rule below is lossless when q is the law the drafts were really drawn from and every coin is fresh.
"""

# ruff: noqa: ARG001 - rules share one signature, whatever each of them reads

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

from specsim.errors import InputError
from specsim.verification.case import Case, Number, String
from specsim.verification.coins import Coins, Weights, law_of, pick_with

Rows = Sequence[Weights]


class Stop(NamedTuple):
    """Where a rule stopped: tokens emitted so far, and weights of the last one (None: the tokens are all)."""

    tokens: String
    weights: Weights | None


ChainRule = Callable[[Rows, Rows | None, String, Coins], Stop]


def token(p: Rows, q: Rows | None, d: String, coins: Coins) -> Stop:
    """Accept d_i while u_i < p(d_i)/q(d_i); then one token from norm((p - q)+), or from p after the last draft.

    Lossless. E[N] = sum_i sum_{x_1..i} prod min(p, q). Leviathan et al., arXiv 2211.17192; Chen et al., 2302.01318.
    """
    q = _drawn_from(q, p, d)
    for i, x in enumerate(drafted(d)):
        if not coins.accept(i).below(ratio(p[i][x], q[i][x])):
            return Stop(d[:i], excess(p[i], q[i]))
    return Stop(drafted(d), p[len(drafted(d))])


def point_mass(p: Rows, q: Rows | None, d: String, coins: Coins) -> Stop:
    """Accept d_i while u_i < p(d_i); then p without d_i. For drafts that are certain given the prefix; q isn't read.

    Lossless for any drafts, however they were chosen. E[N] = sum_i prod p(d_j). Leviathan et al., 2211.17192, with q
    a point mass (n-gram, prompt lookup, argmax drafts).
    """
    for i, x in enumerate(drafted(d)):
        if not coins.accept(i).below(p[i][x]):
            return Stop(d[:i], without(p[i], x))
    return Stop(drafted(d), p[len(drafted(d))])


def greedy(p: Rows, q: Rows | None, d: String, coins: Coins) -> Stop:
    """Accept d_i while it is the target's argmax (lowest index among equals); then the argmax itself.

    Lossless for argmax decoding, given one tie-break everywhere. No coins.
    """
    for i, x in enumerate(drafted(d)):
        if x != argmax(p[i]):
            return Stop((*d[:i], argmax(p[i])), None)
    return Stop((*drafted(d), argmax(p[len(drafted(d))])), None)


def sample_and_match(p: Rows, q: Rows | None, d: String, coins: Coins) -> Stop:
    """Draw y_i ~ p, emit it, go on while y_i = d_i: the output is the target's own sample whatever the drafts are.

    Lossless. A draft is accepted with probability sum_x p(x) q(x). llama.cpp's common sampler; Hugging Face's
    greedy-like second case.
    """
    emitted: String = ()
    for i in range(len(drafted(d)) + 1):
        if i == len(drafted(d)):
            return Stop(emitted, p[i])
        y = coins.pick(p[i], i)
        emitted = (*emitted, y)
        if y != d[i]:
            break
    return Stop(emitted, None)


def coupled(p: Rows, q: Rows | None, d: String, coins: Coins) -> Stop:
    """y_i = argmin E_x/p_x with the exponentials of which d_i = argmin E_x/q_x was drawn; go on while y_i = d_i.

    Lossless, and the text doesn't depend on the drafter. Given d_i, y_i has the law ``coupled_pair(p, q)[.,
    d_i]/q(d_i)``, which is what is drawn here: the rule is handed drafts, not noise. P(y = d) = sum_x 1/sum_y
    max(p_y/p_x, q_y/q_x). Daliri et al., arXiv 2408.07978.
    """
    q = _drawn_from(q, p, d)
    emitted: String = ()
    for i, x in enumerate(drafted(d)):
        joint = coupled_pair(p[i], q[i])
        y = pick_with(coins.accept(i), [joint[y][x] for y in range(len(p[i]))])
        emitted = (*emitted, y)
        if y != x:
            return Stop(emitted, None)
    return Stop(emitted, p[len(drafted(d))])


def block(p: Rows, q: Rows | None, d: String, coins: Coins) -> Stop:
    """The longest prefix whose own coin succeeds: u_i < h_i, with rho_i = min(1, rho_{i-1} p(d_i)/q(d_i)),
    S_i = sum_x (rho_i p - q)+, h_i = S_i/(S_i + 1 - rho_i) before the last draft and rho_gamma at it; then
    norm((rho_i p - q)+), or p after the last.

    Lossless; never accepts less than ``token``. P(at least i | draft) = rho_i. Sun et al., arXiv 2403.10444.
    """
    q = _drawn_from(q, p, d)
    d = drafted(d)
    rho = survival_weights(p, q, d)
    for i in range(len(d), 0, -1):
        if coins.accept(i - 1).below(block_threshold(p, q, rho, i)):
            return Stop(d[:i], p[i] if i == len(d) else excess(scaled(p[i], rho[i]), q[i]))
    return Stop((), p[0] if not d else excess(p[0], q[0]))


def survival_weights(p: Rows, q: Rows, d: String) -> list[Number]:
    """rho_0..rho_gamma of block verification along a chain of drafts: P(at least i accepted | the drafts)."""
    rho: list[Number] = [1]
    for i, x in enumerate(d):
        rho.append(min(1, rho[-1] * ratio(p[i][x], q[i][x])))
    return rho


def block_threshold(p: Rows, q: Rows, rho: Sequence[Number], i: int) -> Number:
    """h_i of block verification, the chance that stops it at i when it has come back to i."""
    if i == len(rho) - 1:
        return rho[i]
    more = sum(positive_part(scaled(p[i], rho[i]), q[i]))
    rest = more + 1 - rho[i]
    return more / rest if rest > 0 else 1


def chain_law(rule: ChainRule, case: Case, *, unit: Number = None) -> dict[String, Number]:
    """Exact law of the strings a rule emits in one round, by enumerating the drafts and every branch of the coins.

    With floats in the case the law is in floats.
    """
    unit = case.target[()][0] * 0 + 1 if unit is None else unit
    law: dict[String, Number] = {}
    for drafts, mass in case.drafts():
        p, q = case.rows(drafts)
        for string, share in law_given_drafts(rule, p, q, drafts, unit=unit, eos=case.eos).items():
            law[string] = law.get(string, 0) + mass * share
    return law


def law_given_drafts(
    rule: ChainRule, p: Rows, q: Rows | None, drafts: String, *, unit: Number, eos: int | None = None
) -> dict[String, Number]:
    """Law of the emitted strings when the drafts are known; what follows ``eos`` in a string isn't emitted."""
    law: dict[String, Number] = {}

    def run(coins: Coins) -> tuple[String, tuple[Number, ...] | None]:
        return checked_stop(rule(p, q, drafts, coins), rule, p, drafts)

    for (tokens, weights), mass in law_of(run, unit=unit).items():
        if weights is None or (eos is not None and eos in tokens):
            string = tokens if eos is None or eos not in tokens else tokens[: tokens.index(eos) + 1]
            law[string] = law.get(string, 0) + mass
            continue
        total = sum(weight for weight in weights if weight > 0)
        for token, weight in enumerate(weights):
            if weight > 0:
                law[(*tokens, token)] = law.get((*tokens, token), 0) + mass * (weight / total)
    return law


_BELOW_0 = -1e-9
"""What rounding may leave of a difference of equal floats."""


def checked_stop(stop: Any, rule: ChainRule, p: Rows, drafts: String) -> tuple[String, tuple[Number, ...] | None]:
    """Tokens and weights of what a rule returned; raises InputError naming rule, drafts and token where they can't be
    emitted.
    """

    def wrong(problem: str) -> InputError:
        return InputError(f"{problem}, for the drafts {list(drafts)}", field=f"the rule {rule_name(rule)!r}")

    if not isinstance(stop, Stop):
        raise wrong(f"returned a {type(stop).__name__}, not a Stop(tokens, weights)")
    tokens, vocab = tuple(stop.tokens), len(p[0])
    strange = next((x for x in tokens if not 0 <= x < vocab), None)
    if strange is not None:
        raise wrong(f"emitted token {strange}; the vocabulary has {vocab}")
    if len(tokens) + (stop.weights is not None) > len(p):
        raise wrong(f"emitted {len(tokens) + (stop.weights is not None)} tokens, more than drafts and one")
    if stop.weights is None:
        return tokens, None
    weights = tuple(stop.weights)
    if len(weights) != vocab:
        raise wrong(f"returned {len(weights)} weights after {list(tokens)}; the vocabulary has {vocab}")
    for token, weight in enumerate(weights):
        if not weight >= (0 if isinstance(weight, (int, Fraction)) else _BELOW_0):
            raise wrong(f"returned the weight {float(weight):.6g} for token {token} after {list(tokens)}")
    if not any(weight > 0 for weight in weights):
        raise wrong(f"returned no weight above 0 after {list(tokens)}")
    return tokens, weights


def rule_name(rule: Any) -> str:
    """A rule's name: the function's, behind what parameters are bound to it."""
    rule = getattr(rule, "func", rule)
    return rule if isinstance(rule, str) else str(getattr(rule, "__name__", type(rule).__name__))


def token_law(case: Case) -> dict[String, Number]:
    """Law of ``token``, directly: accepted prefix x and then y with prod min(p, q)(x) times (p - q)+(y)."""
    law: dict[String, Number] = {}

    def walk(prefix: String, mass: Number) -> None:
        p = case.target[prefix]
        last = len(prefix) == case.gamma
        q = [0] * len(p) if last else case.draft[prefix]
        for y, (a, b) in enumerate(zip(p, q, strict=True)):
            string = (*prefix, y)
            if a > b:
                law[string] = law.get(string, 0) + mass * (a - b)
            if b > 0 and a > 0:
                both = mass * min(a, b)
                if y == case.eos:
                    law[string] = law.get(string, 0) + both
                else:
                    walk(string, both)

    walk((), 1)
    return law


def block_law(case: Case) -> dict[String, Number]:
    """Law of ``block``, directly: q(x) (rho(x) p(y) - q(y))+ for prefix x and then y; rho p(y) after the last draft."""
    law: dict[String, Number] = {}

    def walk(prefix: String, drawn: Number, rho: Number) -> None:
        p = case.target[prefix]
        last = len(prefix) == case.gamma
        q = [0] * len(p) if last else case.draft[prefix]
        for y, (a, b) in enumerate(zip(p, q, strict=True)):
            string, weight = (*prefix, y), rho * a
            if weight > b:
                law[string] = law.get(string, 0) + drawn * (weight - b)
            if b > 0 and weight > 0:
                if y == case.eos:
                    law[string] = law.get(string, 0) + drawn * min(b, weight)
                else:
                    walk(string, drawn * b, min(1, weight / b))

    walk((), 1, 1)
    return law


def coupled_pair(p: Weights, q: Weights) -> list[list[Number]]:
    """Exact joint law [y][d] of the winners of two exponential races run with the same noise.

    y = argmin E_x/p_x and d = argmin E_x/q_x, E_x i.i.d. Exp(1). For y = d = x it is 1/sum_z max(p_z/p_x, q_z/q_x). For
    y != d put E_d = s E_y: both win iff p_d/p_y <= s <= q_d/q_y, and the others are slower with rate
    sum_z max(p_z/p_y, s q_z/q_d), linear between kinks; the integral of 1/(A + B s)^2 over a piece is
    (s2 - s1)/((A + B s1)(A + B s2)). So the law is rational where p and q are.
    """
    n = len(p)
    joint: list[list[Number]] = [[0] * n for _ in range(n)]
    for y in range(n):
        if not p[y] > 0:
            continue
        for d in range(n):
            if not q[d] > 0:
                continue
            if y == d:
                joint[y][y] = 1 / sum(max(p[z] / p[y], q[z] / q[y]) for z in range(n))
            elif q[y] == 0 or p[d] / p[y] < q[d] / q[y]:
                joint[y][d] = _both_win(p, q, y, d)
    return joint


def _both_win(p: Weights, q: Weights, y: int, d: int) -> Number:
    others = [z for z in range(len(p)) if z not in (y, d)]
    low = p[d] / p[y]
    high = q[d] / q[y] if q[y] > 0 else None
    kinks = {p[z] * q[d] / (p[y] * q[z]) for z in others if q[z] > 0}
    inside = sorted(s for s in kinks if s > low and (high is None or s < high))
    edges: list[Number] = [low, *inside, high]
    total: Number = 0
    for s1, s2 in itertools.pairwise(edges):
        middle = s1 + 1 if s2 is None else (s1 + s2) / 2
        ruled_by_p = [z for z in others if p[z] / p[y] >= middle * q[z] / q[d]]
        a = 1 + sum(p[z] / p[y] for z in ruled_by_p)
        b = 1 + sum(q[z] / q[d] for z in others if z not in ruled_by_p)
        total += 1 / (b * (a + b * s1)) if s2 is None else (s2 - s1) / ((a + b * s1) * (a + b * s2))
    return total


def drafted(d: String) -> String:
    """The drafts before the first -1."""
    return d[: d.index(-1)] if -1 in d else d


def ratio(a: Number, b: Number) -> Number:
    """a/b; a drafted token that cannot have been drafted (b = 0) is accepted iff the target can emit it."""
    return a / b if b > 0 else (1 if a > 0 else 0)


def excess(p: Weights, q: Weights) -> list[Number]:
    """(p - q)+; p itself where rounding left nothing over (a rejection that exact numbers don't have)."""
    more = positive_part(p, q)
    return more if any(more) else list(p)


def positive_part(p: Weights, q: Weights) -> list[Number]:
    """(p - q)+, entry by entry."""
    return [max(a - b, 0) for a, b in zip(p, q, strict=True)]


def scaled(row: Weights, factor: Number) -> list[Number]:
    """Every entry times ``factor``."""
    return [x * factor for x in row]


def without(row: Weights, token: int) -> list[Number]:
    """The row with one token's mass removed, not renormalised; the row itself where that was all its mass."""
    rest = [0 if x == token else mass for x, mass in enumerate(row)]
    return rest if any(rest) else list(row)


def argmax(row: Weights) -> int:
    """Index of the largest entry, the lowest among equals."""
    return max(range(len(row)), key=lambda x: (row[x], -x))


def _drawn_from(q: Rows | None, p: Rows, d: String) -> Rows:
    """The drafts' law: where none was declared, the drafts are taken as certain."""
    if q is not None:
        return q
    return [[1 if x == token else 0 for x in range(len(p[0]))] for token in d]
