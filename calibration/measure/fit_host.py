"""What lies around products and attention on one machine: element-wise kernels and the host."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from calibration.laws import digits
from calibration.measure.device import Device
from specsim.cost.hardware import Hardware
from specsim.cost.model_shape import ModelShape
from specsim.cost.shapes import Floats
from specsim.errors import InputError

KERNELS_A_LAYER = 5
"""Kernels between a layer's products that a forward shape counts (two norms, rotary, cache write, activation)."""


def fit_around(rows: pd.DataFrame, hardware: Hardware, dtype: str) -> tuple[dict[str, float], Floats]:
    """A constant a kernel, a bandwidth, what several query tokens add, from times around a layer; what they leave."""
    if rows.empty:
        raise InputError("nothing around the products was measured; run again with more --minutes")
    moved = []
    for _, row in rows.iterrows():
        shape = ModelShape(
            "layer", 1, int(row["hidden"]), int(row["heads"]), int(row["kv_heads"]), int(row["head_dim"]), 64,
            int(row["intermediate"]), qk_norm=bool(row["qk_norm"]),
        )  # fmt: skip
        none = ModelShape("none", 0, int(row["hidden"]), 1, 1, 64, 64, 64)
        bytes_ = [s.forward(dtype=dtype, kv_dtype=dtype).elementwise_bytes_per_token for s in (shape, none)]
        moved.append((bytes_[0] - bytes_[1]) * row["batch"] * row["queries"])
    seconds, several = rows["seconds"].to_numpy(dtype=np.float64), (rows["queries"] > 1).to_numpy(dtype=np.float64)
    features = np.column_stack([np.full(len(rows), float(KERNELS_A_LAYER)), moved, several])
    scale = features.max(axis=0) + 1e-30
    found, _ = nnls(features / scale / seconds[:, None], np.ones(len(rows)))
    constant, per_byte, reorder = found / scale
    per_byte = max(per_byte, 1.0 / hardware.memory_bandwidth_bytes_per_s)
    left = np.log(seconds / np.maximum(features @ [constant, per_byte, reorder], 1e-12))
    section = {"kernel_us": digits(constant * 1e6, 4), "reorder_us": digits(reorder * 1e6, 4)}
    return {"bandwidth_bytes_per_s": digits(1.0 / per_byte, 4), **section}, left


def fit_host(data: pd.DataFrame, device: Device) -> tuple[dict[str, float], Floats]:
    """The laws of ``MeasuredHost`` from rounds without passes, and what they leave."""
    keeping = _linear(data, "host", ("round_s", "speculate_s", "draft_s", "sequence_s", "sequence_draft_s"), _keeping)
    drawing = _linear(data, "drawing", ("draw_s", "reject_s", "draw_draft_s", "entry_s", "draft_entry_s"), _drawing)
    softmax = _linear(data, "softmax", ("softmax_s", "softmax_entry_s"), _entries)
    ends = _linear(data, "around_pass", ("pass_s", "pass_row_s", "score_s"), _ends)
    found, left = zip(keeping, drawing, softmax, ends, strict=True)
    laws = {name: value for law in found for name, value in law.items()}
    return {**laws, "launch_s": _launch_s(data) if device.kind == "cuda" else 0.0}, np.concatenate(left)


def _linear(
    data: pd.DataFrame, kind: str, names: tuple[str, ...], features_of: Callable[[pd.DataFrame], Floats]
) -> tuple[dict[str, float], Floats]:
    """Non-negative coefficients that fit relative errors best, by name, and the ln residuals."""
    rows = data[data["kind"] == kind]
    if len(rows) < 2:
        raise InputError(f"{len(rows)} points of {kind} were measured, 2 are needed; run again with more --minutes")
    features, seconds = features_of(rows), rows["seconds"].to_numpy(dtype=np.float64)
    scale = np.abs(features).max(axis=0)
    found, _ = nnls(features / scale / seconds[:, None], np.ones(len(rows)))
    left = np.log(seconds / np.maximum(features / scale @ found, 1e-12))
    return {name: digits(float(value), 4) for name, value in zip(names, found / scale, strict=True)}, left


def _keeping(rows: pd.DataFrame) -> Floats:
    b, k = (rows[name].to_numpy(dtype=np.float64) for name in ("batch", "k"))
    return np.column_stack([np.ones(b.size), k > 0.0, k, b, b * k])


def _drawing(rows: pd.DataFrame) -> Floats:
    b, k, v = (rows[name].to_numpy(dtype=np.float64) for name in ("batch", "k", "vocab"))
    return np.column_stack([np.ones(b.size), k > 0.0, k, b * v, b * k * v])


def _ends(rows: pd.DataFrame) -> Floats:
    b, q, cached, group = (rows[name].to_numpy(dtype=np.float64) for name in ("batch", "queries", "cached", "group"))
    return np.column_stack([np.ones(b.size), b * q, b * q * (cached + q) * (1.0 + group)])


def _entries(rows: pd.DataFrame) -> Floats:
    r, v = (rows[name].to_numpy(dtype=np.float64) for name in ("rows", "vocab"))
    return np.column_stack([np.ones(r.size), r * v])


OPERATIONS_OF_A_LAYER = 9
"""Eager operations of a layer in ``kernels.Workshop._stack``: four products, two norms, activation, two sums."""


def _launch_s(data: pd.DataFrame) -> float:
    """Host seconds of an eager operation: an eager stack at few rows is as long as its launches."""
    stacks = data[(data["kind"] == "stack") & (data["graph"] == 0) & (data["rows"] <= 16)]
    return (
        digits(float((stacks["seconds"] / (stacks["layers"] * OPERATIONS_OF_A_LAYER)).min()), 3) if len(stacks) else 0.0
    )
