"""The closed-form load of one replica: how many requests decode at once at a given rate, and how fast they go."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LoadCurve:
    """Rate and time per output token of a replica whose decode batch holds steadily at each of ``batches``.

    Each request occupies a slot for its rounds. Prefill takes its own time out of the engine
    (``prefill_s`` a request), which stretches every round by 1 / (1 - rate * prefill_s). Little's law then gives

        rate(B) = B / (rounds * round_s(B) + B * prefill_s),    TPOT = B / (rate * (output - 1)),

    with rounds = (output - 1) / tokens_per_round, since the prefill's own step emits the first token.

    batches: (n,) ascending. round_s: (n,) seconds of a decode iteration at that batch.
    Fields hold requests per second and seconds per output token, shape (n,).
    """

    batches: Floats
    rate_per_s: Floats
    seconds_per_token: Floats

    @property
    def max_rate_per_s(self) -> float:
        """The largest rate that any batch sustains."""
        return float(self.rate_per_s.max())

    def batch_at(self, rate_per_s: float) -> float | None:
        """The smallest steady batch that sustains the rate (interpolated), or None where no batch does."""
        reached = np.maximum.accumulate(self.rate_per_s)
        if rate_per_s > reached[-1]:
            return None
        return float(np.interp(rate_per_s, np.r_[0.0, reached], np.r_[0.0, self.batches]))

    def seconds_per_token_at(self, rate_per_s: float) -> float | None:
        """Mean seconds per output token at the rate, or None where the replica cannot sustain it."""
        batch = self.batch_at(rate_per_s)
        return None if batch is None else float(np.interp(batch, self.batches, self.seconds_per_token))

    def max_rate_within(self, seconds_per_token: float) -> float:
        """The largest rate at a batch whose tokens come at least that fast; 0 where none does."""
        meets = self.seconds_per_token <= seconds_per_token
        return float(self.rate_per_s[meets].max()) if meets.any() else 0.0


def load_curve(
    batches: ArrayLike, round_s: ArrayLike, *, tokens_per_round: float, output_tokens: float, prefill_s: float
) -> LoadCurve:
    """The load curve from the round times of a program; see `LoadCurve` for the law."""
    size = np.asarray(batches, dtype=np.float64)
    seconds = np.asarray(round_s, dtype=np.float64)
    after_first = max(output_tokens - 1.0, 1.0)
    residence = after_first / tokens_per_round * seconds + size * prefill_s
    return LoadCurve(size, size / residence, residence / after_first)
