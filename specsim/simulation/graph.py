"""A program's legs as the expanded executor walks them, each with its price, and the price of a batch of them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

from specsim.simulation.legs import Leg, legs_of
from specsim.simulation.mixed import Chunk
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import RoundProgram
from specsim.simulation.servers import Job
from specsim.simulation.topology import Topology


class Graph:
    """Legs, their prices, who follows whom, and how many end the round; checked against the topology."""

    def __init__(self, program: RoundProgram, topology: Topology, max_kv_tokens: int) -> None:
        self.k = program.k
        self.legs = legs_of(program, topology.devices)
        self.prices = [LegPrice(leg, max_kv_tokens) for leg in self.legs]
        self.missing = [len(leg.after) for leg in self.legs]
        self.after = [tuple(j for j, other in enumerate(self.legs) if i in other.after) for i in range(len(self.legs))]
        self.roots = tuple(i for i, n in enumerate(self.missing) if n == 0)
        self.sinks = sum(not after for after in self.after)
        here = [
            tuple(j for j in after if self.legs[j].device == self.legs[i].device) for i, after in enumerate(self.after)
        ]
        self.after_here = here
        self.after_away = [tuple(j for j in after if j not in here[i]) for i, after in enumerate(self.after)]
        home = topology.home
        self.at_home = [home is None or home == leg.device for leg in self.legs]
        self.last = self.legs[-1].name
        for i, leg in enumerate(self.legs):
            for j in self.after[i]:
                topology.needs_link(leg.device, self.legs[j].device)
            if topology.home is not None:
                if i in self.roots:
                    topology.needs_link(topology.home, leg.device)
                if not self.after[i]:
                    topology.needs_link(leg.device, topology.home)


class LegPrice:
    """Seconds of one leg, from the same tables as the folded executor's."""

    def __init__(self, leg: Leg, max_kv_tokens: int) -> None:
        self.k, self.passes = leg.program.k, leg.name
        self._pricer = Pricer(leg.program, max_kv_tokens)
        self._tables: dict[int, tuple[list[float], list[float]] | float] = {}

    def decode(self, sequences: int, kv_tokens: float) -> float:
        """Seconds for so many decoding sequences with so many cached tokens, summed."""
        table = self._tables.get(sequences)
        if table is None:
            knots, seconds = self._pricer.decode_table(sequences)
            constant = bool((seconds == seconds[0]).all())
            table = float(seconds[0]) if constant else (knots.tolist(), seconds.tolist())
            self._tables[sequences] = table
        if isinstance(table, float):
            return table
        x, y = table
        i = bisect_right(x, kv_tokens)
        if i == 0:
            return y[0]
        if i == len(x):
            return y[-1]
        return (y[i] - y[i - 1]) / (x[i] - x[i - 1]) * (kv_tokens - x[i - 1]) + y[i - 1]

    def mixed(self, sequences: int, kv_tokens: float, chunks: tuple[Chunk, ...]) -> float:
        """Seconds with prefill chunks beside them."""
        return self._pricer.mixed(sequences, kv_tokens, chunks)


def batch_seconds(jobs: Sequence[Job]) -> tuple[float, int]:
    """Seconds of a batch, its decoding jobs as long as the longest and its prompts as chunks beside them; and how many
    jobs decode. Where they run different passes, it lasts as long as the passes that take longest for all of it.
    """
    if len(jobs) == 1:
        price, kv, chunk, _ = jobs[0].what
        if chunk is None:
            return float(price.decode(1, kv)), 1
    chunks: list[Chunk] = []
    decoding = cached = 0
    longest: dict[str, LegPrice] = {}
    for job in jobs:
        price, kv, chunk, _ = job.what
        if chunk is None:
            decoding += 1
            cached += kv
        else:
            chunks.append(chunk)
        known = longest.get(price.passes)
        if known is None or price.k > known.k:
            longest[price.passes] = price
    if not chunks:
        return max(float(price.decode(decoding, cached)) for price in longest.values()), decoding
    return max(float(price.mixed(decoding, cached, tuple(chunks))) for price in longest.values()), decoding
