"""Other people's verifiers as samplers that the oracle can judge. torch is imported only where theirs needs it."""

# ruff: noqa: ARG002 - samplers share one signature

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.verification.batched import Emitted, Floats, Ints
from specsim.verification.guarded import as_array


@dataclass(frozen=True)
class HuggingFace:
    """transformers' ``_speculative_sampling(candidate_input_ids, candidate_logits, candidate_length, new_logits)``.

    Made for the signature of 4.47 to 5.23 (without ``last_assistant_token_is_eos``), which takes one row at a time and
    returns the emitted tokens with the number of matches. Probabilities go in as logits. ``inject`` replaces
    ``torch.rand_like`` and ``torch.multinomial`` while it runs, so the law is found exactly.
    """

    function: Callable[..., Any]

    def __call__(
        self, target_probs: Floats, draft_probs: Floats, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Run row by row, torch's global generator seeded from ``rng``."""
        import torch

        torch.manual_seed(int(rng.integers(2**62)))
        return self._rows(target_probs, draft_probs, draft_tokens, lambda _: _unpatched())

    def inject(
        self, target_probs: Floats, draft_probs: Floats, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        """Run row by row with the caller's coins."""
        return self._rows(
            target_probs, draft_probs, draft_tokens, lambda row: _torch_coins(uniforms[row], float(final[row]))
        )

    def _rows(self, p: Floats, q: Floats, drafts: Ints, coins: Callable[[int], Any]) -> Emitted:
        import torch

        tokens, counts = np.full(p.shape[:2], -1, dtype=np.int64), np.zeros(len(p), dtype=np.int64)
        with np.errstate(divide="ignore"):
            target, draft = torch.from_numpy(np.log(p)), torch.from_numpy(np.log(q))
        ids = torch.from_numpy(drafts)
        for row in range(len(p)):
            with coins(row):
                valid, _ = self.function(
                    ids[row : row + 1], draft[row : row + 1], drafts.shape[1], target[row : row + 1]
                )
            emitted = as_array(valid)[0]
            tokens[row, : len(emitted)], counts[row] = emitted, len(emitted)
        return tokens, counts


@contextmanager
def _unpatched() -> Iterator[None]:
    yield


@contextmanager
def _torch_coins(uniforms: Floats, final: float) -> Iterator[None]:
    """Let torch's ``rand_like`` give ``uniforms``, its ``multinomial`` invert the cumulative weights at ``final``."""
    import torch

    kept = torch.rand_like, torch.multinomial

    def rand_like(like: Any, **_: Any) -> Any:
        return torch.as_tensor(uniforms[: like.numel()], dtype=like.dtype).reshape(like.shape)

    def multinomial(weights: Any, *_: Any, **__: Any) -> Any:
        if not bool(torch.isfinite(weights).all()) or not float(weights.sum()) > 0:
            raise RuntimeError("multinomial was given weights that can't be drawn from")
        reached = torch.cumsum(weights, dim=-1)
        found = torch.searchsorted(reached, final * reached[..., -1:], right=True)
        return found.clamp(max=weights.shape[-1] - 1)

    torch.rand_like, torch.multinomial = rand_like, multinomial  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.rand_like, torch.multinomial = kept


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
