"""From measured matrix products to a compact table, with held-out errors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from calibration.laws import Fitted, fit_law, law_json, microseconds
from specsim.cost.gemm import fill, krige, smoothed
from specsim.cost.hardware import Hardware
from specsim.cost.law import ARITHMETIC, gemm_work
from specsim.cost.shapes import Floats

SMALLEST = 256
"""n and k below this occur in no layer of the models that ship, at any tensor-parallel size."""
SMALL_ROWS = (1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 17)
LARGE_ROWS = (1024, 1536, 2048, 3072, 4096, 8192, 16384)
"""Of the measured rows, these up to 17 and from 1024 on ship, and all between: there the tile steps matter."""
DISTURBED = 1.6
"""A product that takes more than this many times what one of more rows takes was disturbed while it was timed: changes
of algorithm stay below (7 % of B200's fp8 rows under vLLM are above, of most tables under 0.1 %)."""
COVARIANCES = [(length, nugget) for length in (0.5, 1.0, 2.0) for nugget in (0.05, 0.15)]


def fit_gemm(rows: pd.DataFrame, hardware: Hardware, dtype: str, *, narrowest: int = SMALLEST) -> Fitted:
    """Law, covariance and table of the products [m, k] x [k, n] in ``rows`` (columns m, n, k, seconds).

    Rows faster than the GPU's bandwidth or arithmetic allow, or disturbed, are dropped and counted. BORROWED residuals
    hold out a whole shape; INTERPOLATED ones are of row counts that don't ship, or are held out; MEASURED ones what
    smoothing to a curve that never falls leaves; PARAMETRIC ones use the law alone.
    """
    data = rows.groupby(["n", "k", "m"], as_index=False)["seconds"].median()
    data = data[(data["n"] >= narrowest) & (data["k"] >= SMALLEST) & (data["m"] <= max(LARGE_ROWS))]
    middle = (data["m"] > max(SMALL_ROWS)) & (data["m"] < min(LARGE_ROWS))
    ships = middle | data["m"].isin(SMALL_ROWS + LARGE_ROWS)
    spare, data = data[~ships], data[ships]
    moved, flops = gemm_work(data["m"], data["n"], data["k"], dtype)
    peak = hardware.peak(ARITHMETIC[dtype])
    possible = data["seconds"].to_numpy() >= np.maximum(moved / hardware.memory_bandwidth_bytes_per_s, flops / peak)
    kept = data[possible]
    law = fit_law(
        moved[possible],
        flops[possible],
        np.zeros(len(kept)),
        kept["seconds"].to_numpy(),
        bandwidth=hardware.memory_bandwidth_bytes_per_s,
        peak=peak,
        with_blocks=False,
    )
    pivot = kept.pivot_table(index=["n", "k"], columns="m", values="seconds")
    shapes = np.array(pivot.index.tolist(), dtype=np.float64)
    grid, seconds = pivot.columns.to_numpy(dtype=np.float64), pivot.to_numpy().copy()
    fastest = np.minimum.accumulate(np.where(np.isnan(seconds), np.inf, seconds)[:, ::-1], axis=1)[:, ::-1]
    disturbed = seconds > DISTURBED * fastest
    seconds[disturbed] = np.nan
    raw = np.log(seconds / law.seconds(*gemm_work(grid[None, :], shapes[:, :1], shapes[:, 1:], dtype)))
    filled, places = fill(raw, np.log(grid)), np.log(shapes)
    held: dict[tuple[float, float], Floats] = {c: _hold_out(raw, filled, places, *c) for c in COVARIANCES}
    best = min(held, key=lambda c: float(np.nanmedian(np.abs(held[c]))))
    curves = law.seconds(*gemm_work(grid[None, :], shapes[:, :1], shapes[:, 1:], dtype)) * np.exp(filled)
    smooth = np.log(seconds / np.array([smoothed(grid, curve) for curve in curves]))
    between = np.concatenate([_hold_out_rows(seconds, grid).ravel(), _spare_rows(spare, grid, shapes, seconds)])
    section = {
        "law": law_json(law),
        "length": best[0],
        "nugget": best[1],
        "rows": [int(m) for m in grid],
        "shapes": shapes.astype(int).tolist(),
        "latency_us": microseconds(seconds, 3),
    }
    layers = {"MEASURED": smooth, "INTERPOLATED": between, "BORROWED": held[best], "PARAMETRIC": raw}
    return Fitted(
        section=section,
        layers=layers,
        rows_used=len(kept) - int(disturbed.sum()),
        rows_filtered=int((~possible).sum()),
        rows_disturbed=int(disturbed.sum()),
    )


def _hold_out(raw: Floats, filled: Floats, places: Floats, length: float, nugget: float) -> Floats:
    """ln(measured / predicted) of every shape from the others."""
    left = np.empty_like(raw)
    every = np.arange(len(places))
    for i in every:
        others = every != i
        left[i] = raw[i] - krige(places[i], places[others], filled[others], length=length, nugget=nugget)
    return left


def _spare_rows(spare: pd.DataFrame, grid: Floats, shapes: Floats, seconds: Floats) -> Floats:
    """ln(measured / interpolated) at the measured row counts that don't ship."""
    seconds_of = {(int(n), int(k)): row for (n, k), row in zip(shapes, seconds, strict=True)}
    left = []
    for (n, k), part in spare.groupby(["n", "k"]):
        if (n, k) in seconds_of:
            known = seconds_of[n, k]
            curve = np.interp(part["m"], grid[np.isfinite(known)], known[np.isfinite(known)])
            left.append(np.log(part["seconds"].to_numpy() / curve))
    return np.concatenate(left) if left else np.zeros(0)


def _hold_out_rows(seconds: Floats, grid: Floats) -> Floats:
    """ln(measured / interpolated) at every interior row count, from its neighbours on the grid."""
    weight = (grid[1:-1] - grid[:-2]) / (grid[2:] - grid[:-2])
    between = seconds[:, :-2] * (1.0 - weight) + seconds[:, 2:] * weight
    return np.asarray(np.log(seconds[:, 1:-1] / between))
