"""Intervals from joint draws."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from specsim.simulation.intervals import LEVEL, Estimate

DRAWS = 400
"""Joint draws behind every interval of a plan: the ends of a 90 % interval then move by a few percent of its width."""


def estimate(value: float, draws: ArrayLike) -> Estimate:
    """The value with the central 90 % of ``draws`` of the same quantity; the interval always contains the value."""
    tail = (1.0 - LEVEL) / 2.0
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1.0 - tail])
    return Estimate(float(value), min(float(low), float(value)), max(float(high), float(value)))
