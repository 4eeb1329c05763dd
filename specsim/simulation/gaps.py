"""Gaps between emissions, collected while a run goes on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Gaps:
    """Gaps between emissions, each with how many requests saw it; doubles when full."""

    def __init__(self, size: int) -> None:
        self._seconds = np.empty(size)
        self._counts = np.empty(size, dtype=np.int64)
        self._used = 0

    def add(self, seconds: float, count: int) -> None:
        """One gap that ``count`` requests saw."""
        self._room(1)
        self._seconds[self._used] = seconds
        self._counts[self._used] = count
        self._used += 1

    def extend(self, seconds: Floats, count: int) -> None:
        """Several gaps, each seen by ``count`` requests."""
        self._room(len(seconds))
        end = self._used + len(seconds)
        self._seconds[self._used : end] = seconds
        self._counts[self._used : end] = count
        self._used = end

    def arrays(self) -> tuple[Floats, NDArray[np.int64]]:
        """Seconds and counts, in the order of time."""
        return self._seconds[: self._used].copy(), self._counts[: self._used].copy()

    def _room(self, more: int) -> None:
        if self._used + more > len(self._seconds):
            size = max(2 * len(self._seconds), self._used + more)
            self._seconds = np.concatenate([self._seconds[: self._used], np.empty(size - self._used)])
            self._counts = np.concatenate([self._counts[: self._used], np.empty(size - self._used, dtype=np.int64)])
