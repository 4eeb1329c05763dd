"""Deliberately wrong verifiers, each after a mistake that somebody made: negative controls, and names for a failure.

Chain mutants are chain rules, so ``chains.chain_law`` gives their exact law and ``lookup.RuleSampler`` samples them.
Sources are public issues and pull requests; where none is named the mistake is a classic one. Mistakes of batches are
in ``batch_mutants``, of node rules in ``node_mutants``, of engines over several rounds in ``engine.FAULTS``.
"""

# ruff: noqa: ARG005, E501 - rules share one signature, whatever each of them reads; the tables have a row a line

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial

from specsim.verification import chains, lossy
from specsim.verification import wrong_chains as wrong
from specsim.verification.chains import ChainRule, argmax, excess, positive_part, ratio, scaled
from specsim.verification.lookup import RuleSampler


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


_T = "token"
MUTANTS: tuple[Mutant, ...] = (
    Mutant("softmaxed residual", _T, "the residual goes through a softmax", "transformers PR 28508", wrong.token_with(residual=wrong.softmaxed)),
    Mutant("target residual", _T, "a rejected draft is replaced from p", "", wrong.token_with(residual=lambda p, q, d, i: p[i])),
    Mutant("residual subtracts one element", _T, "only the rejected token's q is subtracted, which leaves p without that token", "EAGLE issue 20", wrong.token_with(residual=wrong.one_element)),
    Mutant("uniform residual", _T, "the residual is uniform over its support", "", wrong.token_with(residual=lambda p, q, d, i: [1 if x > 0 else 0 for x in positive_part(p[i], q[i])])),
    Mutant("absolute residual", _T, "|p - q| instead of (p - q)+", "", wrong.token_with(residual=lambda p, q, d, i: [abs(a - b) for a, b in zip(p[i], q[i], strict=True)])),
    Mutant("draft residual", _T, "the residual is drawn from q", "", wrong.token_with(residual=lambda p, q, d, i: q[i])),
    Mutant("reversed residual", _T, "(q - p)+ instead of (p - q)+", "", wrong.token_with(residual=lambda p, q, d, i: positive_part(q[i], p[i]))),
    Mutant("greedy residual", _T, "the residual's argmax instead of a draw", "", wrong.token_with(residual=wrong.greedy_residual)),
    Mutant("residual cut to two tokens", _T, "top-k applied to the residual: its two largest tokens are kept", "", wrong.token_with(residual=lambda p, q, d, i: wrong.cut(excess(p[i], q[i]), 2))),
    Mutant("residual of the next row", _T, "on rejection the next row's residual", "openvino.genai issue 4190", wrong.token_with(residual=lambda p, q, d, i: excess(p[wrong.next_row(i, p)], q[min(i + 1, len(q) - 1)]))),
    Mutant("target residual of the next row", _T, "on rejection a token of p's next row", "openvino.genai issue 4190", wrong.token_with(residual=lambda p, q, d, i: p[wrong.next_row(i, p)])),
    Mutant("residual with the first draft row", _T, "every residual subtracts q's first row", "", wrong.token_with(residual=lambda p, q, d, i: excess(p[i], q[0]))),
    Mutant("accepts everything", _T, "the coin is always 0", "vllm-ascend issue 13730", wrong.token_with(accept=lambda p, q, d, i, coins: True)),
    Mutant("accepts nothing", _T, "every draft is rejected, and replaced from p", "", wrong.token_with(accept=lambda p, q, d, i, coins: False, residual=lambda p, q, d, i: p[i])),
    Mutant("swapped ratio", _T, "accepts with q/p", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: ratio(q[i][d[i]], p[i][d[i]])))),
    Mutant("hard threshold", _T, "accepts iff p >= q", "", wrong.token_with(accept=lambda p, q, d, i, coins: p[i][d[i]] >= q[i][d[i]])),
    Mutant("accepts with p", _T, "accepts with p instead of p/q", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: p[i][d[i]]))),
    Mutant("lenient by a tenth", _T, "accepts with 1.1 p/q", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: 11 * ratio(p[i][d[i]], q[i][d[i]]) / 10))),
    Mutant("lenient by a hundredth", _T, "accepts with 1.01 p/q", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: 101 * ratio(p[i][d[i]], q[i][d[i]]) / 100))),
    Mutant("strict by a tenth", _T, "accepts with 0.9 p/q", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: 9 * ratio(p[i][d[i]], q[i][d[i]]) / 10))),
    Mutant("one coin for all positions", _T, "the same uniform at every position", "flashinfer PR 425", wrong.token_with(accept=wrong.same_coin)),
    Mutant("rejecting coin draws the residual", _T, "one uniform both rejects and picks", "vllm issue 47386", wrong.residual_by_the_rejecting_coin),
    Mutant("bonus from the last target row", _T, "the token after a full draft comes from p one row early", "", wrong.token_with(bonus=lambda p, q, d, i: p[max(i - 1, 0)])),
    Mutant("bonus from the draft", _T, "the token after a full draft comes from q", "", wrong.token_with(bonus=lambda p, q, d, i: q[i - 1] if i else p[0])),
    Mutant("bonus on rejection", _T, "a rejected draft is replaced by the bonus token", "", wrong.token_with(residual=lambda p, q, d, i: p[-1])),
    Mutant("greedy bonus", _T, "the token after a full draft is p's argmax", "", wrong.token_with(bonus=lambda p, q, d, i: [1 if x == argmax(p[i]) else 0 for x in range(len(p[i]))])),
    Mutant("no bonus", _T, "nothing after a full draft", "", wrong.no_bonus),
    Mutant("acceptance by the next row", _T, "the ratio uses p's next row", "TensorRT-LLM PR 15098", wrong.token_with(accept=wrong.by(lambda p, q, d, i: ratio(p[wrong.next_row(i, p)][d[i]], q[i][d[i]])))),
    Mutant("acceptance by the previous row", _T, "the ratio uses p's previous row", "transformers PR 28166", wrong.token_with(accept=wrong.by(lambda p, q, d, i: ratio(p[max(i - 1, 0)][d[i]], q[i][d[i]])))),
    Mutant("first row everywhere", _T, "every position is judged by p's first row", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: ratio(p[0][d[i]], q[i][d[i]])))),
    Mutant("draft rows shifted", _T, "the ratio uses q's previous row", "TensorRT-LLM PR 12588", wrong.token_with(accept=wrong.by(lambda p, q, d, i: ratio(p[i][d[i]], q[max(i - 1, 0)][d[i]])))),
    Mutant("judged by the next draft token", _T, "the ratio is of the next drafted token", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: ratio(p[i][d[min(i + 1, len(d) - 1)]], q[i][d[min(i + 1, len(d) - 1)]])))),
    Mutant("draft law kept above a floor", _T, "the ratio divides by at least 0.02, against a division by 0", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: ratio(p[i][d[i]], wrong.at_least_a_fiftieth(q[i][d[i]]))))),
    Mutant("fourth position by the third row", _T, "a window of three target rows: the ratio of later drafts uses the third", "", wrong.token_with(accept=wrong.by(lambda p, q, d, i: ratio(p[min(i, 2)][d[i]], q[i][d[i]])))),
    Mutant("goes on after a rejection", _T, "a rejected draft is replaced and later drafts still judged", "", wrong.goes_on_after_rejection),
    Mutant("counts later acceptances", _T, "as many drafts kept as coins succeeded anywhere", "vllm PR 2658", wrong.counts_later_acceptances),
    Mutant("sample and match", _T, "accepts iff the target's own sample agrees (lossless, accepts less)", "vllm issue 40149", chains.sample_and_match),
    Mutant("drafts taken as certain", _T, "draft probabilities are lost: accepts with p (lossless, accepts less)", "vllm issue 40149", chains.point_mass),
    Mutant("greedy agreement", _T, "accepts iff the draft is p's argmax, at temperature too", "mlxcel issue 902", wrong.token_with(accept=lambda p, q, d, i, coins: d[i] == argmax(p[i]), residual=lambda p, q, d, i: p[i])),
    Mutant("target temperature ignored", _T, "p without its temperature", "vllm PR 10198", wrong.at_temperature(0.8)),
    Mutant("target cut to two tokens", _T, "top-k applied to verification alone", "vllm issue 55005", wrong.cut_to_likeliest(2)),
    Mutant("draft temperature ignored", _T, "q isn't the law the drafts came from", "transformers issue 32867", wrong.with_draft_at_temperature(0.8)),
    Mutant("probabilities in half precision", _T, "p and q rounded to 11 bits", "DeepSpec issue 31", wrong.in_precision(11)),
    Mutant("probabilities in bfloat16", _T, "p and q rounded to 8 bits", "DeepSpec issue 31", wrong.in_precision(8)),
    Mutant("coin in half precision", _T, "a uniform of 12 bits, zero included, with <=", "sglang issue 35771", wrong.token_with(accept=wrong.uniform_of_bits(12))),
    Mutant("coin in bfloat16", _T, "a uniform of 9 bits, zero included, with <=", "sglang issue 35771", wrong.token_with(accept=wrong.uniform_of_bits(9))),
    Mutant("typical acceptance", _T, "a threshold on p passes for verification", "", partial(lossy.typical, epsilon=0.3, delta=0.5)),
    Mutant("interpolated target", _T, "verifies against 0.9 p + 0.1 q", "", partial(lossy.ensemble, weight=0.9)),
    Mutant("block: token thresholds", "block", "each position judged by its own ratio", "vllm-ascend issue 7807", wrong.block_with(threshold=lambda p, q, r, d, i: ratio(p[i - 1][d[i - 1]], q[i - 1][d[i - 1]]))),
    Mutant("block: token residual", "block", "the residual is (p - q)+ without the weight", "vllm-ascend issue 7808", wrong.block_with(residual=lambda p, q, r, i: excess(p[i], q[i]))),
    Mutant("block: residual cut to two tokens", "block", "top-k applied to the residual: its two largest tokens are kept", "", wrong.block_with(residual=lambda p, q, r, i: wrong.cut(excess(scaled(p[i], r[i]), q[i]), 2))),
    Mutant("block: first failure", "block", "stops at the first failing position", "vllm-ascend PR 11985", wrong.block_with(first_failure="stops")),
    Mutant("block: ignored", "block", "the option is accepted and token verification runs", "vllm-ascend PR 15673", chains.token),
    Mutant("block: weights not capped", "block", "the running product is never capped at 1", "", wrong.block_with(weights=wrong.uncapped, threshold=wrong.uncapped_threshold)),
    Mutant("block: leaf not capped", "block", "the last position is accepted by the uncapped product", "", wrong.block_with(threshold=wrong.uncapped_leaf)),
    Mutant("block: threshold without its rest", "block", "S instead of S/(S + 1 - rho)", "", wrong.block_with(threshold=wrong.no_rest)),
    Mutant("block: weight as threshold", "block", "accepts position i with rho_i", "", wrong.block_with(threshold=lambda p, q, r, d, i: r[i])),
    Mutant("certain: draft zeroed too early", "point_mass", "the draft's mass is removed before it is judged", "vllm-ascend PR 2881", wrong.point_mass_with(accept=lambda row, x: 0 * row[x])),
    Mutant("certain: target residual", "point_mass", "a rejected draft may come back", "", wrong.point_mass_with(residual=lambda row, x: row)),
    Mutant("certain: accepts everything", "point_mass", "every draft is accepted", "", wrong.point_mass_with(accept=lambda row, x: 1)),
    Mutant("certain: accepts the argmax", "point_mass", "accepts iff the draft is p's argmax", "", wrong.point_mass_with(accept=lambda row, x: int(x == argmax(row)))),
    Mutant("match: next row", "sample_and_match", "the sample comes from the next row", "openvino.genai issue 4190", wrong.match_against(lambda p, i: p[wrong.next_row(i, p)])),
    Mutant("match: resampled", "sample_and_match", "a mismatch is replaced by a second sample", "", wrong.match_then_target),
    Mutant("match: first row", "sample_and_match", "every position samples p's first row", "", wrong.match_against(lambda p, i: p[0])),
    Mutant("greedy: last among equals", "greedy", "another tie-break than the target's", "vllm issue 7627", wrong.greedy_last_tie),
    Mutant("greedy: next row", "greedy", "on a mismatch the next row's argmax", "", wrong.greedy_shifted),
    Mutant("coupled: fresh noise", "coupled", "the target samples with noise of its own (lossless, accepts less)", "", chains.sample_and_match),
)  # fmt: skip
"""Wrong chain verifiers."""


def mutants_of(algorithm: str) -> tuple[Mutant, ...]:
    """The mutants that claim to be an algorithm."""
    return tuple(mutant for mutant in MUTANTS if mutant.claims == algorithm)


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


def controls_of(algorithm: str | None) -> tuple[Mutant, ...]:
    """The controls of a claim: an algorithm's, or those of losslessness alone (None, and rules that have none)."""
    names = LOSSLESS_CONTROLS if algorithm is None else CONTROLS.get(algorithm, LOSSLESS_CONTROLS)
    return tuple(mutant for name in names for mutant in MUTANTS if mutant.name == name)
