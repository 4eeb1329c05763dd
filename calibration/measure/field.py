"""A law and a Gaussian process over what it leaves: times between measured points, with leave-one-out errors."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.cost.shapes import Floats

LENGTHS = (0.5, 1.0, 2.0, 4.0)
NUGGETS = (0.02, 0.1, 0.3, 0.6, 0.95)


@dataclass(frozen=True, eq=False)
class Field:
    """Residuals [N] of ln(time) at ``places`` [N, D], with covariance ``exp(-distance / length)`` and a nugget.

    ``left_out`` are the residuals that remain when each point is predicted from the others (in closed form).
    """

    places: Floats
    residuals: Floats
    length: float
    nugget: float
    weights: Floats
    left_out: Floats

    def at(self, places: Floats) -> Floats:
        """Expected residual at ``places`` [M, D]: shrinks to zero far from what was measured."""
        return np.asarray((1.0 - self.nugget) * np.exp(-_distance(places, self.places) / self.length) @ self.weights)


def fit_field(places: Floats, residuals: Floats, *, groups: Floats | None = None) -> Field:
    """The field whose length and nugget leave the smallest median error when a point is left out.

    groups: labels [N]; whole groups are left out together then, and ``left_out`` is of that.
    """
    length, nugget = _covariance(places, residuals, groups)
    correlation = np.exp(-_distance(places, places) / length)
    _, weights, left = _solve(correlation, nugget, residuals, groups)
    return Field(places, residuals, length, nugget, weights, left)


MOST_TRIED = 500
"""Points that lengths and nuggets are compared on: more change the choice little, and take their cube in time."""


def _covariance(places: Floats, residuals: Floats, groups: Floats | None) -> tuple[float, float]:
    if residuals.size > MOST_TRIED:
        kept = np.random.default_rng(0).permutation(residuals.size)[:MOST_TRIED]
        places, residuals, groups = places[kept], residuals[kept], None if groups is None else groups[kept]
    best, chosen = np.inf, (LENGTHS[0], NUGGETS[0])
    for length in LENGTHS:
        correlation = np.exp(-_distance(places, places) / length)
        for nugget in NUGGETS:
            error = float(np.median(np.abs(_solve(correlation, nugget, residuals, groups)[2])))
            if error < best:
                best, chosen = error, (length, nugget)
    return chosen


def _solve(
    correlation: Floats, nugget: float, residuals: Floats, groups: Floats | None
) -> tuple[Floats, Floats, Floats]:
    """Inverse covariance, weights, and the residuals that are left when points (or groups) are left out."""
    covariance = (1.0 - nugget) * correlation
    covariance[np.diag_indices_from(covariance)] = 1.0
    inverse = np.linalg.inv(covariance)
    weights = inverse @ residuals
    return inverse, weights, weights / np.diag(inverse) if groups is None else _without_groups(inverse, weights, groups)


def _without_groups(inverse: Floats, weights: Floats, groups: Floats) -> Floats:
    """Errors of each group from all others: ``inverse[g, g]^-1 weights[g]``."""
    left = np.empty(weights.size)
    for label in np.unique(groups):
        mine = np.flatnonzero(groups == label)
        left[mine] = np.linalg.solve(inverse[np.ix_(mine, mine)], weights[mine])
    return left


def _distance(a: Floats, b: Floats) -> Floats:
    return np.asarray(np.sqrt(np.maximum(((a[:, None, :] - b[None, :, :]) ** 2).sum(axis=2), 0.0)))


def conformal_quantiles(residuals: Floats, probabilities: Floats) -> list[float]:
    """Quantiles of held-out residuals, each end moved out by one sample's rank so that few samples promise less.

    Split conformal prediction's correction: the quantile at 1 - a is the ceil((n + 1)(1 - a))-th smallest of n.
    """
    known = np.sort(residuals[np.isfinite(residuals)])
    n = known.size
    if not n:
        return [0.0] * probabilities.size
    rank = np.where(probabilities > 0.5, np.ceil((n + 1) * probabilities), np.floor((n + 1) * probabilities))
    rank = np.where(probabilities == 0.5, (n + 1) / 2.0, rank)
    return [round(float(q), 4) for q in np.interp(np.clip(rank, 1, n), np.arange(1, n + 1), known)]


def jump(residuals: Floats, mask: NDArray[np.bool_]) -> float:
    """How far the residuals in ``mask`` lie above the others, as medians: a vector takes another kernel than a matrix.

    0 where fewer than three of either are known.
    """
    if mask.sum() < 3 or (~mask).sum() < 3:
        return 0.0
    return float(np.median(residuals[mask]) - np.median(residuals[~mask]))
