"""Estimates with confidence intervals, from several runs or from one correlated run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

LEVEL = 0.9
_BOOTSTRAP_UP_TO = 20_000
_BATCHES = 20
_RESAMPLES = 200
_SEED = 1997
"""The bootstrap's own stream: an interval doesn't change from one look to the next."""


@dataclass(frozen=True)
class Estimate:
    """A value and the ends of its 90 % interval, in the value's own unit."""

    value: float
    low: float
    high: float

    def to_dict(self) -> dict[str, float]:
        """The three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}

    def around(self, value: float) -> Estimate:
        """The same half-widths about another value."""
        return Estimate(value, value - (self.value - self.low), value + (self.high - self.value))


def across(values: Sequence[float], *, least: int = 5) -> Estimate:
    """Mean of independent values with Student's t interval; fewer than ``least`` give no width."""
    mean = float(np.mean(values))
    n = len(values)
    if n < least or n < 2:
        return Estimate(mean, mean, mean)
    half = _t(n - 1) * float(np.std(values, ddof=1)) / np.sqrt(n)
    return Estimate(mean, mean - half, mean + half)


def within(runs: Sequence[Floats], quantiles: Sequence[float]) -> tuple[Estimate, ...]:
    """Mean and quantiles of values that are correlated in sequence; shape (1 + quantiles).

    A moving-block bootstrap (Kuensch 1989), blocks of the square root of the run's length; for long runs the spread of
    the same statistics over 20 batches, which costs no resampling.
    """
    whole = _five(np.concatenate(runs), quantiles)
    if max(len(v) for v in runs) > _BOOTSTRAP_UP_TO:
        pieces = np.array(
            [_five(piece, quantiles) for v in runs for piece in np.array_split(v, _BATCHES) if len(piece)]
        )
        half = _t(len(pieces) - 1) * pieces.std(axis=0, ddof=1) / np.sqrt(len(pieces))
        return tuple(Estimate(float(w), float(w - h), float(w + h)) for w, h in zip(whole, half, strict=True))
    rng = np.random.default_rng(_SEED)
    draws = np.array([_five(np.concatenate([_resampled(v, rng) for v in runs]), quantiles) for _ in range(_RESAMPLES)])
    low, high = np.quantile(draws, [(1 - LEVEL) / 2, (1 + LEVEL) / 2], axis=0)
    return tuple(
        Estimate(float(w), float(min(lo, w)), float(max(hi, w))) for w, lo, hi in zip(whole, low, high, strict=True)
    )


def _five(values: Floats, quantiles: Sequence[float]) -> Floats:
    return np.concatenate([[values.mean()], np.quantile(values, quantiles)])


def _resampled(values: Floats, rng: np.random.Generator) -> Floats:
    n = len(values)
    block = max(1, round(n**0.5))
    starts = rng.integers(0, n - block + 1, size=-(-n // block))
    picked: Floats = values[(starts[:, None] + np.arange(block)[None, :]).ravel()[:n]]
    return picked


def _t(freedom: int) -> float:
    from scipy.special import stdtrit

    return float(stdtrit(freedom, (1 + LEVEL) / 2))
