"""Timing of prepared kernels: events around captured graphs on CUDA, clocks around interleaved calls on a CPU."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specsim.cost.shapes import Floats

SHORTEST_SAMPLE_S = 2e-4
"""Calls are repeated within a sample until it takes about this long: a hundred times what reading a clock takes."""
LONGEST_LOOP = 200


@dataclass
class Prepared:
    """A kernel with its buffers: ``run(i)`` executes it on the i-th of ``copies`` sets of inputs.

    ``output``: a tensor that every run overwrites, or a function that returns it. ``eager`` kernels are never captured
    and are timed by the host's clock (their time is the host's).
    """

    run: Callable[[int], Any]
    copies: int = 1
    output: Any = None
    eager: bool = False
    reports: bool = False
    """Whether ``run`` returns the seconds itself, of the part of it that is wanted."""
    held: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Timing:
    """Seconds a call, one a sample: by the wall clock, and busy (this thread's processor time; CUDA: the device's)."""

    wall_s: Floats
    busy_s: Floats


class WrongOutputError(RuntimeError):
    """A kernel left its output as it was, or not finite: it did not do the work that was timed."""


def time_on_cpu(kernels: Sequence[Prepared], *, repeats: int, limit_s: float = float("inf")) -> list[Timing]:
    """Time kernels in turns, ``repeats`` samples each, so that a disturbance meets all of them alike.

    A kernel whose samples would take more than ``limit_s`` has fewer, but one.
    """
    loops, turn, counts = [], [0] * len(kernels), []
    for kernel in kernels:
        begin = time.perf_counter()
        _check(kernel.run(0), kernel)
        counts.append(int(np.clip(limit_s / max(time.perf_counter() - begin, 1e-6), 1, repeats)))
        if kernel.reports or counts[-1] == 1:
            loops.append(1)
            continue
        start = time.perf_counter()
        kernel.run(min(1, kernel.copies - 1))
        once = max(time.perf_counter() - start, 1e-7)
        loops.append(int(np.clip(SHORTEST_SAMPLE_S / once, 1, LONGEST_LOOP)))
    wall, busy = np.empty((len(kernels), repeats)), np.empty((len(kernels), repeats))
    for sample in range(repeats):
        for index, kernel in enumerate(kernels):
            if sample >= counts[index]:
                continue
            run, count, copies, at = kernel.run, loops[index], kernel.copies, turn[index]
            if kernel.reports:
                wall[index, sample] = busy[index, sample] = run(0)
                continue
            begin, began = time.perf_counter_ns(), time.thread_time_ns()
            for i in range(at, at + count):
                run(i % copies)
            ended, end = time.thread_time_ns(), time.perf_counter_ns()
            turn[index] = (at + count) % copies
            wall[index, sample] = (end - begin) * 1e-9 / count
            busy[index, sample] = (ended - began) * 1e-9 / count
    return [Timing(w[:n], b[:n]) for w, b, n in zip(wall, busy, counts, strict=True)]


def time_on_cuda(kernels: Sequence[Prepared], *, repeats: int, limit_s: float = float("inf")) -> list[Timing]:
    """Time kernels as captured graphs that rotate through their copies, in turns; eager ones by the host's clock.

    Each sample replays a graph once, after poisoning the output with NaN; the time is between two events.
    ``limit_s`` is a CPU's concern: what fits a GPU's memory does not take it long.
    """
    del limit_s
    import torch

    graphs: list[Any] = []
    outputs: list[Any] = []
    for kernel in kernels:
        if kernel.eager:
            if not kernel.reports:
                kernel.run(0)
                torch.cuda.synchronize()
            graphs.append(None)
            outputs.append(kernel.output)
            continue
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # libraries must not initialise inside the capture
            for i in range(min(3, kernel.copies) + 1):
                kernel.run(i % kernel.copies)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        written = kernel.output
        with torch.cuda.graph(graph):
            for i in range(kernel.copies):
                result = kernel.run(i)
        if written is None and isinstance(result, torch.Tensor):
            written = result  # in the graph's own memory: every replay writes it again
        graph.replay()
        graphs.append(graph)
        outputs.append(written)
    wall, busy = np.empty((len(kernels), repeats)), np.empty((len(kernels), repeats))
    for sample in range(repeats):
        for index, (kernel, graph, written) in enumerate(zip(kernels, graphs, outputs, strict=True)):
            if kernel.reports:
                wall[index, sample] = busy[index, sample] = kernel.run(0)
                continue
            if isinstance(written, torch.Tensor) and written.is_floating_point():
                written.fill_(float("nan"))
            first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            torch.cuda.synchronize()
            begin = time.perf_counter()
            first.record()
            out = None
            if graph is None:
                for i in range(kernel.copies):
                    out = kernel.run(i)
            else:
                graph.replay()
            last.record()
            torch.cuda.synchronize()
            count = kernel.copies
            wall[index, sample] = (time.perf_counter() - begin) / count
            busy[index, sample] = first.elapsed_time(last) * 1e-3 / count
            if sample == 0:
                _check(written if written is not None else out, kernel)
    return [Timing(w, w if kernel.eager else b) for w, b, kernel in zip(wall, busy, kernels, strict=True)]


def _check(result: Any, kernel: Prepared) -> None:
    import torch

    out = result if isinstance(result, torch.Tensor) else kernel.output
    if isinstance(out, torch.Tensor) and out.is_floating_point() and not bool(torch.isfinite(out).all()):
        raise WrongOutputError("a kernel left its output unwritten or not finite")


def spread(seconds: Floats) -> float:
    """Distance of the quartiles over the median."""
    low, middle, high = np.quantile(seconds, [0.25, 0.5, 0.75])
    return float((high - low) / middle)
