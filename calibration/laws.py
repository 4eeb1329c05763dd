"""Fitting the law of a kernel's time to measurements, and cross-validated quantiles of what it leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from specsim.cost.law import Law
from specsim.cost.shapes import Floats

PROBABILITIES = np.array([0.01, 0.025, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99])


@dataclass(frozen=True)
class Fitted:
    """A section of a profile and its cross-validation: ln(measured / predicted) by layer of trust, NaN if unknown."""

    section: dict[str, Any]
    layers: Mapping[str, Floats]
    rows_used: int
    rows_filtered: int
    rows_disturbed: int = 0

    @property
    def errors(self) -> dict[str, dict[str, float]]:
        """A row of error statistics for each layer."""
        return {layer: error_row(values) for layer, values in self.layers.items()}


def fit_law(
    moved: Floats, flops: Floats, blocks: Floats, seconds: Floats, *, bandwidth: float, peak: float, with_blocks: bool
) -> Law:
    """The law nearest to ``seconds`` in log space (robust: soft L1 at 10 %), never beyond the GPU's peaks.

    bandwidth in bytes/s and peak in operations/s are the GPU's; efficiencies are kept in (0.02, 1).
    """
    target = np.log(seconds)

    def residual(x: Floats) -> Floats:
        law = law_at(x, bandwidth=bandwidth, peak=peak)
        return np.asarray(np.log(law.seconds(moved, flops, blocks)) - target)

    low, high = float(np.log(0.02)), 0.0
    start = [float(np.log(np.quantile(seconds, 0.02))), -0.15, -0.3, 0.0, float(np.log(2e-8))]
    bounds = ([np.log(1e-8), low, low, -4.0, np.log(1e-11)], [np.log(1e-3), high, high, np.log(9.0), np.log(1e-5)])
    size = 5 if with_blocks else 4
    fit = least_squares(
        residual, start[:size], bounds=(bounds[0][:size], bounds[1][:size]), loss="soft_l1", f_scale=0.1
    )
    return law_at(fit.x, bandwidth=bandwidth, peak=peak)


def law_at(x: Floats, *, bandwidth: float, peak: float) -> Law:
    """The law of a fit's unknowns: ln constant, ln efficiencies, ln(exponent - 1) and, where it has five, ln block."""
    return Law(
        constant_s=float(np.exp(x[0])),
        bandwidth_bytes_per_s=bandwidth * float(np.exp(x[1])),
        flops_per_s=peak * float(np.exp(x[2])),
        exponent=float(1.0 + np.exp(x[3])),
        block_s=float(np.exp(x[4])) if len(x) > 4 else 0.0,
    )


def law_json(law: Law) -> dict[str, float]:
    """The law's fields, rounded to four digits."""
    return {key: digits(getattr(law, key), 4) for key in Law.__dataclass_fields__}


def quantiles(residuals: Floats) -> list[float]:
    """Quantiles of ln(measured / predicted) at ``PROBABILITIES``, not centred."""
    known = residuals[np.isfinite(residuals)]
    return [round(float(q), 4) for q in np.quantile(known, PROBABILITIES)]


def error_row(residuals: Floats) -> dict[str, float]:
    """Median, 90th and 95th percentile of the absolute relative error in percent, the bias and the count."""
    known = residuals[np.isfinite(residuals)]
    size = np.abs(np.expm1(-known)) * 100.0
    return {
        "points": int(known.size),
        "median_pct": round(float(np.median(size)), 2),
        "p90_pct": round(float(np.quantile(size, 0.9)), 2),
        "p95_pct": round(float(np.quantile(size, 0.95)), 2),
        "bias_pct": round(float(np.expm1(-np.median(known))) * 100.0, 2),
    }


def digits(value: float, count: int) -> float:
    """``value`` rounded to ``count`` significant digits."""
    return float(f"{value:.{count}g}")


def microseconds(seconds: Floats, count: int = 4) -> list[Any]:
    """Nested lists of microseconds to ``count`` digits, None where not measured."""
    if seconds.ndim > 1:
        return [microseconds(row, count) for row in seconds]
    out: list[Any] = []
    for value in seconds.tolist():
        rounded = digits(value * 1e6, count) if np.isfinite(value) else None
        out.append(int(rounded) if rounded is not None and rounded == int(rounded) else rounded)
    return out
