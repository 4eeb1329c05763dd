"""What a measured folder says of itself: device, versions, clocks, kernels, rows, and what went wrong on the way."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

Rows = Sequence[Mapping[str, Any]]


def readme(machine: Mapping[str, Any], tables: Mapping[str, Rows], notes: Sequence[str]) -> str:
    """Markdown for a folder that holds ``tables``; ``notes`` are the session's log."""
    device = machine.get("device", {})
    named = {**device.get("versions", {}), **{name: machine.get(name) for name in ("dtype", "date", "seconds")}}
    out = [f"# Kernels and passes measured on {device.get('name', 'a device')}", ""]
    out += ["Written by `calibration/run_gpu.sh`; `python -m studies.verify_surface FOLDER` reads it.", ""]
    out += [f"- {name}: {value}" for name, value in named.items() if value is not None]
    out += [
        "",
        "One row a repeat. `latency_us` is of one call: in mode `graph` between events around captured calls whose",
        "inputs rotate, in mode `eager` by the host's clock. `default`: the kernel that PyTorch takes by itself.",
        "",
        *_table(("table", "rows", "points that failed"), [_counts(name, rows) for name, rows in tables.items()]),
    ]
    chosen = _chosen(tables.get("attention", ()))
    if chosen:
        out += [
            "",
            "Kernels of attention (masked, but flash): samples, and in how many PyTorch takes it by itself.",
            "",
        ]
        out += _table(("heads", "kernel", "samples", "taken by itself"), chosen)
    seen = machine.get("clocks_seen", ())
    if seen:
        names = list(dict.fromkeys(name for row in seen for name in row))
        out += ["", "Clocks seen, which nobody set:", ""]
        out += _table(names, [[row.get(name, "") for name in names] for row in seen])
    return "\n".join([*out, "", "```", *notes, "```", ""])


def _counts(name: str, rows: Rows) -> tuple[Any, ...]:
    failed = Counter(row["status"] for row in rows if row.get("status", "ok") != "ok")
    return name, len(rows) - failed.total(), ", ".join(f"{count} {why}" for why, count in failed.items()) or "none"


def _chosen(rows: Rows) -> list[tuple[Any, ...]]:
    found: dict[tuple[str, str], list[int]] = {}
    for row in rows:
        if row["op"] == "attention" and row.get("status") == "ok":
            heads = f"{row['heads']}/{row['kv_heads']} of {row['head_dim']}"
            counts = found.setdefault((heads, row["kernel"]), [0, 0])
            counts[0] += 1
            counts[1] += row["default"]
    return [(*key, *counts) for key, counts in found.items()]


def _table(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    lines = [names, ["---"] * len(names), *rows]
    return ["| " + " | ".join(str(value) for value in line) + " |" for line in lines]
