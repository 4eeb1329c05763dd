"""From measured attention kernels to compact tables, with held-out errors."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import pandas as pd

from calibration.laws import Fitted, fit_law, law_json, microseconds
from specsim.cost.attention import AttentionTable, HeadGroup, attention_work
from specsim.cost.gemm import krige
from specsim.cost.hardware import Hardware
from specsim.cost.law import Law
from specsim.cost.shapes import Floats

SHORTEST = 16
"""Decode lengths below this are as flat as 16 (one page of cache) and left out of the tables."""
COVARIANCES = [(length, nugget) for length in (0.5, 1.5, 4.0) for nugget in (0.05, 0.2)]
GROUPS = {(64, 0), (64, 128), (128, 0), (256, 0), (256, 1024)}
"""Head dimension and window of the tables that ship: those of the models that ship."""
GROUP_SIZES = {64: (1, 4, 8), 128: (1, 2, 3, 4, 5, 8, 16), 256: (1, 2, 4, 8)}
"""Query heads a cache head of the layouts that ship, by head dimension; others borrow."""
SKIPPED_LENGTHS = {"decode": {32}, "prefill": {32, 10240, 12288}}
"""Lengths that their neighbours tell within the noise; left out for size."""
MOST_SEQUENCES = {"decode": 1024, "prefill": 128}

Phase = Literal["decode", "prefill"]


def fit_attention(
    rows: pd.DataFrame, hardware: Hardware, phase: Phase, kv_dtype: str, *, arithmetic: str = "bf16"
) -> Fitted:
    """Laws and tables of one phase and cache precision.

    rows: columns num_heads, num_key_value_heads, head_dim, window_size (0: none), batch_size, length, seconds.
    Rows faster than physics are dropped and counted. BORROWED residuals hold out a whole head layout, INTERPOLATED
    ones a length of a kept layout, PARAMETRIC ones use the law alone.
    """
    keys = ["head_dim", "window_size", "num_heads", "num_key_value_heads", "batch_size", "length"]
    data = rows.groupby(keys, as_index=False)["seconds"].median()
    if phase == "decode":
        data = data[data["length"] >= SHORTEST]
    wide = data["num_heads"] / data["num_key_value_heads"]
    kept = [(data["head_dim"] == dim) & wide.isin(sizes) for dim, sizes in GROUP_SIZES.items()]
    data = data[np.logical_or.reduce(kept)]
    data = data[~data["length"].isin(SKIPPED_LENGTHS[phase]) & (data["batch_size"] <= MOST_SEQUENCES[phase])]
    groups = [(key, part) for key, part in data.groupby(["head_dim", "window_size"]) if key in GROUPS]
    data = pd.concat([part for _, part in groups])
    batches = np.unique(data["batch_size"].to_numpy(dtype=np.float64))
    lengths = np.unique(data["length"].to_numpy(dtype=np.float64))
    filtered, fitted = 0, []
    for key, part in groups:
        window = int(key[1]) or None
        group, impossible = _fit_group(
            part, hardware, hardware.peak(arithmetic), phase, kv_dtype, int(key[0]), window, batches, lengths
        )
        filtered += impossible
        fitted.append(group)
    held = {c: _hold_out(fitted, phase, kv_dtype, batches, lengths, *c) for c in COVARIANCES}
    best = min(held, key=lambda c: float(np.nanmedian(np.abs(held[c]))))
    law_only, between = [], []
    table = AttentionTable(phase, kv_dtype, batches, lengths, tuple(fitted), *best)
    for group in fitted:
        law_only.append(_law_residual(group, phase, kv_dtype, batches, lengths).ravel())
        between.append(_hold_out_lengths(group, table).ravel())
    layers = {
        "INTERPOLATED": np.concatenate(between),
        "BORROWED": held[best],
        "PARAMETRIC": np.concatenate(law_only),
    }
    section = {
        "length": best[0],
        "nugget": best[1],
        "batches": [int(b) for b in batches],
        "lengths": [int(x) for x in lengths],
        "groups": [_group_json(group) for group in fitted],
    }
    return Fitted(
        section=section,
        layers=layers,
        rows_used=int(sum(np.isfinite(group.seconds).sum() for group in fitted)),
        rows_filtered=filtered,
    )


def _fit_group(
    part: pd.DataFrame,
    hardware: Hardware,
    peak: float,
    phase: Phase,
    kv_dtype: str,
    head_dim: int,
    window: int | None,
    batches: Floats,
    lengths: Floats,
) -> tuple[HeadGroup, int]:
    columns = ["batch_size", "length", "num_heads", "num_key_value_heads"]
    batch, length, heads, kv_heads = (part[c].to_numpy(dtype=np.float64) for c in columns)
    work = attention_work(phase, batch, length, heads, kv_heads, head_dim, window, kv_dtype)
    floor = np.maximum(work[0] / hardware.memory_bandwidth_bytes_per_s, work[1] / peak)
    seconds = part["seconds"].to_numpy()
    possible = seconds >= floor
    law = fit_law(
        *(w[possible] for w in work),
        seconds[possible],
        bandwidth=hardware.memory_bandwidth_bytes_per_s,
        peak=peak,
        with_blocks=True,
    )
    kept = part[possible]
    layouts = np.unique(kept[["num_heads", "num_key_value_heads"]].to_numpy(dtype=np.float64), axis=0)
    table = np.full((len(layouts), batches.size, lengths.size), np.nan)
    for i, (h, kv) in enumerate(layouts):
        of = kept[(kept["num_heads"] == h) & (kept["num_key_value_heads"] == kv)]
        b, x = np.searchsorted(batches, of["batch_size"]), np.searchsorted(lengths, of["length"])
        table[i, b, x] = of["seconds"]
    return HeadGroup(head_dim, window, law, layouts, table), int((~possible).sum())


def _law_residual(group: HeadGroup, phase: Phase, kv_dtype: str, batches: Floats, lengths: Floats) -> Floats:
    heads, kv_heads = (group.layouts[:, i, None, None] for i in (0, 1))
    work = attention_work(
        phase, batches[:, None], lengths[None, :], heads, kv_heads, group.head_dim, group.window, kv_dtype
    )
    return np.asarray(np.log(group.seconds / group.law.seconds(*work)))


def _hold_out(
    groups: list[HeadGroup],
    phase: Phase,
    kv_dtype: str,
    batches: Floats,
    lengths: Floats,
    length: float,
    nugget: float,
) -> Floats:
    """ln(measured / predicted) of every head layout from the others of its group."""
    table = AttentionTable(phase, kv_dtype, batches, lengths, tuple(groups), length, nugget)
    left = []
    for group in groups:
        raw = _law_residual(group, phase, kv_dtype, batches, lengths)
        filled = table._residuals(group)
        places = np.log(np.column_stack([group.layouts[:, 1], group.layouts[:, 0] / group.layouts[:, 1]]))
        every = np.arange(len(places))
        if every.size < 3:
            continue
        for i in every:
            others = every != i
            predicted = krige(places[i], places[others], filled[others], length=length, nugget=nugget)
            left.append((raw[i] - predicted).ravel())
    return np.concatenate(left)


def _hold_out_lengths(group: HeadGroup, table: AttentionTable) -> Floats:
    """ln(measured / interpolated) at every interior length of every layout, from its neighbours' residuals."""
    raw = _law_residual(group, table.phase, table.kv_dtype, table.batches, table.lengths)
    x = np.log(table.lengths)
    weight = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
    return np.asarray(raw[..., 1:-1] - (raw[..., :-2] * (1.0 - weight) + raw[..., 2:] * weight))


def _group_json(group: HeadGroup) -> dict[str, Any]:
    assert isinstance(group.law, Law)
    return {
        "head_dim": group.head_dim,
        "window": group.window,
        "law": law_json(group.law),
        "layouts": group.layouts.astype(int).tolist(),
        "latency_us": microseconds(group.seconds, 3),
    }
