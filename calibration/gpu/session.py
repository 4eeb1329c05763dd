"""One measuring session: where results go, when to stop, and what went wrong on the way."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from calibration.gpu.timing import Timer

SAVE_EVERY_S = 15.0


@dataclass(eq=False)
class Session:
    """Tables by name, written beside and renamed, often enough that a cut run is worth keeping."""

    timer: Timer
    out: Path
    begin: float = field(default_factory=time.monotonic)
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    _saved: float = 0.0
    _changed: set[str] = field(default_factory=set)

    @property
    def device(self) -> torch.device:
        """What is measured."""
        return self.timer.device

    @property
    def elapsed_s(self) -> float:
        """Seconds since the session began."""
        return time.monotonic() - self.begin

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
        """Write every changed table, the machine and the log."""
        self.out.mkdir(parents=True, exist_ok=True)
        for name in sorted(self._changed):
            rows = pd.DataFrame(self.tables[name])
            _replace(self.out / f"{name}.csv", lambda path, rows=rows: rows.to_csv(path, index=False))
        self._changed.clear()
        machine = json.dumps(self.machine, indent=1) + "\n"
        _replace(self.out / "machine.json", lambda path: path.write_text(machine))
        _replace(self.out / "log.txt", lambda path: path.write_text("\n".join(self.notes) + "\n"))
        self._saved = self.elapsed_s

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """A part of the session: its failure is noted and the next part goes on; its results are saved at its end."""
        self.note(f"{name}: begins")
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
        """Run ``work``; None, or how it failed (noted once a kind). Memory that ran out is given back."""
        try:
            work()
        except torch.cuda.OutOfMemoryError:
            self.free()
            problem = "out of memory"
        except (RuntimeError, NotImplementedError, ValueError) as error:
            problem = _first_line(error)
        else:
            return None
        self.note(f"{what}: {problem}")
        return problem

    def free(self) -> None:
        """Give cached device memory back."""
        if self.timer.cuda:
            torch.cuda.synchronize()
            torch.cuda.empty_cache()


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [""])[0][:200]


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    beside.replace(path)
