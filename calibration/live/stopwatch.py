"""Time by phase: processor and wall seconds on a CPU, events on CUDA."""

from __future__ import annotations

import contextlib
import itertools
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(eq=False)
class Stopwatch:
    """Laps that are attributed to phases, grouped by round.

    On a CPU a lap is the calling thread's processor time, so that other processes on the machine are not counted; on
    CUDA it is the time between events in the stream, read when the run is over. ``wall_s`` is wall time everywhere.
    """

    device: torch.device
    marks: list[list[tuple[str, Any]]] = field(default_factory=list)
    walls: list[tuple[float, float]] = field(default_factory=list)

    def begin(self) -> None:
        """Start a round."""
        self.marks.append([("", self._now())])
        self.walls.append((time.perf_counter(), 0.0))

    def lap(self, phase: str) -> None:
        """Everything since the last mark was ``phase``."""
        self.marks[-1].append((phase, self._now()))

    def end(self) -> None:
        """End the round; what was not lapped counts as host."""
        self.lap("host")
        self.walls[-1] = (self.walls[-1][0], time.perf_counter())

    def wall_s(self) -> NDArray[np.float64]:
        """Wall seconds of each round."""
        return np.array([end - start for start, end in self.walls])

    def phases_s(self) -> dict[str, NDArray[np.float64]]:
        """Seconds of each phase in each round."""
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        names = sorted({phase for marks in self.marks for phase, _ in marks[1:]})
        out = {name: np.zeros(len(self.marks)) for name in names}
        for index, marks in enumerate(self.marks):
            for (_, before), (phase, after) in itertools.pairwise(marks):
                out[phase][index] += self._between(before, after)
        return out

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.thread_time_ns()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, before: Any, after: Any) -> float:
        if self.device.type != "cuda":
            return (after - before) * 1e-9
        return before.elapsed_time(after) * 1e-3


@dataclass
class Laps:
    """Wall and processor seconds of the calling thread in ``with`` blocks, summed."""

    wall_s: float = 0.0
    busy_s: float = 0.0

    def __enter__(self) -> None:
        self._wall, self._busy = time.perf_counter_ns(), time.thread_time_ns()

    def __exit__(self, *_: object) -> None:
        busy, wall = time.thread_time_ns(), time.perf_counter_ns()
        self.busy_s += (busy - self._busy) * 1e-9
        self.wall_s += (wall - self._wall) * 1e-9


NO_LAPS: contextlib.AbstractContextManager[None] = contextlib.nullcontext()
"""In the place of laps that nobody wants."""
