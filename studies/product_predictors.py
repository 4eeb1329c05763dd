"""Seconds of matrix products never seen, from products that were: the profiles' fit, and what it is compared with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from calibration.gemm import fit_gemm
from calibration.laws import fit_law
from specsim.cost.gemm import GemmTable, smoothed
from specsim.cost.hardware import Hardware
from specsim.cost.law import Law, gemm_work
from specsim.cost.shapes import Floats


def fitted(rows: pd.DataFrame, hardware: Hardware) -> Callable[[pd.DataFrame], Floats]:
    """The fit that profiles are built with, on ``rows``: table, neighbours' residuals, law."""
    section = fit_gemm(rows, hardware, "bf16").section
    table = GemmTable(
        "bf16",
        Law(**section["law"]),
        np.array(section["rows"], dtype=np.float64),
        np.array(section["shapes"], dtype=np.float64),
        np.array(section["latency_us"], dtype=np.float64) * 1e-6,
        section["length"],
        section["nugget"],
    )
    return _interpolated(table, smoothed)


def layered(rows: pd.DataFrame, hardware: Hardware) -> Callable[[pd.DataFrame], Floats]:
    """Law and kriged residuals at every measured row count (Vidur's grid has more of them than profiles ship)."""
    moved, flops = gemm_work(rows["m"], rows["n"], rows["k"], "bf16")
    seconds = rows["seconds"].to_numpy()
    law = fit_law(
        moved,
        flops,
        np.zeros(len(rows)),
        seconds,
        bandwidth=hardware.memory_bandwidth_bytes_per_s,
        peak=hardware.peak("bf16"),
        with_blocks=False,
    )
    pivot = rows.pivot_table(index=["n", "k"], columns="m", values="seconds")
    shapes = np.array(pivot.index.tolist(), dtype=np.float64)
    table = GemmTable("bf16", law, pivot.columns.to_numpy(dtype=np.float64), shapes, pivot.to_numpy(), 2.0, 0.05)
    return _interpolated(table, lambda _, curve: curve)


def roofline(hardware: Hardware) -> Callable[[pd.DataFrame], Floats]:
    """The datasheet's bound: the larger of bytes over bandwidth and operations over the peak."""

    def seconds(rows: pd.DataFrame) -> Floats:
        moved, flops = gemm_work(rows["m"], rows["n"], rows["k"], "bf16")
        return np.maximum(moved / hardware.memory_bandwidth_bytes_per_s, flops / hardware.peak("bf16"))

    return seconds


def forest(rows: pd.DataFrame) -> Callable[[pd.DataFrame], Floats] | None:
    """A random forest on the logarithms of (m, n, k); None where scikit-learn is not installed."""
    try:
        from sklearn.ensemble import RandomForestRegressor
    except ImportError:
        return None
    model = RandomForestRegressor(n_estimators=100, random_state=0)
    model.fit(np.log(rows[["m", "n", "k"]].to_numpy()), np.log(rows["seconds"].to_numpy()))
    return lambda wanted: np.exp(model.predict(np.log(wanted[["m", "n", "k"]].to_numpy())))


def _interpolated(table: GemmTable, curve_as: Callable[[Floats, Floats], Floats]) -> Callable[[pd.DataFrame], Floats]:
    def seconds(wanted: pd.DataFrame) -> Floats:
        out = np.empty(len(wanted))
        for (n, k), places in wanted.groupby(["n", "k"]).indices.items():
            curve, _ = table.curve(int(n), int(k))
            out[places] = np.interp(wanted["m"].to_numpy()[places], table.rows, curve_as(table.rows, curve))
        return out

    return seconds
