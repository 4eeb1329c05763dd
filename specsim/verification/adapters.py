"""Other calling conventions as samplers that the oracle can judge; published engines' own code is in ``engines``."""

# ruff: noqa: ARG002 - samplers share one signature

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.verification.batched import Emitted, Floats, Ints
from specsim.verification.guarded import as_array


@dataclass(frozen=True)
class RowByRow:
    """A verifier of one row: ``function(target [G+1, V], draft [G, V], drafts [G], rng) -> emitted tokens``."""

    function: Callable[..., Any]

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Run it on every row; a draft row of None stays None."""
        rows = (
            self.function(target_probs[row], None if draft_probs is None else draft_probs[row], draft_tokens[row], rng)
            for row in range(len(target_probs))
        )
        return _padded(rows, *target_probs.shape[:2])


@dataclass(frozen=True)
class TokensAndLengths:
    """A batch verifier that returns emitted tokens in one flat array and the length of each row's part."""

    function: Callable[..., Any]

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Call it once and cut the flat tokens into rows; lengths that don't fit are left for the oracle to find."""
        flat, lengths = self.function(target_probs, draft_probs, draft_tokens, rng)
        tokens, counts = as_array(flat).reshape(-1), as_array(lengths).astype(np.int64)
        if counts.sum() != len(tokens) or len(counts) != len(target_probs):
            raise ValueError(f"{len(tokens)} tokens for lengths that sum to {counts.sum()} in {len(counts)} rows")
        return _padded(np.split(tokens, np.cumsum(counts)[:-1]), *target_probs.shape[:2])


@dataclass(frozen=True)
class SampleAndMatch:
    """A target sampler ``sample(probs [N, V], rng) -> tokens [N]`` used as llama.cpp does: emit, go on while it
    matches.
    """

    sample: Callable[..., Any]

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Sample every position of the target and keep what matches, plus one."""
        from specsim.verification.batched import emit, leading

        rows, width, vocab = target_probs.shape
        own = as_array(self.sample(target_probs.reshape(-1, vocab), rng)).astype(np.int64).reshape(rows, width)
        accepted = leading(own[:, :-1] == draft_tokens)
        return emit(own[:, :-1], accepted, own[np.arange(rows), accepted])


def _padded(rows: Any, count: int, width: int) -> Emitted:
    tokens, counts = np.full((count, width), -1, dtype=np.int64), np.zeros(count, dtype=np.int64)
    for row, emitted in enumerate(rows):
        emitted = as_array(emitted).reshape(-1)
        counts[row] = len(emitted)
        tokens[row, : min(len(emitted), width)] = emitted[:width]
    return tokens, counts
