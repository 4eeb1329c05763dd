"""Samplers that are right on most inputs and wrong on some: negative controls of the metamorphic levels.

Each has the declared law on every case of the suite, so that only the relation named in ``finding`` shows what is
wrong.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np

from specsim.verification.batched import Emitted, Floats, Ints, inverse_cdf, or_else, token

Verifier = Callable[[Floats, "Floats | None", Ints, np.random.Generator], Emitted]
Injector = Callable[[Floats, "Floats | None", Ints, Floats, Floats], Emitted]


@dataclass(frozen=True)
class InputMutant:
    """A sampler of the token rule that is wrong on some inputs: what is wrong, where it was seen, what finds it."""

    name: str
    wrong: str
    seen: str
    finding: str
    call: Verifier
    level: Literal["metamorphic", "ragged", "hostile"] = "metamorphic"
    takes: Literal["probabilities", "logits"] = "probabilities"

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Verify a batch."""
        return self.call(target_probs, draft_probs, draft_tokens, rng)


@dataclass(frozen=True)
class InjectedMutant(InputMutant):
    """An ``InputMutant`` that takes its coins from the caller too."""

    injected: Injector = token.inject

    def inject(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        """Verify a batch with the caller's coins."""
        return self.injected(target_probs, draft_probs, draft_tokens, uniforms, final)


def _one_seed(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    return token(p, q, d, np.random.default_rng(int(rng.integers(2**40)) % 1))


def _changes_rows(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    answer = token(p, q, d, rng)
    p /= 2.0
    return answer


def _refuses_equal_rows(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    rest = np.maximum(p[:, : d.shape[1]] - (0.0 if q is None else q), 0.0).sum(axis=2)
    if rest.size > 1 and (rest < 1e-12).all():
        raise ValueError("probability tensor contains nan")
    return token(p, q, d, rng)


def _certain_rows_by_the_draft(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    tokens, counts = token(p, q, d, rng)
    if q is not None and d.shape[1]:
        cold = (p[:, 0].max(axis=1) > 1 - 1e-6) & ((p[:, 0] > 0).sum(axis=1) > 1) & (counts == 1)
        tokens[cold, 0] = q[cold, 0].argmax(axis=1)
    return tokens, counts


def _first_tile(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    tile = p.copy()
    tile[:, :, 128:] = 0.0
    seen = tile.sum(axis=2, keepdims=True) > 0
    return token(np.where(seen, tile, p), q, d, rng)


def _greedy_without_drafts(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    if d.shape[1]:
        return token(p, q, d, rng)
    return p[:, 0].argmax(axis=1)[:, None], np.ones(len(p), dtype=np.int64)


def _one_from_the_target(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    tokens, counts = token(p, q, d, rng)
    if len(p) == 1 and counts[0] <= d.shape[1]:
        at = counts - 1
        tokens[0, at] = inverse_cdf(p[0, at], rng.random(1))
    return tokens, counts


def _pair_shares_a_row(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    return token(np.repeat(p[:1], 2, axis=0) if len(p) == 2 else p, q, d, rng)


def _one_by_the_first_coin(p: Floats, q: Floats | None, d: Ints, uniforms: Floats, final: Floats) -> Emitted:
    if len(p) == 1 and d.shape[1]:
        uniforms = np.repeat(uniforms[:, :1], d.shape[1], axis=1)
    return token.inject(p, q, d, uniforms, final)


def _logits_not_normalised(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    return token(np.exp(p), None if q is None else np.minimum(np.exp(q), 1.0), d, rng)


def _absent_is_last(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    return token(p, q, np.where(d < 0, p.shape[2] - 1, d), rng)


def _reads_padding(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    tokens, counts = token(p, q, d, rng)
    full = (d >= 0).sum(axis=1) == counts - 1
    tokens[full, counts[full] - 1] = inverse_cdf(p[full, -1], rng.random(int(full.sum())))
    return tokens, counts


def _subtracts_padding(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    """An absent draft is a rejected one: its residual takes the draft row that lies there off the target's."""
    tokens, counts = token(p, q, d, rng)
    full = ((d >= 0).sum(axis=1) == counts - 1) & (counts <= d.shape[1])
    if q is not None and full.any():
        at = counts[full] - 1
        rest = np.maximum(p[full, at] - q[full, at], 0.0)
        tokens[full, at] = inverse_cdf(or_else(rest, p[full, at]), rng.random(len(at)))
    return tokens, counts


def _coins_shift(p: Floats, q: Floats | None, d: Ints, uniforms: Floats, final: Floats) -> Emitted:
    """Coins are handed out in order of the drafts that are there, whichever row they belong to."""
    kept = uniforms.copy()
    there = d >= 0
    kept[there] = uniforms.reshape(-1)[: int(there.sum())]
    return token.inject(p, q, d, kept, final)


def _padding_gets_mass(p: Floats, q: Floats | None, d: Ints, uniforms: Floats, final: Floats) -> Emitted:
    tokens, counts = token.inject(p, q, d, uniforms, final)
    idle = (p.sum(axis=1) == 0).sum(axis=1)
    tokens[idle > 2, 0] = p.shape[2] - 1
    return tokens, counts


def _row_of_the_neighbour(p: Floats, q: Floats | None, d: Ints, uniforms: Floats, final: Floats) -> Emitted:
    return token.inject(p, q, d, uniforms, np.roll(final, 1))


def _largest_or_padding(p: Floats, q: Floats | None, d: Ints, rng: np.random.Generator) -> Emitted:
    tokens, counts = token(p, q, d, rng)
    lost = np.isnan(p).any(axis=(1, 2))
    tokens[lost, 0], counts[lost] = p.shape[2], 1
    return tokens, counts


INPUT_MUTANTS: tuple[InputMutant, ...] = (
    InputMutant("one seed", "every call starts from the same seed", "vllm issue 13196", "seed_ignored", _one_seed),
    InputMutant("rows changed", "target rows are scaled in place", "vllm PR 16952", "mutates_inputs", _changes_rows),
    InputMutant(
        "equal rows refused",
        "an empty residual becomes NaN and raises",
        "transformers' verifier on logits shifted by a constant",
        "fails_on_equal_rows",
        _refuses_equal_rows,
    ),
    InputMutant(
        "cold rows by the draft",
        "a nearly certain target row takes a greedy path, on the draft's row",
        "",
        "greedy_limit_missed",
        _certain_rows_by_the_draft,
    ),
    InputMutant(
        "first tile only",
        "tokens from 128 on are left out",
        "GHSA-8wr5-jm2h-8r4f",
        "vocabulary_labels_matter",
        _first_tile,
    ),
    InputMutant(
        "greedy without drafts",
        "a batch without drafts is decoded by argmax",
        "vllm-ascend issue 13608",
        "no_drafts_matter",
        _greedy_without_drafts,
    ),
    InputMutant(
        "one row replaced from the target",
        "a batch of one is squeezed, and a rejected draft replaced from p",
        "",
        "small_batches_matter",
        _one_from_the_target,
    ),
    InputMutant(
        "two rows share the first's target",
        "a batch of two is broadcast from its first row",
        "",
        "small_batches_matter",
        _pair_shares_a_row,
    ),
    InjectedMutant(
        "one row, one coin",
        "a batch of one is judged by its first coin everywhere",
        "",
        "batch_dependence",
        token,
        injected=_one_by_the_first_coin,
    ),
    InputMutant(
        "logits not normalised",
        "exp of the logits is taken for probabilities",
        "",
        "shifted_logits_matter",
        _logits_not_normalised,
        takes="logits",
    ),
    InjectedMutant(
        "padding gets mass",
        "an unused token at the end of the vocabulary is emitted",
        "GHSA-8wr5-jm2h-8r4f",
        "vocabulary_padding_matters",
        token,
        injected=_padding_gets_mass,
    ),
    InjectedMutant(
        "neighbour's coin",
        "the last token's coin is the row's before",
        "flashinfer PR 425",
        "row_order_matters",
        token,
        injected=_row_of_the_neighbour,
    ),
    InputMutant(
        "absent drafts are tokens",
        "-1 indexes the vocabulary's last token",
        "",
        "count_out_of_range",
        _absent_is_last,
        "ragged",
    ),
    InputMutant(
        "bonus from the padding",
        "a shorter row's bonus comes from the last row of the padded batch",
        "TensorRT-LLM PR 15098",
        "padded_drafts_matter",
        _reads_padding,
        "ragged",
    ),
    InputMutant(
        "an absent draft is rejected",
        "a shorter row's bonus comes from the residual of the draft row that pads it",
        "",
        "padded_drafts_matter",
        _subtracts_padding,
        "ragged",
    ),
    InjectedMutant(
        "empty rows move the coins",
        "a row without drafts leaves its coins to the next",
        "vllm-ascend issue 13608",
        "padded_drafts_matter",
        token,
        "ragged",
        injected=_coins_shift,
    ),
    InputMutant(
        "NaN gives padding",
        "the argmax of NaN is a token beyond the vocabulary",
        "vllm-ascend PR 14042",
        "unsafe_on_nan_rows",
        _largest_or_padding,
        "hostile",
    ),
)
"""Wrong on some inputs, right on every case of the suite."""
