"""One measuring session: where results go, when to stop, and what went wrong on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import torch

from calibration.gpu.readme import readme
from calibration.gpu.tables import refused, rows_of, table_of
from calibration.measure.device import Device, clocks
from calibration.measure.kernels import Workshop
from calibration.measure.points import Point
from calibration.measure.session import out_of_memory
from calibration.measure.timers import Prepared, Timing, WrongOutputError, time_kernels
from specsim.files import replace_file

SAVE_EVERY_S = 15.0


@dataclass(eq=False)
class Session:
    """Tables by name, written beside and renamed, often enough that a cut run is worth keeping."""

    found: Device
    workshop: Workshop
    out: Path
    repeats: int = 7
    begin: float = field(default_factory=time.monotonic)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    _saved: float = 0.0
    _changed: set[str] = field(default_factory=set)

    @property
    def device(self) -> torch.device:
        """What is measured."""
        return torch.device(self.found.kind)

    @property
    def cuda(self) -> bool:
        """Whether events and graphs exist."""
        return self.found.kind == "cuda"

    @property
    def elapsed_s(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self.begin

    def measure(self, points: Iterable[Point], until_s: float, *, variants: tuple[str, ...] = ()) -> None:
        """Rows of every point in its table until the clock says stop; ``variants``: only these, where any are named."""
        for point in points:
            if self.elapsed_s > until_s:
                self.note(f"out of time before {point.key}")
                return
            problem = self.attempt(point.key, lambda point=point: self._measure(point, variants))  # type: ignore[misc]
            if problem is not None:
                self.add(table_of(point), **refused(point, problem))

    def _measure(self, point: Point, variants: tuple[str, ...]) -> None:
        kernels = {name: k for name, k in self.workshop.prepare(point).items() if not variants or name in variants}
        for (name, kernel), timing in zip(kernels.items(), self.time(list(kernels.values())), strict=True):
            mode: Literal["graph", "eager"] = "graph" if self.cuda and not kernel.eager else "eager"
            for row in rows_of(point, name, timing, mode=mode, at_s=self.elapsed_s, default=kernel.default):
                self.add(table_of(point), dtype=str(self.workshop.dtype)[6:], **row)

    def time(self, kernels: list[Prepared]) -> list[Timing]:
        """Samples of prepared kernels, in turns."""
        return time_kernels(kernels, self.found.kind, repeats=self.repeats)

    def add(self, table: str, **row: Any) -> None:
        """One measured row; everything is saved now and then."""
        self.tables.setdefault(table, []).append(row)
        self._changed.add(table)
        if self.elapsed_s - self._saved > SAVE_EVERY_S:
            self.save()

    def note(self, line: str) -> None:
        """A line of the log, on the screen at once."""
        line = f"{self.elapsed_s:6.1f} s  {line}"
        self.notes.append(line)
        print(line, flush=True)

    def save(self) -> None:
        """Write every changed table, the machine, and what the folder says of itself."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name in sorted(self._changed):
            rows = pd.DataFrame(self.tables[name])
            replace_file(self.out / f"{name}.csv", lambda path, rows=rows: rows.to_csv(path, index=False))
        self._changed.clear()
        machine = json.dumps(self.machine, indent=1) + "\n"
        replace_file(self.out / "machine.json", lambda path: path.write_text(machine))
        about = readme(self.machine, self.tables, self.notes)
        replace_file(self.out / "README.md", lambda path: path.write_text(about))
        self._saved = self.elapsed_s

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the session: its failure is noted and the next part goes on; its results are saved at its end."""
        self.note(f"{name}: begins")
        self.machine.setdefault("clocks_seen", []).append({"at_s": round(self.elapsed_s, 1), **clocks(self.found)})
        before = sum(len(rows) for rows in self.tables.values())
        try:
            yield
        except Exception as error:  # one broken part must not cost the others
            self.note(f"{name}: FAILED, {type(error).__name__}: {_first_line(error)}")
        count = sum(len(rows) for rows in self.tables.values()) - before
        self.note(f"{name}: {count} rows")
        self.save()
        self.free()

    def attempt(self, what: str, work: Callable[[], None]) -> str | None:
        """Run ``work``; None, or how it failed, which is noted. Memory that ran out is given back."""
        try:
            work()
        except (RuntimeError, NotImplementedError, ValueError, MemoryError) as error:
            if out_of_memory(error):
                problem = "oom"
            else:
                problem = "wrong output" if isinstance(error, WrongOutputError) else _first_line(error)
        else:
            return None
        self.free()
        self.note(f"{what}: {problem}")
        return problem

    def free(self) -> None:
        """Give back memory that is only kept for what comes next."""
        self.workshop.release()
        if self.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]
