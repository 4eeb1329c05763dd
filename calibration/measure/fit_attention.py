"""Attention of one machine: decode, verify and prefill surfaces from one law and field a head dimension."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from calibration.laws import law_json, microseconds
from calibration.measure.field import Field, fit_field, jump
from calibration.measure.points import stepped
from calibration.measure.prior import SEEN_SD, cautious_law
from specsim.cost.attention import attention_work
from specsim.cost.hardware import Hardware
from specsim.cost.law import ARITHMETIC, Law
from specsim.cost.shapes import Floats
from specsim.cost.verify import verify_work


def fit_cached(
    rows: pd.DataFrame, hardware: Hardware, dtype: str
) -> tuple[dict[str, Any], dict[str, Any], dict[str, Floats], dict[str, Floats]]:
    """Decode and verify sections from one field over queries, batch, length and layout, and their errors."""
    queries, batches = (np.unique(rows[name].to_numpy(dtype=np.float64)) for name in ("queries", "batch"))
    queries = np.unique(np.append(queries, 1.0))
    lengths = np.unique(rows["cached"].to_numpy(dtype=np.float64))
    decode: list[dict[str, Any]] = []
    verify: list[dict[str, Any]] = []
    one: dict[str, list[Floats]] = {}
    several: dict[str, list[Floats]] = {}
    for head_dim, part in rows.groupby("head_dim"):
        group = _Group.of(part, hardware, dtype, int(head_dim))
        table = np.array([group.grid(queries, batches, lengths, h, kv) for h, kv in group.layouts])
        laws = {"head_dim": int(head_dim), "law": law_json(group.law), "layouts": group.layouts.astype(int).tolist()}
        verify.append({**laws, "latency_us": microseconds(table, 4)})
        single = _decode_law(group, batches, lengths, table, hardware, dtype)
        decode.append({**laws, "law": law_json(single), "window": None, "latency_us": microseconds(table[:, 0], 4)})
        alone = part["queries"].to_numpy() == 1
        for kept, mask in ((one, alone), (several, ~alone)):
            for layer, values in (
                ("INTERPOLATED", group.field.left_out),
                ("BORROWED", group.borrowed),
                ("PARAMETRIC", group.raw),
            ):
                kept.setdefault(layer, []).append(values[mask])
    axes = {"batches": [int(b) for b in batches], "lengths": [int(x) for x in lengths]}
    shared = {"length": 4.0, "nugget": 0.1}
    return (
        {**axes, **shared, "groups": decode},
        {"queries": [int(q) for q in queries], **axes, **shared, "groups": verify},
        {layer: np.concatenate(parts) for layer, parts in one.items()},
        {layer: np.concatenate(parts) for layer, parts in several.items()},
    )


def _decode_law(group: _Group, batches: Floats, lengths: Floats, table: Floats, hardware: Hardware, dtype: str) -> Law:
    """The law of one query token in the form that decode tables use, fitted to the completed surface."""
    places = np.ix_(batches, lengths)
    work = [attention_work("decode", *places, h, kv, group.head_dim, None, dtype) for h, kv in group.layouts]
    moved, flops, blocks = (
        np.concatenate([np.broadcast_to(w[i], table.shape[2:]).ravel() for w in work]) for i in range(3)
    )
    peak = hardware.peak(ARITHMETIC[dtype])
    return cautious_law(
        moved,
        flops,
        table[:, 0].ravel(),
        blocks=blocks,
        bandwidth=hardware.memory_bandwidth_bytes_per_s,
        peak=peak,
        sd=SEEN_SD,
    )


@dataclass(frozen=True, eq=False)
class _Group:
    """Attention over a cache at one head dimension: its law, its field, and both together on a grid."""

    law: Law
    single: float
    """What one query token takes beyond the law, as a logarithm."""
    field: Field
    raw: Floats
    borrowed: Floats
    layouts: Floats
    head_dim: int
    dtype: str

    @classmethod
    def of(cls, part: pd.DataFrame, hardware: Hardware, dtype: str, head_dim: int) -> _Group:
        """Fitted to the points of one head dimension."""
        q, b, cached, h, kv, seconds = (
            part[name].to_numpy(dtype=np.float64)
            for name in ("queries", "batch", "cached", "heads", "kv_heads", "seconds")
        )
        work = verify_work(q, b, cached + q, heads=h, kv_heads=kv, head_dim=head_dim, kv_dtype=dtype)
        peak = hardware.peak(ARITHMETIC[dtype])
        law = cautious_law(
            work[0],
            work[1],
            seconds,
            blocks=work[2],
            bandwidth=hardware.memory_bandwidth_bytes_per_s,
            peak=peak,
            sd=SEEN_SD,
        )
        raw = np.log(seconds / law.seconds(*work))
        single = jump(raw, q == 1.0)
        raw = raw - single * (q == 1.0)
        places = _attention_places(q, b, cached + q, h, kv)
        layouts = np.unique(np.column_stack([h, kv]), axis=0)
        borrowed = fit_field(places, raw, groups=h * 1e4 + kv).left_out if len(layouts) > 1 else raw
        return cls(law, single, fit_field(places, raw), raw, borrowed, layouts, head_dim, dtype)

    def grid(self, queries: Floats, batches: Floats, lengths: Floats, heads: float, kv_heads: float) -> Floats:
        """Seconds [queries, batches, lengths] of a layout: the law times the field's expectation."""
        q, b, x = (part.ravel() for part in np.meshgrid(queries, batches, lengths, indexing="ij"))
        h, kv = np.full(q.size, heads), np.full(q.size, kv_heads)
        work = verify_work(q, b, x, heads=h, kv_heads=kv, head_dim=self.head_dim, kv_dtype=self.dtype)
        expected = self.field.at(_attention_places(q, b, x, h, kv)) + self.single * (q == 1.0)
        seconds = self.law.seconds(*work) * np.exp(expected)
        return np.asarray(seconds.reshape(queries.size, batches.size, lengths.size))


