"""What a simulation leaves behind: one row a request, and what the engine did meanwhile."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from specsim.simulation.work import Work

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Result:
    """Outcome of one run of one replica. Arrays have shape (requests,), in arrival order, unless stated.

    arrival_s, scheduled_s (first time in an iteration), first_token_s, finish_s: clock times in seconds.
    rounds: decode iterations. drafted, accepted: drafted tokens, and those that survived verification, counted before
    the output length cuts the last block (as vLLM counts them). preemptions: times its cache was dropped.

    itl_s, itl_count: gaps between a request's consecutive emissions (one gap a chunk, however many tokens it carries,
    as a streaming client sees them) and how many requests saw each; shape (gaps,).
    busy_s: time spent in iterations. mixed_iterations carried a prefill chunk. batch_s, cache_s: time integrals of
    decoding requests and of the share of usable blocks held; cache_max: the largest share. work: what ran in all.
    """

    arrival_s: Floats
    scheduled_s: Floats
    first_token_s: Floats
    finish_s: Floats
    prompt_tokens: Ints
    output_tokens: Ints
    rounds: Ints
    drafted: Ints
    accepted: Ints
    preemptions: Ints
    itl_s: Floats
    itl_count: Ints
    iterations: int
    mixed_iterations: int
    busy_s: float
    batch_s: float
    cache_s: float
    cache_max: float
    work: Work = field(default_factory=Work)

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last finish."""
        return float(self.finish_s.max() - self.arrival_s.min())

    @property
    def ttft_s(self) -> Floats:
        """Time to first token."""
        return self.first_token_s - self.arrival_s

    @property
    def e2e_s(self) -> Floats:
        """Arrival to last token."""
        return self.finish_s - self.arrival_s

    @property
    def tpot_s(self) -> Floats:
        """Time per output token after the first: (finish - first) / (output - 1); NaN for one-token outputs."""
        rest = self.output_tokens - 1
        return np.where(rest > 0, (self.finish_s - self.first_token_s) / np.maximum(rest, 1), np.nan)
