"""CUDA's calls replaced: captures run at once and are recorded, every time between events is 2 ms."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch


class Recorder:
    """Stands in for torch.cuda: a graph replays the calls that ran while it was captured, or does nothing."""

    def __init__(self, *, replays: bool = True) -> None:
        self.replays, self.capturing, self.log, self.graphs, self.slept = replays, None, [], [], []

    def kernel(self, run: Callable[[int], Any]) -> Callable[[int], Any]:
        def called(i: int) -> Any:
            if self.capturing is not None:
                self.capturing.append((run, i))
            self.log.append(i)
            return run(i)

        return called

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        recorder = self

        class Graph:
            def __init__(self) -> None:
                self.calls: list[Any] = []
                recorder.graphs.append(self)

            def replay(self) -> None:
                for run, i in self.calls if recorder.replays else ():
                    run(i)

        class Stream:
            def wait_stream(self, _: Any) -> None:
                pass

        class Event:
            def __init__(self, **_: Any) -> None:
                pass

            def record(self) -> None:
                pass

            def elapsed_time(self, _: Any) -> float:
                return 2.0

        @contextlib.contextmanager
        def capture(graph: Graph) -> Iterator[None]:
            recorder.capturing = graph.calls
            yield
            recorder.capturing = None

        for name, value in {
            "CUDAGraph": Graph,
            "Stream": Stream,
            "Event": Event,
            "graph": capture,
            "stream": lambda _: contextlib.nullcontext(),
            "current_stream": Stream,
            "synchronize": lambda: None,
            "_sleep": recorder.slept.append,
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)
