"""Which of a device's instances serves a stream: seven rules, each a small object with its own memory and draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specsim.errors import InputError
from specsim.simulation.servers import Server
from specsim.simulation.topology import Router


def random_router(rng: np.random.Generator) -> Router:
    """Any instance, all alike."""
    return lambda servers: int(rng.integers(len(servers)))


def round_robin() -> Router:
    """One after the other."""
    turn = -1

    def route(servers: Sequence[Server]) -> int:
        nonlocal turn
        turn = (turn + 1) % len(servers)
        return turn

    return route


def join_shortest_queue(rng: np.random.Generator) -> Router:
    """The instance with fewest streams on it, ties at random."""
    return lambda servers: _least([float(s.streams) for s in servers], range(len(servers)), rng)


def shortest_of_two(rng: np.random.Generator) -> Router:
    """The shorter of two drawn at random (the power of two choices)."""
    return lambda servers: _least([float(s.streams) for s in servers], _two(servers, rng), rng)


def weighted_shortest_of_two(rng: np.random.Generator, time_factor: Sequence[float]) -> Router:
    """The one of two that would be done first: (streams + 1) times its time factor."""

    def route(servers: Sequence[Server]) -> int:
        if len(time_factor) != len(servers):
            raise InputError(f"{len(time_factor)} factors for {len(servers)} instances", field="router: time_factor")
        cost = [(s.streams + 1) * f for s, f in zip(servers, time_factor, strict=True)]
        return _least(cost, _two(servers, rng), rng)

    return route


def join_idle_queue(rng: np.random.Generator) -> Router:
    """An instance without streams where there is one, else any."""

    def route(servers: Sequence[Server]) -> int:
        idle = [n for n, s in enumerate(servers) if s.streams == 0] or range(len(servers))
        return int(idle[int(rng.integers(len(idle)))])

    return route


def fastest_progress(rng: np.random.Generator, time_factor: Sequence[float]) -> Router:
    """Semi-clairvoyant: it knows how fast each instance is, and joins where (streams + 1) x time factor is least."""

    def route(servers: Sequence[Server]) -> int:
        if len(time_factor) != len(servers):
            raise InputError(f"{len(time_factor)} factors for {len(servers)} instances", field="router: time_factor")
        cost = [(s.streams + 1) * f for s, f in zip(servers, time_factor, strict=True)]
        return _least(cost, range(len(servers)), rng)

    return route


def _two(servers: Sequence[Server], rng: np.random.Generator) -> list[int]:
    if len(servers) == 1:
        return [0]
    return [int(n) for n in rng.choice(len(servers), size=2, replace=False)]


def _least(cost: Sequence[float], among: Sequence[int], rng: np.random.Generator) -> int:
    best = min(cost[n] for n in among)
    equal = [n for n in among if cost[n] == best]
    return equal[int(rng.integers(len(equal)))] if len(equal) > 1 else equal[0]
