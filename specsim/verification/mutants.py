"""Deliberately wrong verifiers, each after a mistake that somebody made: negative controls, and names for a failure.

Chain mutants are chain rules, so ``chains.chain_law`` gives their exact law and ``lookup.RuleSampler`` samples them.
Sources are public issues and pull requests; where none is named the mistake is a classic one. Mutants of engines over
several rounds are in ``pipeline_mutants``, of node rules in ``NODE_MUTANTS``.
"""

# ruff: noqa: ARG001, ARG005, E501 - rules share one signature, whatever each of them reads; the tables have a row a line

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from specsim.verification import chains, lossy, nodes
from specsim.verification import drafting as draw
from specsim.verification.batched import Emitted, Floats, Ints
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
from specsim.verification.lookup import RuleSampler
from specsim.verification.nodes import Drafts, NodeRule, Pick, normalised


@dataclass(frozen=True)
class Mutant:
    """A wrong rule: its name, the algorithm it claims to be, what is wrong, where it was seen, and the rule."""

    name: str
    claims: str
    wrong: str
    seen: str
    rule: ChainRule

    def sampler(self) -> RuleSampler:
        """The mutant as a sampler on arrays, injectable."""
        return RuleSampler(self.rule, self.name)


String = tuple[int, ...]
Accept = Callable[[Rows, Rows, String, int, Coins], bool]
Residual = Callable[[Rows, Rows, tuple[int, ...], int], Weights]


