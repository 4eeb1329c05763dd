"""Seconds of device work: graphs of many calls over rotating buffers on CUDA, the thread's clock on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

NOISY = 0.10
"""Spread of samples, (90th - 10th percentile) / median, past which a point is marked."""

Call = Callable[[int], Tensor]
"""Work on the buffers of one index; gives its output."""


@dataclass(frozen=True)
class Timing:
    """Median seconds of one call, spread of the samples, and how they were taken; ``wrong`` says that output failed."""

    seconds: float
    spread: float
    samples: int
    calls: int
    mode: str
    wrong: bool = False

    def row(self) -> dict[str, object]:
        """Columns of a table; times in microseconds."""
        return {
            "latency_us": round(self.seconds * 1e6, 3),
            "spread": round(self.spread, 4),
            "samples": self.samples,
            "calls": self.calls,
            "mode": self.mode,
            "noisy": int(self.spread > NOISY),
            "wrong": int(self.wrong),
        }


@dataclass(frozen=True)
class Timer:
    """How long calls take on ``device``; ``sample_s`` is about how long one sample lasts."""

    device: torch.device
    samples: int = 7
    sample_s: float = 1.5e-3
    most_calls: int = 64

    @property
    def cuda(self) -> bool:
        """Whether events and graphs exist."""
        return self.device.type == "cuda"

    def copies(self, touched_bytes: float) -> int:
        """Buffers that calls must rotate over so that none finds its data in the last-level cache."""
        if not self.cuda:
            return 1
        wanted = math.ceil(2.0 * self.last_level_cache_bytes / max(touched_bytes, 1.0))
        return max(1, min(self.most_calls, wanted))

    @property
    def last_level_cache_bytes(self) -> int:
        """Bytes of the cache shared by all multiprocessors; 64 MiB where PyTorch does not say."""
        return int(getattr(torch.cuda.get_device_properties(self.device), "L2_cache_size", 64 << 20))

    @torch.inference_mode()
    def time(self, call: Call, *, copies: int = 1, mode: Literal["graph", "eager"] = "graph") -> Timing:
        """Median over samples of the mean call; on CUDA a graph of calls (or eager ones) between two events."""
        for _ in range(2):
            call(0)
        calls = self._calls(call, copies)
        if not self.cuda:
            return self._on_cpu(call, calls, copies)
        if mode == "eager":
            return self._between_events(lambda: _last(call, calls, copies), calls, "eager")
        graph, outputs = self._captured(call, calls, copies)
        for out in outputs:
            out.fill_(float("nan"))
        graph.replay()
        torch.cuda.synchronize()
        wrong = not all(bool(torch.isfinite(out).all()) for out in outputs)
        timing = self._between_events(graph.replay, calls, "graph", wrong=wrong)
        graph.reset()
        return timing

    def _calls(self, call: Call, copies: int) -> int:
        if not self.cuda:
            begin = time.thread_time()
            call(0)
            once = time.thread_time() - begin
        else:
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            call(0)
            end.record()
            torch.cuda.synchronize()
            once = start.elapsed_time(end) * 1e-3
        return int(min(self.most_calls, max(copies, math.ceil(self.sample_s / max(once, 1e-7)), 1)))

    def _captured(self, call: Call, calls: int, copies: int) -> tuple[torch.cuda.CUDAGraph, list[Tensor]]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            call(0)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            # Early outputs are given back to the graph's pool, so memory stays bounded; first and last are checked.
            first = call(0)
            last = first
            for index in range(1, calls):
                last = call(index % copies)
        return graph, [first] if first is last else [first, last]

    def _between_events(self, work: Callable[[], object], calls: int, mode: str, *, wrong: bool = False) -> Timing:
        for _ in range(2):
            work()
        marks = []
        for _ in range(self.samples):
            start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
            start.record()
            work()
            end.record()
            marks.append((start, end))
        torch.cuda.synchronize()
        return _summary([start.elapsed_time(end) * 1e-3 / calls for start, end in marks], calls, mode, wrong=wrong)

    def _on_cpu(self, call: Call, calls: int, copies: int) -> Timing:
        taken = []
        for _ in range(self.samples):
            begin = time.thread_time()
            out = _last(call, calls, copies)
            taken.append((time.thread_time() - begin) / calls)
        return _summary(taken, calls, "cpu", wrong=not bool(torch.isfinite(out).all()))


def _last(call: Call, calls: int, copies: int) -> Tensor:
    for index in range(calls):
        out = call(index % copies)
    return out


def _summary(taken: Sequence[float], calls: int, mode: str, *, wrong: bool) -> Timing:
    low, middle, high = np.percentile(taken, [10, 50, 90])
    return Timing(float(middle), float((high - low) / middle) if middle else 0.0, len(taken), calls, mode, wrong)
