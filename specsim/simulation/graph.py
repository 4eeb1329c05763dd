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
        self.k, self.bonus = program.k, program.bonus
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
        self.devices = [leg.device for leg in self.legs]
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

    def added(self, sequences: int, kv_tokens: float, chunks: tuple[Chunk, ...]) -> float:
        """Seconds that prefill chunks add to an iteration that decodes."""
        return self.mixed(sequences, kv_tokens, chunks) - self.decode(sequences, kv_tokens)


def batch_seconds(jobs: Sequence[Job]) -> tuple[float, int]:
    """Seconds of a batch, and how many of its jobs decode.

    The decoding jobs are as long as the longest of them, prompts are chunks beside it. Where jobs run different passes,
    the batch lasts as long as the passes that take longest for all of it. Prompts whose passes no decoding job runs add
    what they add to their own program.
    """
    if len(jobs) == 1:
        price, kv, chunk, _ = jobs[0].what
        if chunk is None:
            return float(price.decode(1, kv)), 1
    chunks: list[Chunk] = []
    decoding = cached = 0
    longest: dict[str, LegPrice] = {}
    prompts: dict[str, LegPrice] = {}
    last: LegPrice | None = None
    for job in jobs:
        price, kv, chunk, _ = job.what
        if chunk is not None:
            chunks.append(chunk)
            prompts[price.passes] = price
            continue
        decoding += 1
        cached += kv
        if price is not last:
            last = price
            known = longest.get(price.passes)
            if known is None or price.k > known.k:
                longest[price.passes] = price
    if not chunks:
        return max(float(price.decode(decoding, cached)) for price in longest.values()), decoding
    beside = tuple(chunks)
    if not decoding:
        return max(price.mixed(0, 0, beside) for price in prompts.values()), 0
    took = max(price.mixed(decoding, cached, beside) for price in longest.values())
    others = [price for passes, price in prompts.items() if passes not in longest]
    if others:
        alone = max(price.decode(decoding, cached) for price in longest.values())
        took = max(took, alone + max(price.added(decoding, cached, beside) for price in others))
    return took, decoding
