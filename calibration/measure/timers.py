"""Timing of prepared kernels: events around captured graphs on CUDA, clocks around interleaved calls on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import numpy as np

from specsim.cost.shapes import Floats

P, R = ParamSpec("P"), TypeVar("R")

SHORTEST_SAMPLE_S = {"cpu": 2e-4, "cuda": 3e-3}
"""Calls are repeated within a sample until it takes about this long: a hundred times what reading a clock, or
launching a graph, takes."""
MOST_CALLS = 256


@dataclass
class Prepared:
    """A kernel with its buffers: ``run(i)`` executes it on the i-th of ``copies`` sets of inputs.

    beside: on a CPU, run untimed before every call: what lies between two kernels of a kind in a pass takes a
    processor's caches and predictors from them, which in a loop of its own a kernel would find all its own.
    ``output``: a tensor that every run overwrites. ``eager`` kernels are never captured and are timed by the host's
    clock (their time is the host's).
    """

    run: Callable[[int], Any]
    copies: int = 1
    beside: Callable[[], object] | None = None
    output: Any = None
    eager: bool = False
    reports: bool = False
    """Whether ``run`` returns the seconds itself (wall and processor, or one for both), of what of it is wanted."""
    default: bool = False
    """Whether it is the variant that PyTorch takes by itself."""


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one a sample: by the wall clock, and busy (this thread's processor time).

    On CUDA both are the device's time; of eager kernels the host's. spent_s: how long taking the samples took.
    """

    wall_s: Floats
    busy_s: Floats
    spent_s: float = 0.0


class WrongOutputError(RuntimeError):
    """A kernel left its output as it was, or not finite: it did not do the work that was timed."""


def time_kernels(
    kernels: Sequence[Prepared], device: str, *, repeats: int, limit_s: float = float("inf")
) -> list[Timing]:
    """Time kernels in turns, ``repeats`` samples each, so that a disturbance meets all of them alike.

    device: ``cpu`` or ``cuda``. On a CPU a kernel whose samples would take more than ``limit_s`` has fewer, but one.
    """
    if device == "cuda":
        return time_on_cuda(kernels, repeats=repeats)
    return time_on_cpu(kernels, repeats=repeats, limit_s=limit_s)


def _inferring(function: Callable[P, R]) -> Callable[P, R]:
    """As an engine runs its passes: without the bookkeeping that gradients need, which costs every eager operation."""

    @wraps(function)
    def inside(*args: P.args, **kwargs: P.kwargs) -> R:
        import torch

        with torch.inference_mode():
            return function(*args, **kwargs)

    return inside


@_inferring
def time_on_cpu(kernels: Sequence[Prepared], *, repeats: int, limit_s: float = float("inf")) -> list[Timing]:
    """Time kernels by the wall clock and by this thread's processor time."""
    loops, counts, spent = [], [], np.zeros(len(kernels))
    turn = [min(2, kernel.copies) % kernel.copies for kernel in kernels]  # the first two are warm from here
    for index, kernel in enumerate(kernels):
        begin = time.perf_counter()
        _check(kernel.run(0), kernel)
        spent[index] = time.perf_counter() - begin
        counts.append(int(np.clip(limit_s / max(spent[index], 1e-6), 1, repeats)))
        if kernel.reports or counts[-1] == 1:
            loops.append(1)
            continue
        loops.append(_calls(_call(kernel, min(1, kernel.copies - 1))[0], "cpu"))
    wall, busy = np.empty((len(kernels), repeats)), np.empty((len(kernels), repeats))
    for sample in range(repeats):
        for index, kernel in enumerate(kernels):
            if sample >= counts[index]:
                continue
            start, at, count = time.perf_counter(), turn[index], loops[index]
            if kernel.reports:
                taken = np.broadcast_to(kernel.run(0), (1, 2))
            else:
                taken = np.array([_call(kernel, i % kernel.copies) for i in range(at, at + count)])
            turn[index] = (at + count) % kernel.copies
            wall[index, sample], busy[index, sample] = taken.mean(axis=0)
            spent[index] += time.perf_counter() - start
    return [Timing(w[:n], b[:n], float(s)) for w, b, n, s in zip(wall, busy, counts, spent, strict=True)]


def _call(kernel: Prepared, index: int) -> tuple[float, float]:
    """Wall and processor seconds of one call."""
    if kernel.beside is not None:
        kernel.beside()
    begin, began = time.perf_counter_ns(), time.thread_time_ns()
    kernel.run(index)
    ended, end = time.thread_time_ns(), time.perf_counter_ns()
    return (end - begin) * 1e-9, (ended - began) * 1e-9


@_inferring
def time_on_cuda(kernels: Sequence[Prepared], *, repeats: int) -> list[Timing]:
    """Time kernels as captured graphs that rotate through their copies; eager ones by the host's clock.

    Each sample replays a graph once; the time is between two events. Before the first one the outputs of the graph's
    first and last call are poisoned with NaN, and must be finite after it.
    """
    import torch

    made = [_Made.of(kernel) for kernel in kernels]
    taken = np.empty((len(kernels), repeats))
    for sample in range(repeats):
        for index, (kernel, each) in enumerate(zip(kernels, made, strict=True)):
            if kernel.reports:
                taken[index, sample] = kernel.run(0)
                continue
            if sample == 0:
                each.poison()
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin = time.perf_counter()
            first.record()
            each.work()
            last.record()
            torch.cuda.synchronize()
            whole = time.perf_counter() - begin if kernel.eager else first.elapsed_time(last) * 1e-3
            taken[index, sample] = whole / each.calls
            if sample == 0:
                for out in each.outputs:
                    _check(out, kernel)
    return [Timing(seconds, seconds) for seconds in taken]


ASLEEP_CYCLES = 20_000_000
"""What the device sleeps while the host launches: about 10 ms."""


@_inferring
def launched(work: Callable[[], object], *, calls: int = 16) -> tuple[float, float]:
    """Seconds of a call on CUDA, the host's launching and the device's work told apart: it waits until all is launched.

    ``work`` must not wait for the device.
    """
    import torch

    work()
    torch.cuda.synchronize()
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda._sleep(ASLEEP_CYCLES)
    first.record()
    begin = time.perf_counter()
    for _ in range(calls):
        work()
    host = time.perf_counter() - begin
    last.record()
    torch.cuda.synchronize()
    return host / calls, first.elapsed_time(last) * 1e-3 / calls


@dataclass
class _Made:
    """What a sample executes on CUDA: ``calls`` of a kernel, in a graph or eagerly, and the outputs to look at."""

    work: Callable[[], object]
    calls: int
    outputs: list[Any]

    @classmethod
    def of(cls, kernel: Prepared) -> _Made:
        import torch

        if kernel.reports:
            return cls(lambda: None, 1, [])
        kernel.run(0)  # compiles, or loads what it needs
        torch.cuda.synchronize()
        begin = time.perf_counter()
        kernel.run(min(1, kernel.copies - 1))
        torch.cuda.synchronize()
        calls = max(kernel.copies, _calls(time.perf_counter() - begin, "cuda"))
        if kernel.eager:

            def eagerly() -> None:
                for i in range(calls):
                    kernel.run(i % kernel.copies)

            return cls(eagerly, calls, [])
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries must not initialise inside the capture
            kernel.run(0)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            # Outputs in between are given back to the graph's own memory, which so stays bounded.
            first = last = kernel.run(0)
            for i in range(1, calls):
                last = kernel.run(i % kernel.copies)
        graph.replay()
        written = [kernel.output] if kernel.output is not None else [first, last]
        return cls(graph.replay, calls, [x for x in written if isinstance(x, torch.Tensor) and x.is_floating_point()])

    def poison(self) -> None:
        for out in self.outputs:
            out.fill_(float("nan"))


def _calls(once_s: float, device: str) -> int:
    return int(np.clip(SHORTEST_SAMPLE_S[device] / max(once_s, 1e-7), 1, MOST_CALLS))


def _check(result: Any, kernel: Prepared) -> None:
    import torch

    out = result if isinstance(result, torch.Tensor) else kernel.output
    if isinstance(out, torch.Tensor) and out.is_floating_point() and not bool(torch.isfinite(out).all()):
        raise WrongOutputError("a kernel left its output unwritten or not finite")


def spread(seconds: Floats) -> float:
    """Distance of the quartiles over the median."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return float((high - low) / middle)
