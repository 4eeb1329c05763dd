"""Time of a pass against its rows: the products of all layers as one curve that never falls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.cost.gemm import GemmTable, smoothed
from specsim.cost.law import non_decreasing
from specsim.cost.moe import ExpertTable
from specsim.cost.shapes import Experts, Floats, Linear, Trust

FAR_ROWS = 4.0e6
"""Rows up to which a curve is drawn: past the measured grid along the law."""

FEW_TOKENS = 64.0
"""Tokens up to which a mixture's curve is drawn at every count: fewer reach new experts with each."""


@dataclass(frozen=True, eq=False)
class RowCurve:
    """Seconds against rows of a whole pass, non-decreasing; ``trust`` at a measured row count of measured shapes."""

    rows: Floats
    seconds: Floats
    last_measured: float
    trust: Trust
    measured: NDArray[np.bool_] | None = None
    """Which grid points were measured for every shape; None: all of them."""

    def at(self, rows: Floats) -> Floats:
        """Seconds at ``rows``, linear between grid points (a product is affine in rows past its knee); 0 at 0."""
        return np.where(rows > 0.0, np.interp(rows, self.rows, self.seconds), 0.0)

    def trust_at(self, rows: Floats) -> NDArray[np.int8]:
        """Which layer answers at ``rows``."""
        if self.trust > Trust.INTERPOLATED:
            near: NDArray[np.int8] = np.full(rows.shape, self.trust, dtype=np.int8)
        else:
            index = np.minimum(np.searchsorted(self.rows, rows), self.rows.size - 1)
            here = self.rows[index] == rows
            if self.measured is not None:
                here &= self.measured[index]
            near = np.where(here, np.int8(self.trust), np.int8(Trust.INTERPOLATED))
        return np.where(rows > self.last_measured, np.int8(max(Trust.PARAMETRIC, self.trust)), near)


def sum_products(table: GemmTable, linears: Sequence[Linear]) -> RowCurve:
    """All products of a pass in one precision."""
    seconds, trust = np.zeros(table.rows.size + 1), Trust.MEASURED
    measured = np.ones(table.rows.size, dtype=np.bool_)
    for linear in linears:
        curve, who = table.curve(linear.n, linear.k)
        far = curve[-1] * table.beyond(linear.n, linear.k, FAR_ROWS)
        seconds += linear.count * np.append(curve, far)
        trust = max(trust, who)
        measured &= table.measured_at(linear.n, linear.k)
    rows, every = np.append(table.rows, FAR_ROWS), np.append(measured, False)
    return RowCurve(rows, smoothed(rows, seconds), float(table.rows[-1]), trust, None if measured.all() else every)


def sum_curves(curves: Sequence[RowCurve]) -> RowCurve:
    """Curves of several precisions, added."""
    if len(curves) == 1:
        return curves[0]
    rows = np.unique(np.concatenate([curve.rows for curve in curves]))
    seconds = sum(np.interp(rows, curve.rows, curve.seconds) for curve in curves)
    last = min(curve.last_measured for curve in curves)
    measured = np.ones(rows.size, dtype=np.bool_)
    for curve in curves:
        known = curve.rows if curve.measured is None else curve.rows[curve.measured]
        measured &= np.isin(rows, known)
    every = None if all(curve.measured is None for curve in curves) else measured
    return RowCurve(rows, np.asarray(seconds), last, max(curve.trust for curve in curves), every)


def sum_experts(table: ExpertTable, layers: Sequence[Experts]) -> RowCurve:
    """All mixtures of experts of a pass."""
    few = np.arange(np.ceil(table.tokens[0]), min(FEW_TOKENS, table.tokens[-1]))
    tokens = np.union1d(table.tokens, few)
    seconds, trust = np.zeros(tokens.size + 1), Trust.MEASURED
    for experts in layers:
        curve, who = table.curve(experts, tokens)
        far = curve[-1] * table.beyond(experts, FAR_ROWS)
        seconds += experts.count * np.append(curve, far)
        trust = max(trust, who)
    rows, measured = np.append(tokens, FAR_ROWS), np.append(np.isin(tokens, table.tokens), False)
    return RowCurve(rows, non_decreasing(seconds), float(table.tokens[-1]), trust, measured)
