"""Intervals from joint draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.simulation.intervals import LEVEL, Estimate

Floats = NDArray[np.float64]

DRAWS = 400
"""Joint draws behind every interval of a plan: the ends of a 90 % interval then move by a few percent of its width."""


def estimate(value: float, draws: ArrayLike) -> Estimate:
    """The value with the central 90 % of ``draws`` of the same quantity; the interval always contains the value."""
    return Estimate(*(float(x) for x in intervals(value, draws)))


def intervals(values: ArrayLike, draws: ArrayLike) -> tuple[Floats, Floats, Floats]:
    """Values with the ends of their intervals, elementwise: ``draws`` has one more axis, the last."""
    value = np.asarray(values, dtype=np.float64)
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1.0 - tail], axis=-1)
    return value, np.minimum(low, value), np.maximum(high, value)
