"""How an engine executes a pass: captured graphs and their padding, block size, and the work of its host."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.cost.shapes import Floats, StepTime, Term, Trust
from specsim.errors import InputError


@dataclass(frozen=True)
class HostCost:
    """Seconds a step and a sequence, with the factors of its 5th and 95th percentile around them."""

    step_s: float
    sequence_s: float
    low: float
    high: float
    source: str


@dataclass(frozen=True)
class Engine:
    """An engine's rules, and the cost of its host.

    graph_sizes: captured sizes, in tokens or sequences as ``graph_unit`` says. mixed: what a batch with prefill runs
    in (``piecewise``: graphs around eager attention, up to the largest size; ``eager``). schedule: host work that the
    GPU waits for, a step and a sequence; sampling: a step and a row of logits. launch_s: seconds a kernel launched
    eagerly takes the host, hidden behind the GPU's own time where that is longer. unsplit_on: GPUs on which attention
    of several query tokens over a cache doesn't split the cache between blocks.
    """

    name: str
    version: str
    block_size: int
    graph_sizes: tuple[int, ...]
    graph_unit: Literal["tokens", "sequences"]
    mixed: Literal["piecewise", "eager"]
    rules_source: str
    schedule: HostCost
    sampling: HostCost
    launch_s: float
    launch_source: str
    unsplit_on: tuple[str, ...] = ()
    unsplit_source: str = ""

    def host_time(self, sequences: ArrayLike, *, query_tokens: ArrayLike, drafted: ArrayLike = 0) -> StepTime:
        """Host and sampler work of a step over ``sequences``; terms ``schedule`` and ``sampling`` of family ``host``.

        query_tokens: tokens scheduled in the step (sequences that only prefill sample nothing until their prompt ends,
        which is not told apart). drafted: drafted tokens that a step verifies (each is a row of logits to compare).
        """
        n = np.asarray(sequences, dtype=np.float64)
        rows = np.minimum(n + np.asarray(drafted, dtype=np.float64), np.maximum(np.asarray(query_tokens, float), n))
        schedule = self.schedule.step_s + self.schedule.sequence_s * n
        sampling = self.sampling.step_s + self.sampling.sequence_s * rows
        trust = np.full(np.shape(schedule), Trust.TRANSFERRED, dtype=np.int8)
        return StepTime(
            {
                "schedule": Term(np.asarray(schedule), "host", trust),
                "sampling": Term(np.asarray(sampling), "host", np.full(np.shape(sampling), 4, dtype=np.int8)),
            }
        )

    def padded(self, tokens: Floats, sequences: Floats) -> tuple[Floats, NDArray[np.bool_]]:
        """Tokens after padding to the next captured size, and whether such a size exists (else as they are)."""
        sizes = self._sizes
        if not sizes.size:
            return tokens, np.zeros(np.shape(tokens), dtype=np.bool_)
        unit = tokens if self.graph_unit == "tokens" else sequences
        index = np.searchsorted(sizes, unit - 1e-9)
        inside = index < sizes.size
        size = sizes[np.minimum(index, sizes.size - 1)]
        if self.graph_unit == "sequences":
            size = size * (tokens / np.maximum(sequences, 1.0))
        return np.where(inside & (tokens > 0.0), np.maximum(size, tokens), tokens), inside

    @property
    def _sizes(self) -> Floats:
        return _as_array(self.graph_sizes)


@cache
def _as_array(sizes: tuple[int, ...]) -> Floats:
    return np.array(sizes, dtype=np.float64)


def engine_names() -> tuple[str, ...]:
    """Names of the engines that ship."""
    return tuple(_tables())


def load_engine(name: str) -> Engine:
    """The engine called ``name``; InputError naming the nearest one otherwise."""
    if name not in _tables():
        near = difflib.get_close_matches(name, engine_names(), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise InputError(f"no engine {name!r}{hint} shipped: {', '.join(engine_names())}", field="engine")
    return _read(name)


@cache
def _read(name: str) -> Engine:
    table = dict(_tables()[name])
    sizes: list[int] = []
    for part in table.pop("graph_sizes"):
        sizes.extend(range(part["from"], part["to"] + 1, part["step"]) if isinstance(part, dict) else [part])
    table["unsplit_on"] = tuple(table.get("unsplit_on", ()))
    schedule, sampling = HostCost(**table.pop("schedule")), HostCost(**table.pop("sampling"))
    return Engine(name=name, graph_sizes=tuple(sizes), schedule=schedule, sampling=sampling, **table)


@cache
def _tables() -> Mapping[str, Any]:
    return tomllib.loads(resources.files("specsim.cost").joinpath("engines.toml").read_text(encoding="utf-8"))
