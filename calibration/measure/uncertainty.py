"""Which point to measure next: the one whose time is least known, given those that were."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from calibration.measure.points import Point

PRIOR_SD = {"gemm": 0.35, "attention": 0.35, "prefill": 0.3, "host": 0.5, "drawing": 0.5}
"""Spread of ln(time) around a law before anything is measured, by kind; others 0.3. The first two are the tails of
the laws' errors on public tables (calibration.build), half of which a law explains."""
LEAST_NOISE = 0.01
FEWEST = 4
"""Points of a kind without which there is no profile: they come first."""
MOST_VISITS = 3
"""Times that a point is measured at most: minutes apart, since what disturbs a machine lasts longer than a sample."""


class Unknown:
    """Predictive standard deviations of ln(time) at candidates under a Gaussian process within each family.

    Covariance ``sd^2 exp(-distance)`` between places; observing a point is a step of a pivoted Cholesky factorisation,
    so that choosing among M candidates after N points costs N M.
    """

    def __init__(self, points: Sequence[Point]) -> None:
        self.points = list(points)
        families: dict[tuple[object, ...], list[int]] = {}
        for index, point in enumerate(self.points):
            families.setdefault(point.family, []).append(index)
        self._index = {point: index for index, point in enumerate(self.points)}
        self._family = np.empty(len(self.points), dtype=np.intp)
        self._members, self._places, self._factors = [], [], []
        self.variance = np.empty(len(self.points))
        for number, members in enumerate(families.values()):
            self._family[members] = number
            self._members.append(np.array(members))
            self._places.append(np.array([self.points[i].place for i in members]))
            self._factors.append(np.empty((0, len(members))))
            self.variance[members] = PRIOR_SD.get(self.points[members[0]].kind, 0.3) ** 2
        self._prior = self.variance.copy()
        self._open = np.ones(len(self.points), dtype=np.bool_)
        self._visits = np.zeros(len(self.points), dtype=np.intp)
        self._mean = np.array([self._mean_of(members) for members in self._members])

    def observe(self, point: Point, noise: float) -> None:
        """``point`` was measured once more, with a relative standard error of ``noise``."""
        index = self._index[point]
        family = self._family[index]
        members, places, factors = self._members[family], self._places[family], self._factors[family]
        own = int(np.searchsorted(members, index))
        distance = np.sqrt(((places - places[own]) ** 2).sum(axis=1))
        column = self._prior[index] * np.exp(-distance) - factors[:, own] @ factors
        column /= np.sqrt(max(column[own], 0.0) + max(noise, LEAST_NOISE) ** 2)
        self._factors[family] = np.vstack([factors, column])
        self.variance[members] = np.maximum(self.variance[members] - column**2, 0.0)
        self._visits[index] += 1
        self._open[index] &= self._visits[index] < MOST_VISITS
        self._update(family)

    def drop(self, point: Point) -> None:
        """``point`` will not be measured."""
        self._open[self._index[point]] = False
        self._update(self._family[self._index[point]])

    def _update(self, family: int) -> None:
        self._mean[family] = self._mean_of(self._members[family])

    def _mean_of(self, members: NDArray[np.intp]) -> float:
        left = members[self._open[members]]
        return float(np.sqrt(self.variance[left]).mean()) if left.size else -1.0

    def worst(self, besides: Sequence[Point] = ()) -> tuple[Point, float] | None:
        """The next candidate and its standard deviation; None where none is open.

        The family whose open candidates are least known on average comes first, and in it the least known one: else
        a family of many large points would use up a short budget. Before all, kinds without their fewest points, each
        in turn. ``besides``: points to leave out.
        """
        free = self._open.copy()
        free[[self._index[point] for point in besides]] = False
        kinds = [self.points[members[0]].kind for members in self._members]
        seen = dict.fromkeys(kinds, 0)
        for kind, members in zip(kinds, self._members, strict=True):
            seen[kind] += int(np.count_nonzero(self._visits[members]))
        enough = np.array([seen[kind] >= FEWEST for kind in kinds])
        for family in np.lexsort((-self._mean, enough)):
            members = self._members[family]
            if free[members].any():
                index = int(members[np.argmax(np.where(free[members], self.variance[members], -1.0))])
                break
        else:
            return None
        return self.points[index], float(np.sqrt(self.variance[index]))

    def open_points(self) -> list[Point]:
        """Candidates that were never measured."""
        left = self._open & (self._visits == 0)
        return [point for point, there in zip(self.points, left, strict=True) if there]
