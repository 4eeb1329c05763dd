"""Matrix products: measured curves over rows, borrowed between shapes by kriging the law's residual."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from specsim.cost.law import Law, gemm_work, non_decreasing
from specsim.cost.shapes import Floats, Trust

NEIGHBOURS = 24
"""Shapes that an unmeasured one borrows from; more change nothing within the covariance's reach."""

PADDED_ROWS = 512.0
"""Rows up to which vLLM pads a pass to a captured size."""

CLOSEST_ROWS = 32.0
"""The tables' spacing of rows between 128 and 256, where tiles are told apart."""


@dataclass(frozen=True, eq=False)
class GemmTable:
    """Times of ``[m, k] x [k, n]`` on a grid of m for the measured (n, k).

    rows: [M] grid of m. shapes: [S, 2] of (n, k). seconds: [S, M], NaN where filtered. ``length`` (in e-folds of n
    and k) and ``nugget`` (share of the residual's variance that is noise) are the covariance's, from cross-validation.
    """

    dtype: str
    law: Law
    rows: Floats
    shapes: NDArray[np.float64]
    seconds: Floats
    length: float
    nugget: float
    measured: NDArray[np.bool_] | None = None
    """[S, M], where only part of the grid was measured and the rest estimated when it was fitted."""

    def curve(self, n: int, k: int) -> tuple[Floats, Trust]:
        """Seconds at every m of ``rows`` for the shape (n, k), and whether it was measured or borrowed."""
        if (n, k) not in self._curves:
            self._curves[n, k] = self._curve(n, k)
        return self._curves[n, k]

    def _curve(self, n: int, k: int) -> tuple[Floats, Trust]:
        law = self.law.seconds(*gemm_work(self.rows, n, k, self.dtype))
        found = np.flatnonzero((self.shapes[:, 0] == n) & (self.shapes[:, 1] == k))
        if found.size:
            return law * np.exp(self._residuals[found[0]]), Trust.MEASURED
        residual = krige(np.log([n, k]), self._places, self._residuals, length=self.length, nugget=self.nugget)
        near = np.min(np.hypot(*(self._places - np.log([n, k])).T)) < 2.0 * self.length
        return law * np.exp(residual), Trust.BORROWED if near else Trust.PARAMETRIC

    def measured_at(self, n: int, k: int) -> NDArray[np.bool_]:
        """Which of ``rows`` were measured for the shape (n, k)."""
        found = np.flatnonzero((self.shapes[:, 0] == n) & (self.shapes[:, 1] == k))
        if not found.size:
            return np.zeros(self.rows.size, dtype=np.bool_)
        return np.ones(self.rows.size, dtype=np.bool_) if self.measured is None else self.measured[found[0]]

    def beyond(self, n: int, k: int, rows: float) -> float:
        """The law's time at ``rows`` over its time at the grid's end: how curves go on past what was measured."""
        end = self.law.seconds(*gemm_work(self.rows[-1], n, k, self.dtype))
        return float(self.law.seconds(*gemm_work(rows, n, k, self.dtype)) / end)

    @cached_property
    def _curves(self) -> dict[tuple[int, int], tuple[Floats, Trust]]:
        return {}

    @cached_property
    def _places(self) -> Floats:
        return np.log(self.shapes)

    @cached_property
    def _residuals(self) -> Floats:
        law = self.law.seconds(*gemm_work(self.rows[None, :], self.shapes[:, :1], self.shapes[:, 1:], self.dtype))
        return fill(np.log(self.seconds / law), np.log(self.rows))


def smoothed(rows: Floats, seconds: Floats) -> Floats:
    """The nearest curve over ``rows`` that never falls.

    A kernel can take longer one row into a tile than with the tile filled. Up to ``PADDED_ROWS`` a measurement weighs
    as the rows since the one before it, ``CLOSEST_ROWS`` at least: 257 rows don't weigh what 258 to 512 do. Beyond,
    prompts bring any number of rows to tiles that no table tells apart: all weigh alike.
    """
    weights = np.maximum(np.diff(rows, prepend=0.0), CLOSEST_ROWS)
    return non_decreasing(seconds, np.where(rows > PADDED_ROWS, PADDED_ROWS / 2.0, weights))


def krige(place: Floats, places: Floats, residuals: Floats, *, length: float, nugget: float) -> Floats:
    """Simple kriging of residuals [S, ...] at ``places`` [S, D] to ``place`` [D], shrinking to zero far away.

    Covariance ``exp(-distance / length)``; a ``nugget`` share of the variance is noise of the single shape.
    """
    distance = np.sqrt(((places - place) ** 2).sum(axis=1))
    near = np.argsort(distance, kind="stable")[:NEIGHBOURS]
    between = np.sqrt(((places[near, None, :] - places[None, near, :]) ** 2).sum(axis=2))
    covariance = (1.0 - nugget) * np.exp(-between / length)
    covariance[np.diag_indices_from(covariance)] = 1.0
    weights = np.linalg.solve(covariance, (1.0 - nugget) * np.exp(-distance[near] / length))
    return np.asarray(np.tensordot(weights, residuals[near], axes=1), dtype=np.float64)


def fill(values: Floats, along: Floats) -> Floats:
    """Rows of ``values`` [S, M] with NaN replaced by interpolation over ``along`` [M] (held constant at the ends)."""
    filled = values.copy()
    missing = ~np.isfinite(filled)
    for i in np.flatnonzero(missing.any(axis=1) & ~missing.all(axis=1)):
        gaps = missing[i]
        filled[i, gaps] = np.interp(along[gaps], along[~gaps], filled[i, ~gaps])
    return filled
