"""Kernels' samples as tables, one row a repeat: what the script writes, and what a profile is fitted to."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd

from calibration.measure.device import Device
from calibration.measure.points import Point
from calibration.measure.samples import COLUMNS, medians
from calibration.measure.timers import Timing
from specsim.errors import InputError

RENAMED = {
    "attention": {"queries": "query_tokens", "cached": "kv_tokens"},
    "prefill": {"tokens": "query_tokens"},
}
"""Parameters of points under the names that a reader of the tables expects; ``kv_tokens`` were there before."""
TABLES = {"gemm": "gemm", "attention": "attention", "prefill": "attention"}
"""Tables by kind of point; all others are in ``around``."""
OWN = ("op", "dtype", "kernel", "default", "mode", "repeat", "latency_us", "status", "at_s")


def rows_of(
    point: Point, variant: str, timing: Timing, *, mode: Literal["graph", "eager"], at_s: float, default: bool = False
) -> list[dict[str, Any]]:
    """A row for every sample, times in microseconds a call; ``default``: PyTorch takes this variant by itself."""
    return [
        {**_columns(point), "kernel": variant, "default": int(default), "mode": mode, "repeat": i,
         "latency_us": round(seconds * 1e6, 3), "status": "ok", "at_s": round(at_s, 1)}
        for i, seconds in enumerate(timing.busy_s.tolist())
    ]  # fmt: skip


def refused(point: Point, reason: str) -> dict[str, Any]:
    """The row of a point that could not be measured."""
    return {**_columns(point), "status": reason}


def table_of(point: Point) -> str:
    """The table that a point's rows belong to."""
    return TABLES.get(point.kind, "around")


def read_tables(folder: Path) -> tuple[pd.DataFrame, Device, str]:
    """Medians that a profile is fitted to, the device, and its precision, from a folder that the script wrote.

    InputError where a table is missing, truncated or of another make.
    """
    try:
        machine = json.loads((folder / "machine.json").read_text())
        device, dtype = Device(**machine["device"]), str(machine["dtype"])
    except FileNotFoundError as error:
        raise InputError("holds no machine.json of calibration/run_gpu.sh", file=str(folder)) from error
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"is damaged, or of another version ({error})", file=str(folder / "machine.json")) from error
    found = [_read(folder / f"{name}.csv") for name in ("gemm", "attention", "around")]
    return medians(pd.concat(found, ignore_index=True)), device, dtype


def _read(path: Path) -> pd.DataFrame:
    try:
        table = pd.read_csv(path)
        good = table[table["status"] == "ok"]
        seconds = good["latency_us"].to_numpy(dtype=np.float64) * 1e-6
        keys = [_point(row).key for row in good.to_dict("records")]
    except FileNotFoundError as error:
        raise InputError("is not there: the run was cut before this part", file=str(path)) from error
    except (OSError, ValueError, KeyError, pd.errors.ParserError) as error:
        raise InputError(f"is damaged, or no table of calibration/run_gpu.sh ({error})", file=str(path)) from error
    if not (seconds > 0.0).all():
        raise InputError(
            f"a time is {good['latency_us'].min()}; times are positive microseconds", file=str(path), field="latency_us"
        )
    rows = zip(
        keys, good["op"], good["kernel"], good["repeat"], seconds, seconds, good["status"], good["at_s"], strict=True
    )
    return pd.DataFrame(rows, columns=list(COLUMNS))


def _columns(point: Point) -> dict[str, Any]:
    names = RENAMED.get(point.kind, {})
    extra = {"kv_tokens": 0} if point.kind == "prefill" else {}
    return {"op": point.kind, **{names.get(name, name): value for name, value in point.parameters}, **extra}


def _point(row: dict[str, Any]) -> Point:
    kind = str(row["op"])
    back = {new: old for old, new in RENAMED.get(kind, {}).items()}
    dropped = {*OWN, "kv_tokens"} if kind == "prefill" else set(OWN)
    known = {back.get(name, name): value for name, value in row.items() if name not in dropped and value == value}
    return Point.of(kind, **{name: int(value) for name, value in known.items()})
