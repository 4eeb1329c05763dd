"""From measured mixture-of-experts layers to a compact table, with held-out errors."""

from __future__ import annotations

import numpy as np
import pandas as pd

from calibration.laws import Fitted, fit_law, law_json, microseconds
from specsim.cost.gemm import fill
from specsim.cost.hardware import Hardware
from specsim.cost.law import ARITHMETIC
from specsim.cost.moe import ExpertTable, expert_work
from specsim.cost.shapes import Experts, Floats
from specsim.errors import InputError

CLASS = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size"]
WITHOUT_GATE = [(1024, 2688, 22), (2048, 5120, 22), (4096, 2688, 22), (8192, 5120, 22), (2688, 1856, 6)]
"""Hidden size, width and top k of Nemotron-H's experts, which have two matrices where all others have three."""


def fit_experts(rows: pd.DataFrame, hardware: Hardware, dtype: str, distribution: str) -> Fitted | None:
    """Law and table of one routing distribution, experts not spread over GPUs; None where none was measured.

    BORROWED residuals hold out a model's class at every cut, INTERPOLATED ones a token count of a kept class.
    """
    rows = rows[~pd.MultiIndex.from_frame(rows[CLASS[:3]]).isin(WITHOUT_GATE)]
    data = rows[(rows["distribution"] == distribution) & (rows["moe_ep_size"] == 1) & (rows["moe_tp_size"] <= 8)]
    if data.empty:
        return None
    data = data.groupby([*CLASS, "num_tokens"], as_index=False)["seconds"].min()
    keys = data[CLASS].to_numpy(dtype=np.float64)
    tokens = data["num_tokens"].to_numpy(dtype=np.float64)
    work = [expert_work(n, key, dtype) for n, key in zip(tokens, keys, strict=True)]
    moved, flops = (np.array([float(w[i]) for w in work]) for i in (0, 1))
    # Popular experts mean fewer distinct ones than uniform routing reaches: only the arithmetic is a sure floor.
    possible = data["seconds"].to_numpy() >= flops / hardware.peak(ARITHMETIC[dtype])
    kept = data[possible]
    law = fit_law(
        moved[possible],
        flops[possible],
        np.zeros(len(kept)),
        kept["seconds"].to_numpy(),
        bandwidth=hardware.memory_bandwidth_bytes_per_s,
        peak=hardware.peak(ARITHMETIC[dtype]),
        with_blocks=False,
    )
    pivot = kept.pivot_table(index=CLASS, columns="num_tokens", values="seconds")
    classes = np.array(pivot.index.tolist(), dtype=np.float64)
    table = ExpertTable(dtype, law, pivot.columns.to_numpy(dtype=np.float64), classes, pivot.to_numpy(), distribution)
    raw = np.array(
        [
            np.log(s / law.seconds(*expert_work(table.tokens, c, dtype)))
            for s, c in zip(table.seconds, classes, strict=True)
        ]
    )
    x = np.log(table.tokens)
    weight = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    filled = fill(raw, x)
    between = raw[:, 1:-1] - (filled[:, :-2] * (1.0 - weight) + filled[:, 2:] * weight)
    layers = {"INTERPOLATED": between.ravel(), "BORROWED": _hold_out(table), "PARAMETRIC": raw.ravel()}
    section = {
        "law": law_json(law),
        "distribution": distribution,
        "tokens": [int(n) for n in table.tokens],
        "classes": classes.astype(int).tolist(),
        "latency_us": microseconds(table.seconds, 4),
    }
    return Fitted(
        section=section,
        layers={layer: values for layer, values in layers.items() if values.size},
        rows_used=len(kept),
        rows_filtered=int((~possible).sum()),
    )


def _hold_out(table: ExpertTable) -> Floats:
    """ln(measured / predicted) of every model's class (all its cuts) from the other models'."""
    left = []
    for i, key in enumerate(table.classes):
        others = (table.classes[:, :4] != key[:4]).any(axis=1)
        rest = ExpertTable(
            table.dtype, table.law, table.tokens, table.classes[others], table.seconds[others], table.distribution
        )
        hidden, width, top_k, experts, cut = (int(x) for x in key)
        try:
            curve, _ = rest.curve(Experts(hidden, width, experts, top_k, 1, cut))
        except (InputError, ValueError):
            continue
        left.append(np.log(table.seconds[i] / curve))
    return np.concatenate(left) if left else np.zeros(0)
