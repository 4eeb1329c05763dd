"""A number with the range that it plausibly lies in."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEVEL = 0.9
"""Share of plausible outcomes between ``low`` and ``high``."""


@dataclass(frozen=True)
class Estimate:
    """A value with the ends of its 90 % interval, in the value's own unit."""

    value: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, draws: ArrayLike) -> Estimate:
        """The estimate whose interval is read from ``draws`` of the same quantity; it always contains the value."""
        low, high = bounds(draws)
        return cls(float(value), min(float(low), float(value)), max(float(high), float(value)))

    def to_dict(self) -> dict[str, float]:
        """The three numbers by name."""
        return {"value": self.value, "low": self.low, "high": self.high}


def bounds(draws: ArrayLike, *, level: float = LEVEL) -> tuple[NDArray[Any], NDArray[Any]]:
    """Lower and upper ends of the central ``level`` interval of ``draws`` along their last axis."""
    tail = (1.0 - level) / 2.0
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1.0 - tail], axis=-1)
    return low, high
