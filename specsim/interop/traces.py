"""Read recorded requests: four public layouts, told apart by their columns.

=============  ==========================================================  ======================
layout         columns                                                     time
=============  ==========================================================  ======================
Splitwise      arrived_at, num_prefill_tokens, num_decode_tokens           seconds
Azure LLM      TIMESTAMP, ContextTokens, GeneratedTokens                   date and time
BurstGPT       Timestamp, ..., Request tokens, Response tokens             seconds
Mooncake       JSON lines: timestamp, input_length, output_length          milliseconds
=============  ==========================================================  ======================
"""

from __future__ import annotations

import csv
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from specsim.errors import InputError
from specsim.simulation.workload import Trace


@dataclass(frozen=True)
class Layout:
    """Names of a layout's columns, and what its time is in."""

    name: str
    time: str
    prompt: str
    output: str
    unit: Literal["s", "ms", "datetime"]

    @property
    def columns(self) -> tuple[str, str, str]:
        """The three columns that are read."""
        return self.time, self.prompt, self.output


CSV_LAYOUTS = (
    Layout("Splitwise", "arrived_at", "num_prefill_tokens", "num_decode_tokens", "s"),
    Layout("Azure LLM", "TIMESTAMP", "ContextTokens", "GeneratedTokens", "datetime"),
    Layout("BurstGPT", "Timestamp", "Request tokens", "Response tokens", "s"),
)
MOONCAKE = Layout("Mooncake", "timestamp", "input_length", "output_length", "ms")


def read_trace(path: str | Path, *, rate_per_s: float | None = None) -> Trace:
    """The requests of a trace file, first arrival at 0; ``rate_per_s`` stretches them to that mean rate.

    Raises InputError naming the file, the row (1 is the first record) and the field where the layout is unknown, or a
    value is missing, not a number, below 1 token, or earlier than the one before.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InputError(f"cannot be read: {error.strerror}", file=str(path)) from error
    except UnicodeDecodeError as error:
        raise InputError("is not a text file; give a CSV or JSON lines", file=str(path)) from error
    lines = [line for line in text.splitlines() if line.strip()]
    if not lines:
        raise InputError("is empty; a trace needs at least one request", file=str(path))
    if lines[0].lstrip().startswith("{"):
        layout, records = MOONCAKE, _json_records(lines, path)
    else:
        layout, records = _csv_records(lines, path)
    arrivals: list[float] = []
    prompts: list[int] = []
    outputs: list[int] = []
    for row, record in enumerate(records, start=1):
        at = _time(record, layout, path, row)
        if arrivals and at < arrivals[-1]:
            raise _wrong(
                path, row, layout.time, f"{record[layout.time]!r} is earlier than the row before; sort the file by time"
            )
        arrivals.append(at)
        prompts.append(_tokens(record, layout.prompt, path, row))
        outputs.append(_tokens(record, layout.output, path, row))
    if not arrivals:
        raise InputError("has a header and no rows; a trace needs at least one request", file=str(path))
    return Trace(tuple(at - arrivals[0] for at in arrivals), tuple(prompts), tuple(outputs), rate_per_s)


def _csv_records(lines: list[str], path: Path) -> tuple[Layout, Iterator[Mapping[str, Any]]]:
    rows = csv.DictReader(lines, skipinitialspace=True)
    columns = [name for name in rows.fieldnames or [] if name]
    for layout in CSV_LAYOUTS:
        if all(name in columns for name in layout.columns):
            return layout, iter(rows)
    known = "; ".join(f"{layout.name}: {', '.join(layout.columns)}" for layout in (*CSV_LAYOUTS, MOONCAKE))
    raise InputError(f"columns {', '.join(columns) or 'none'} are of no known trace ({known})", file=str(path))


def _json_records(lines: list[str], path: Path) -> Iterator[Mapping[str, Any]]:
    for row, line in enumerate(lines, start=1):
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"not JSON: {error.msg}; give one object a line", file=f"{path}, row {row}") from error
        if not isinstance(record, dict):
            raise InputError("not a JSON object; give one object a line", file=f"{path}, row {row}")
        yield record


def _time(record: Mapping[str, Any], layout: Layout, path: Path, row: int) -> float:
    """Seconds, from the layout's own zero."""
    value = record.get(layout.time)
    if layout.unit == "datetime":
        # Azure's ticks are 100 ns, one digit more than Python keeps.
        parts = re.fullmatch(r"([^.]*?)(\.\d+)?(Z|[+-]\d\d:\d\d)?", str(value).strip())
        try:
            whole, fraction, zone = parts.groups() if parts else ("", None, None)
            return datetime.fromisoformat(whole + (zone or "+00:00")).timestamp() + float(fraction or 0)
        except ValueError:
            raise _wrong(path, row, layout.time, f"{value!r} is not a date and time") from None
    return _number(value, path, row, layout.time) * (1e-3 if layout.unit == "ms" else 1.0)


def _tokens(record: Mapping[str, Any], name: str, path: Path, row: int) -> int:
    value = _number(record.get(name), path, row, name)
    if value < 1 or value != int(value):
        raise _wrong(
            path,
            row,
            name,
            f"{record.get(name)} is not a number of tokens; give a whole number, at least 1 (drop failed requests)",
        )
    return int(value)


def _number(value: Any, path: Path, row: int, name: str) -> float:
    if value is None or value == "":
        raise _wrong(path, row, name, "missing")
    try:
        number = float(value)
    except (TypeError, ValueError):
        raise _wrong(path, row, name, f"{value!r} is not a number") from None
    if not math.isfinite(number):
        raise _wrong(path, row, name, f"{value!r} is not a finite number")
    return number


def _wrong(path: Path, row: int, name: str, problem: str) -> InputError:
    return InputError(problem, file=f"{path}, row {row}", field=name)
