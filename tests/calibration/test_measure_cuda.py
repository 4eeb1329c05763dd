"""The CUDA side of measuring, with CUDA's calls replaced: order, poison and rotation; and its attention on a CPU."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from calibration.measure.device import Device
from calibration.measure.kernels import Workshop
from calibration.measure.points import Point
from calibration.measure.timers import Prepared, WrongOutputError, time_on_cuda


class Recorder:
    """Stands in for torch.cuda: a graph replays the calls that ran while it was captured, or does nothing."""

    def __init__(self, *, replays: bool = True) -> None:
        self.replays, self.capturing, self.log = replays, None, []

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
        }.items():
            monkeypatch.setattr(torch.cuda, name, value)


def test_a_graph_holds_every_copy_and_its_time_is_shared_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, out = Recorder(), torch.zeros(3)
    recorder.install(monkeypatch)
    kernel = Prepared(recorder.kernel(lambda i: out.fill_(float(i))), copies=4, output=out)
    (timing,) = time_on_cuda([kernel], repeats=5)
    np.testing.assert_allclose(timing.busy_s, 2e-3 / 4)
    assert set(recorder.log) == {0, 1, 2, 3}
    assert recorder.log[-4:] == [0, 1, 2, 3]


def test_an_output_that_a_replay_leaves_poisoned_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, out = Recorder(replays=False), torch.zeros(3)
    recorder.install(monkeypatch)
    for kernel in (
        Prepared(recorder.kernel(lambda _: out.fill_(1.0)), copies=2, output=out),
        Prepared(recorder.kernel(lambda _: out.add_(0.0)), copies=2),  # its own result, in the graph's memory
    ):
        with pytest.raises(WrongOutputError):
            time_on_cuda([kernel], repeats=1)


def test_eager_kernels_and_reported_times_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder().install(monkeypatch)
    eager, reported = time_on_cuda(
        [
            Prepared(lambda _: torch.zeros(1), copies=2, eager=True),
            Prepared(lambda _: 3e-4, eager=True, reports=True),
        ],
        repeats=3,
    )
    assert (eager.busy_s == eager.wall_s).all()
    assert reported.wall_s.tolist() == [3e-4] * 3


@pytest.mark.parametrize("queries", [1, 3])
def test_every_backend_computes_what_the_masked_kernel_computes(queries: int) -> None:
    workshop = Workshop(Device("cpu", "here", 1 << 34, 1 << 20, 1, 1), torch.float32, 1.0)
    point = Point.of("attention", queries=queries, batch=2, cached=32 - queries, heads=4, kv_heads=2, head_dim=32)
    masked = workshop.prepare(point)["masked"].run(0)
    caches = [(workshop._random(2, 2, 32, 32), workshop._random(2, 2, 32, 32))]
    others = workshop._flash(workshop._random(2, 4, queries, 32), caches, 32, 1)
    assert "flash" in others
    for kernel in others.values():
        torch.testing.assert_close(kernel.run(0).reshape(masked.shape), masked)