def _chain(accept: Accept | None = None, residual: Residual | None = None, bonus: Residual | None = None) -> ChainRule:
    """The token rule with one of its parts replaced."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        d = drafted(d)
        q = lossy._rows(q)
        for i, x in enumerate(d):
            fine = coins.accept(i).below(ratio(p[i][x], q[i][x])) if accept is None else accept(p, q, d, i, coins)
            if not fine:
                return Stop(d[:i], _some(excess(p[i], q[i]) if residual is None else residual(p, q, d, i), p[i]))
        return Stop(d, _some(p[len(d)] if bonus is None else bonus(p, q, d, len(d)), p[len(d)]))

    return rule


def _some(weights: Weights, otherwise: Weights) -> Weights:
    """The weights, or others where nothing could be drawn from them."""
    return weights if any(weights) else otherwise


def _by(odds: Callable[[Rows, Rows, tuple[int, ...], int], Number]) -> Accept:
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


def _uniform_of_bits(bits: int) -> Accept:
    """A coin with 2^bits equally likely values, compared with <=: zero comes up, and accepts the impossible."""

    def accept(p: Rows, q: Rows, d: tuple[int, ...], i: int, coins: Coins) -> bool:
        odds = min(1, ratio(p[i][d[i]], q[i][d[i]]))
        steps = min(math.floor(odds * 2**bits) + 1, 2**bits)
        exact = type(p[i][d[i]])
        return coins.accept(i).below(exact(steps) / exact(2**bits))

    return accept


def _same_coin(p: Rows, q: Rows, d: tuple[int, ...], i: int, coins: Coins) -> bool:
    return coins.accept(0).below(ratio(p[i][d[i]], q[i][d[i]]))


def _residual_by_the_rejecting_coin(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    q, d = lossy._rows(q), drafted(d)
    for i, x in enumerate(d):
        if not coins.accept(i).below(ratio(p[i][x], q[i][x])):
            return Stop((*d[:i], pick_with(coins.accept(i), excess(p[i], q[i]))), None)
    return Stop(d, p[len(d)])


def _goes_on_after_rejection(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    q, d, out = lossy._rows(q), drafted(d), []
    for i, x in enumerate(d):
        kept = coins.accept(i).below(ratio(p[i][x], q[i][x]))
        out.append(x if kept else coins.pick(excess(p[i], q[i]), i))
    return Stop(tuple(out), p[len(d)])


def _counts_later_acceptances(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    q, d = lossy._rows(q), drafted(d)
    taken = [coins.accept(i).below(ratio(p[i][x], q[i][x])) for i, x in enumerate(d)]
    n = sum(taken)
    return Stop(d[:n], p[n] if n == len(d) else excess(p[n], q[n]))


def _no_bonus(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    stop = chains.token(p, q, d, coins)
    return Stop(stop.tokens, None) if d and len(stop.tokens) == len(drafted(d)) else stop


def _greedy_residual(p: Rows, q: Rows, d: tuple[int, ...], i: int) -> Weights:
    over = excess(p[i], q[i])
    return [1 if x == argmax(over) else 0 for x in range(len(over))]


def _softmaxed(p: Rows, q: Rows, d: tuple[int, ...], i: int) -> Weights:
    return [math.exp(float(x)) for x in positive_part(p[i], q[i])]


def _one_element(p: Rows, q: Rows, d: tuple[int, ...], i: int) -> Weights:
    return [max(a - q[i][x], 0) if x == d[i] else a for x, a in enumerate(p[i])]


def _shifted_row(i: int, rows: Rows) -> int:
    return min(i + 1, len(rows) - 1)


def _at_temperature(power: float) -> ChainRule:
    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        return chains.token([_powered(row, power) for row in p], lossy._rows(q), d, coins)

    return rule


def _with_draft_at_temperature(power: float) -> ChainRule:
    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        return chains.token(p, [_powered(row, power) for row in lossy._rows(q)], d, coins)

    return rule


def _in_precision(bits: int) -> ChainRule:
    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        return chains.token(
            [_rounded(row, bits) for row in p], [_rounded(row, bits) for row in lossy._rows(q)], d, coins
        )

    return rule


def _topped(keep: int) -> ChainRule:
    """The target cut to its likeliest tokens before verification, though the request asked for none of it."""

    def cut(row: Weights) -> list[Number]:
        top = sorted(range(len(row)), key=lambda x: (-row[x], x))[:keep]
        return normalised([mass if x in top else 0 for x, mass in enumerate(row)])

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        return chains.token([cut(row) for row in p], q, d, coins)

    return rule


def _block(
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
        q, d = lossy._rows(q), drafted(d)
        rho = weights(p, q, d)
        hits = (i for i in range(len(d), 0, -1) if coins.accept(i - 1).below(threshold(p, q, rho, d, i)))
        if first_failure:
            n = next((i for i in range(len(d)) if not coins.accept(i).below(threshold(p, q, rho, d, i + 1))), len(d))
        else:
            n = next(hits, 0)
        return Stop(d[:n], p[n] if n == len(d) else _some(residual(p, q, rho, n), p[n]))

    return rule


def _uncapped(p: Rows, q: Rows, d: tuple[int, ...]) -> list[Number]:
    weights: list[Number] = [1]
    for i, x in enumerate(d):
        weights.append(weights[-1] * ratio(p[i][x], q[i][x]))
    return weights


def _uncapped_leaf(p: Rows, q: Rows, rho: Sequence[Number], d: tuple[int, ...], i: int) -> Number:
    return min(1, _uncapped(p, q, d)[i]) if i == len(d) else block_threshold(p, q, rho, i)


def _uncapped_threshold(p: Rows, q: Rows, rho: Sequence[Number], d: tuple[int, ...], i: int) -> Number:
    if i == len(d):
        return min(1, rho[i])
    more = sum(positive_part(scaled(p[i], rho[i]), q[i]))
    rest = sum(positive_part(q[i], scaled(p[i], rho[i])))
    return more / (more + rest) if more + rest > 0 else 1


def _no_rest(p: Rows, q: Rows, rho: Sequence[Number], d: tuple[int, ...], i: int) -> Number:
    return rho[i] if i == len(d) else sum(positive_part(scaled(p[i], rho[i]), q[i]))


def _point(
    accept: Callable[[Weights, int], Number] = lambda row, x: row[x],
    residual: Callable[[Weights, int], Weights] = without,
) -> ChainRule:
    """The point-mass rule with one of its parts replaced."""

    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        d = drafted(d)
        for i, x in enumerate(d):
            if not coins.accept(i).below(accept(p[i], x)):
                return Stop(d[:i], _some(residual(p[i], x), p[i]))
        return Stop(d, p[len(d)])

    return rule


def _match_against(row: Callable[[Rows, int], Weights]) -> ChainRule:
    def rule(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
        d = drafted(d)
        out: String = ()
        for i in range(len(d) + 1):
            out = (*out, coins.pick(row(p, i), i))
            if i == len(d) or out[-1] != d[i]:
                break
        return Stop(out, None)

    return rule


def _match_then_target(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    d = drafted(d)
    for i, x in enumerate(d):
        if coins.pick(p[i], i) != x:
            return Stop(d[:i], p[i])
    return Stop(d, p[len(d)])


def _greedy_last_tie(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    def top(row: Weights) -> int:
        return max(range(len(row)), key=lambda x: (row[x], x))

    d = drafted(d)
    n = next((i for i, x in enumerate(d) if x != top(p[i])), len(d))
    return Stop((*d[:n], top(p[n])), None)


def _greedy_shifted(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
    d = drafted(d)
    n = next((i for i, x in enumerate(d) if x != argmax(p[i])), len(d))
    return Stop((*d[:n], argmax(p[_shifted_row(n, p)])), None)


_T = "token"
MUTANTS: tuple[Mutant, ...] = (
    Mutant("softmaxed residual", _T, "the residual goes through a softmax", "transformers PR 28508", _chain(residual=_softmaxed)),
    Mutant("target residual", _T, "a rejected draft is replaced from p", "", _chain(residual=lambda p, q, d, i: p[i])),
    Mutant("residual subtracts one element", _T, "only the rejected token's q is subtracted, which leaves p without that token", "EAGLE issue 20", _chain(residual=_one_element)),
    Mutant("uniform residual", _T, "the residual is uniform over its support", "", _chain(residual=lambda p, q, d, i: [1 if x > 0 else 0 for x in positive_part(p[i], q[i])])),
    Mutant("absolute residual", _T, "|p - q| instead of (p - q)+", "", _chain(residual=lambda p, q, d, i: [abs(a - b) for a, b in zip(p[i], q[i], strict=True)])),
    Mutant("draft residual", _T, "the residual is drawn from q", "", _chain(residual=lambda p, q, d, i: q[i])),
    Mutant("reversed residual", _T, "(q - p)+ instead of (p - q)+", "", _chain(residual=lambda p, q, d, i: positive_part(q[i], p[i]))),
    Mutant("greedy residual", _T, "the residual's argmax instead of a draw", "", _chain(residual=_greedy_residual)),
    Mutant("residual of the next row", _T, "on rejection the next row's residual", "openvino.genai issue 4190", _chain(residual=lambda p, q, d, i: excess(p[_shifted_row(i, p)], q[min(i + 1, len(q) - 1)]))),
    Mutant("target residual of the next row", _T, "on rejection a token of p's next row", "openvino.genai issue 4190", _chain(residual=lambda p, q, d, i: p[_shifted_row(i, p)])),
    Mutant("residual with the first draft row", _T, "every residual subtracts q's first row", "", _chain(residual=lambda p, q, d, i: excess(p[i], q[0]))),
    Mutant("accepts everything", _T, "the coin is always 0", "vllm-ascend issue 13730", _chain(accept=lambda p, q, d, i, coins: True)),
    Mutant("accepts nothing", _T, "every draft is rejected, and replaced from p", "", _chain(accept=lambda p, q, d, i, coins: False, residual=lambda p, q, d, i: p[i])),
    Mutant("swapped ratio", _T, "accepts with q/p", "", _chain(accept=_by(lambda p, q, d, i: ratio(q[i][d[i]], p[i][d[i]])))),
    Mutant("hard threshold", _T, "accepts iff p >= q", "", _chain(accept=lambda p, q, d, i, coins: p[i][d[i]] >= q[i][d[i]])),
    Mutant("accepts with p", _T, "accepts with p instead of p/q", "", _chain(accept=_by(lambda p, q, d, i: p[i][d[i]]))),
    Mutant("lenient by a tenth", _T, "accepts with 1.1 p/q", "", _chain(accept=_by(lambda p, q, d, i: 11 * ratio(p[i][d[i]], q[i][d[i]]) / 10))),
    Mutant("lenient by a hundredth", _T, "accepts with 1.01 p/q", "", _chain(accept=_by(lambda p, q, d, i: 101 * ratio(p[i][d[i]], q[i][d[i]]) / 100))),
    Mutant("strict by a tenth", _T, "accepts with 0.9 p/q", "", _chain(accept=_by(lambda p, q, d, i: 9 * ratio(p[i][d[i]], q[i][d[i]]) / 10))),
    Mutant("one coin for all positions", _T, "the same uniform at every position", "flashinfer PR 425", _chain(accept=_same_coin)),
    Mutant("rejecting coin draws the residual", _T, "one uniform both rejects and picks", "vllm issue 47386", _residual_by_the_rejecting_coin),
    Mutant("bonus from the last target row", _T, "the token after a full draft comes from p one row early", "", _chain(bonus=lambda p, q, d, i: p[max(i - 1, 0)])),
    Mutant("bonus from the draft", _T, "the token after a full draft comes from q", "", _chain(bonus=lambda p, q, d, i: q[i - 1] if i else p[0])),
    Mutant("bonus on rejection", _T, "a rejected draft is replaced by the bonus token", "", _chain(residual=lambda p, q, d, i: p[-1])),
    Mutant("greedy bonus", _T, "the token after a full draft is p's argmax", "", _chain(bonus=lambda p, q, d, i: [1 if x == argmax(p[i]) else 0 for x in range(len(p[i]))])),
    Mutant("no bonus", _T, "nothing after a full draft", "", _no_bonus),
    Mutant("acceptance by the next row", _T, "the ratio uses p's next row", "TensorRT-LLM PR 15098", _chain(accept=_by(lambda p, q, d, i: ratio(p[_shifted_row(i, p)][d[i]], q[i][d[i]])))),
    Mutant("acceptance by the previous row", _T, "the ratio uses p's previous row", "transformers PR 28166", _chain(accept=_by(lambda p, q, d, i: ratio(p[max(i - 1, 0)][d[i]], q[i][d[i]])))),
    Mutant("first row everywhere", _T, "every position is judged by p's first row", "", _chain(accept=_by(lambda p, q, d, i: ratio(p[0][d[i]], q[i][d[i]])))),
    Mutant("draft rows shifted", _T, "the ratio uses q's previous row", "TensorRT-LLM PR 12588", _chain(accept=_by(lambda p, q, d, i: ratio(p[i][d[i]], q[max(i - 1, 0)][d[i]])))),
    Mutant("judged by the next draft token", _T, "the ratio is of the next drafted token", "", _chain(accept=_by(lambda p, q, d, i: ratio(p[i][d[min(i + 1, len(d) - 1)]], q[i][d[min(i + 1, len(d) - 1)]])))),
    Mutant("goes on after a rejection", _T, "a rejected draft is replaced and later drafts still judged", "", _goes_on_after_rejection),
    Mutant("counts later acceptances", _T, "as many drafts kept as coins succeeded anywhere", "vllm PR 2658", _counts_later_acceptances),
    Mutant("sample and match", _T, "accepts iff the target's own sample agrees (lossless, accepts less)", "vllm issue 40149", chains.sample_and_match),
    Mutant("drafts taken as certain", _T, "draft probabilities are lost: accepts with p (lossless, accepts less)", "vllm issue 40149", chains.point_mass),
    Mutant("greedy agreement", _T, "accepts iff the draft is p's argmax, at temperature too", "mlxcel issue 902", _chain(accept=lambda p, q, d, i, coins: d[i] == argmax(p[i]), residual=lambda p, q, d, i: p[i])),
    Mutant("target temperature ignored", _T, "p without its temperature", "vllm PR 10198", _at_temperature(0.8)),
    Mutant("target cut to two tokens", _T, "top-k applied to verification alone", "vllm issue 55005", _topped(2)),
    Mutant("draft temperature ignored", _T, "q isn't the law the drafts came from", "transformers issue 32867", _with_draft_at_temperature(0.8)),
    Mutant("probabilities in half precision", _T, "p and q rounded to 11 bits", "DeepSpec issue 31", _in_precision(11)),
    Mutant("probabilities in bfloat16", _T, "p and q rounded to 8 bits", "DeepSpec issue 31", _in_precision(8)),
    Mutant("coin in half precision", _T, "a uniform of 12 bits, zero included, with <=", "sglang issue 35771", _chain(accept=_uniform_of_bits(12))),
    Mutant("coin in bfloat16", _T, "a uniform of 9 bits, zero included, with <=", "sglang issue 35771", _chain(accept=_uniform_of_bits(9))),
    Mutant("typical acceptance", _T, "a threshold on p passes for verification", "", partial(lossy.typical, epsilon=0.3, delta=0.5)),
    Mutant("interpolated target", _T, "verifies against 0.9 p + 0.1 q", "", partial(lossy.ensemble, weight=0.9)),
    Mutant("block: token thresholds", "block", "each position judged by its own ratio", "vllm-ascend issue 7807", _block(threshold=lambda p, q, r, d, i: ratio(p[i - 1][d[i - 1]], q[i - 1][d[i - 1]]))),
    Mutant("block: token residual", "block", "the residual is (p - q)+ without the weight", "vllm-ascend issue 7808", _block(residual=lambda p, q, r, i: excess(p[i], q[i]))),
    Mutant("block: first failure", "block", "stops at the first failing position", "vllm-ascend PR 11985", _block(first_failure="stops")),
    Mutant("block: ignored", "block", "the option is accepted and token verification runs", "vllm-ascend PR 15673", chains.token),
    Mutant("block: weights not capped", "block", "the running product is never capped at 1", "", _block(weights=_uncapped, threshold=_uncapped_threshold)),
    Mutant("block: leaf not capped", "block", "the last position is accepted by the uncapped product", "", _block(threshold=_uncapped_leaf)),
    Mutant("block: threshold without its rest", "block", "S instead of S/(S + 1 - rho)", "", _block(threshold=_no_rest)),
    Mutant("block: weight as threshold", "block", "accepts position i with rho_i", "", _block(threshold=lambda p, q, r, d, i: r[i])),
    Mutant("certain: draft zeroed too early", "point_mass", "the draft's mass is removed before it is judged", "vllm-ascend PR 2881", _point(accept=lambda row, x: 0 * row[x])),
    Mutant("certain: target residual", "point_mass", "a rejected draft may come back", "", _point(residual=lambda row, x: row)),
    Mutant("certain: accepts everything", "point_mass", "every draft is accepted", "", _point(accept=lambda row, x: 1)),
    Mutant("certain: accepts the argmax", "point_mass", "accepts iff the draft is p's argmax", "", _point(accept=lambda row, x: int(x == argmax(row)))),
    Mutant("match: next row", "sample_and_match", "the sample comes from the next row", "openvino.genai issue 4190", _match_against(lambda p, i: p[_shifted_row(i, p)])),
    Mutant("match: resampled", "sample_and_match", "a mismatch is replaced by a second sample", "", _match_then_target),
    Mutant("match: first row", "sample_and_match", "every position samples p's first row", "", _match_against(lambda p, i: p[0])),
    Mutant("greedy: last among equals", "greedy", "another tie-break than the target's", "vllm issue 7627", _greedy_last_tie),
    Mutant("greedy: next row", "greedy", "on a mismatch the next row's argmax", "", _greedy_shifted),
    Mutant("coupled: fresh noise", "coupled", "the target samples with noise of its own (lossless, accepts less)", "", chains.sample_and_match),
)  # fmt: skip
"""Wrong chain verifiers."""


def mutants_of(algorithm: str) -> tuple[Mutant, ...]:
    """The mutants that claim to be an algorithm."""
    return tuple(mutant for mutant in MUTANTS if mutant.claims == algorithm)


@dataclass(frozen=True)
class BatchMutant:
    """A sampler that is right row by row and takes part of another row's inputs: ``wrong`` says which."""

    name: str
    wrong: str
    seen: str
    mixes: str

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Verify a batch with one input taken from the row before."""
        return _TOKEN(*self._mixed(target_probs, draft_probs), draft_tokens, rng)

    def inject(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        """The same with the caller's coins."""
        if self.mixes == "coins":
            return _TOKEN.inject(
                target_probs, draft_probs, draft_tokens, np.tile(uniforms[:1], (len(uniforms), 1)), final
            )
        return _TOKEN.inject(*self._mixed(target_probs, draft_probs), draft_tokens, uniforms, final)

    def _mixed(self, target: Floats, draft: Floats | None) -> tuple[Floats, Floats | None]:
        if self.mixes == "target":
            return np.roll(target, 1, axis=0), draft
        if self.mixes == "draft" and draft is not None:
            return target, np.roll(draft, 1, axis=0)
        if self.mixes == "first":
            return np.repeat(target[:1], len(target), axis=0), draft
        return target, draft

    def rule(self, p: Rows, q: Rows, other_p: Rows, other_q: Rows) -> ChainRule:
        """The rule that a row goes through when (other_p, other_q) is the row it is mixed with."""
        del p, q

        def mixed(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
            return chains.token(
                p if self.mixes == "draft" else other_p, other_q if self.mixes == "draft" else q, d, coins
            )

        return mixed


_TOKEN = RuleSampler(chains.token, "token")

BATCH_MUTANTS = (
    BatchMutant("another row's target", "p is the previous row's", "vllm PR 10863", "target"),
    BatchMutant("another row's draft law", "q is the previous row's", "TensorRT-LLM PR 12588", "draft"),
    BatchMutant("first row's target", "p is the first row's for the whole batch", "", "first"),
)
"""Wrong batch handling around a right rule."""


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
    return Pick(None, _some([0 if x in drafts else mass for x, mass in enumerate(p)], p))


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

CONTROLS: Mapping[str, tuple[str, ...]] = {
    "token": ("target residual", "lenient by a tenth", "acceptance by the next row"),
    "block": ("block: token residual", "block: first failure", "block: ignored"),
    "point_mass": ("certain: target residual", "certain: accepts the argmax"),
    "sample_and_match": ("match: next row", "match: first row"),
    "greedy": ("greedy: next row",),
    "coupled": ("coupled: fresh noise", "target residual"),
}
"""The mutants that a pass on each algorithm must be able to reject."""

LOSSLESS_CONTROLS = ("target residual", "lenient by a tenth", "acceptance by the next row")
"""The mutants that a pass on losslessness alone must be able to reject."""