def _attention_places(q: Floats, b: Floats, length: Floats, h: Floats, kv: Floats) -> Floats:
    steps = np.array([stepped(max(1, int(x))) for x in q])
    return np.column_stack([steps, *(np.log(x) / 2.0 for x in (b, length, kv, h / kv))])


def fit_prefill(rows: pd.DataFrame, hardware: Hardware, dtype: str) -> tuple[dict[str, Any], dict[str, Floats]]:
    """Prefill without a cache: its section and held-out errors by layer."""
    batches, lengths = (np.unique(rows[name].to_numpy(dtype=np.float64)) for name in ("batch", "tokens"))
    peak, bandwidth = hardware.peak(ARITHMETIC[dtype]), hardware.memory_bandwidth_bytes_per_s
    groups: list[dict[str, Any]] = []
    layers: dict[str, list[Floats]] = {}
    for head_dim, part in rows.groupby("head_dim"):
        b, x, h, kv, seconds = (
            part[name].to_numpy(dtype=np.float64) for name in ("batch", "tokens", "heads", "kv_heads", "seconds")
        )
        work = attention_work("prefill", b, x, h, kv, int(head_dim), None, dtype)
        law = cautious_law(work[0], work[1], seconds, blocks=work[2], bandwidth=bandwidth, peak=peak, sd=SEEN_SD)
        raw = np.log(seconds / law.seconds(*work))
        field = fit_field(_attention_places(np.ones(b.size), b, x, h, kv), raw)
        layouts = np.unique(np.column_stack([h, kv]), axis=0)
        table = []
        for heads, kv_heads in layouts:
            bb, xx = (g.ravel() for g in np.meshgrid(batches, lengths, indexing="ij"))
            hh, kk = np.full(bb.size, heads), np.full(bb.size, kv_heads)
            expected = law.seconds(*attention_work("prefill", bb, xx, hh, kk, int(head_dim), None, dtype))
            expected = expected * np.exp(field.at(_attention_places(np.ones(bb.size), bb, xx, hh, kk)))
            table.append(expected.reshape(batches.size, lengths.size))
        groups.append(
            {
                "head_dim": int(head_dim),
                "window": None,
                "law": law_json(law),
                "layouts": layouts.astype(int).tolist(),
                "latency_us": microseconds(np.array(table), 4),
            }
        )
        layers.setdefault("INTERPOLATED", []).append(field.left_out)
        layers.setdefault("PARAMETRIC", []).append(raw)
    section = {
        "length": 4.0,
        "nugget": 0.1,
        "batches": [int(b) for b in batches],
        "lengths": [int(x) for x in lengths],
        "groups": groups,
    }
    return section, {layer: np.concatenate(parts) for layer, parts in layers.items()}
