"""Step time, speedup and break-even of one drafter over draft length, batch size and context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.cost.shapes import StepTime
from specsim.simulation.program import Batch, RoundProgram
from specsim.theory.speedup import break_even_length, speedup

Floats = NDArray[np.float64]
Sampler = Callable[[StepTime], Floats]
"""Plausible totals of a step: shape of the step + (draws,), with shared draws between calls."""


@dataclass(frozen=True)
class Grid:
    """Seconds of a round and the tokens that it yields, K = 0 first.

    lengths: (K,) draft lengths, the first one 0. batches: (B,). contexts: (C,) cached tokens a sequence.
    round_s: (K, B, C); round_draws_s: (K, B, C, n), one joint draw along the last axis.
    tokens: (K,) tokens per round, NaN without acceptance evidence; token_draws: (K, n).
    trust: (K, B, C), the worst layer that answered.
    """

    lengths: NDArray[np.int64]
    batches: Floats
    contexts: Floats
    round_s: Floats
    round_draws_s: Floats
    tokens: Floats
    token_draws: Floats
    trust: NDArray[np.int8]

    @property
    def speedup(self) -> Floats:
        """Output tokens per second over those of plain decoding at the same batch and context; (K, B, C)."""
        return speedup(self.tokens[:, None, None], self.round_s, self.round_s[0])

    @property
    def speedup_draws(self) -> Floats:
        """Plausible speedups, (K, B, C, n): each divides times of the same joint draw."""
        return speedup(self.token_draws[:, None, None, :], self.round_draws_s, self.round_draws_s[0])

    @property
    def break_even(self) -> Floats:
        """Acceptance length (bonus included) above which speculation is faster than plain decoding; (K, B, C)."""
        return break_even_length(self.round_s, self.round_s[0])

    @property
    def break_even_draws(self) -> Floats:
        """Plausible break-even lengths, (K, B, C, n)."""
        return break_even_length(self.round_draws_s, self.round_draws_s[0])


def grid(
    programs: Mapping[int, RoundProgram],
    *,
    batches: Floats,
    contexts: Floats,
    sample: Sampler,
    tokens: Mapping[int, float] | None,
    token_draws: Mapping[int, Floats] | None,
    draws: int,
) -> Grid:
    """Price every program (by draft length; 0 is plain decoding) on the whole batch-by-context plane."""
    lengths = sorted(programs)
    size = np.asarray(batches, dtype=np.float64)[:, None]
    plane = Batch(sequences=size, kv_tokens=size * np.asarray(contexts, dtype=np.float64)[None, :])
    shape = (len(batches), len(contexts))
    times = [programs[k].time(plane) for k in lengths]
    none = float("nan")
    return Grid(
        lengths=np.array(lengths),
        batches=np.asarray(batches, dtype=np.float64),
        contexts=np.asarray(contexts, dtype=np.float64),
        round_s=np.stack([np.broadcast_to(t.total_s, shape) for t in times]),
        round_draws_s=np.stack([np.broadcast_to(sample(t), (*shape, draws)) for t in times]),
        tokens=np.array([1.0 if k == 0 else tokens[k] if tokens else none for k in lengths]),
        token_draws=np.stack(
            [np.ones(draws) if k == 0 else token_draws[k] if token_draws else np.full(draws, none) for k in lengths]
        ),
        trust=np.stack([np.broadcast_to(t.trust, shape) for t in times]),
    )


def best_lengths(speed: Floats, lengths: NDArray[np.int64], *, worth: float = 0.02) -> NDArray[np.int64]:
    """Draft length to use at each point along an axis of load, in as few changes as ``worth`` allows; shape (n,).

    speed: (K, n) speedups, row 0 plain decoding. A length is good enough where it is within ``worth`` of the fastest;
    from the lightest load on, the one that stays good enough longest is kept (the shorter of two), then the next.
    Measured step times have steps of their own, and a schedule that follows each of them helps nobody.
    """
    good = speed >= speed.max(axis=0) * (1.0 - worth)
    good[0] = speed.max(axis=0) <= 1.0  # plain decoding exactly where nothing beats it
    good[1:] &= speed[1:] > 1.0
    chosen = np.zeros(speed.shape[1], dtype=np.int64)
    start = 0
    while start < len(chosen):
        ends = np.where(good[:, start:], 1, 0).cumprod(axis=1).sum(axis=1)
        at = int(np.argmax(ends))
        chosen[start : start + int(ends[at])] = lengths[at]
        start += int(ends[at])
    return chosen


def off_above(lengths: NDArray[np.int64], axis: Floats) -> float | None:
    """Where speculation should be off from there on: the first point of ``axis`` after the last positive length.

    lengths: (n,) chosen lengths along ``axis``. None where speculation pays up to the end; ``axis[0]`` where nowhere.
    """
    pays = np.flatnonzero(lengths > 0)
    if len(pays) == 0:
        return float(axis[0])
    return None if pays[-1] == len(axis) - 1 else float(axis[pays[-1] + 1])
