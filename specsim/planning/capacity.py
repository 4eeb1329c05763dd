"""The request rate that one replica sustains under its limits: bracketed in closed form, found by simulation."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from specsim.planning.deployment import Candidate, Deployment
from specsim.scenario.sections import Slo
from specsim.simulation.engine import simulate
from specsim.simulation.metrics import counted_in_loop
from specsim.simulation.pricing import Pricer
from specsim.simulation.result import Result
from specsim.simulation.workload import ClosedLoop, Workload

RATE_TOLERANCE = 0.02
"""Relative width at which the search for the sustained rate stops."""


@dataclass(frozen=True)
class Sustained:
    """The largest rate found to keep every limit, and what breaks first just above it.

    by_replication: the same rate where each replication is judged alone, shape (replications,).
    """

    rate_per_s: float
    binding: str
    by_replication: tuple[float, ...]


class Replica:
    """One replica of a deployment with a fixed drafter and draft length, asked for its behaviour at any rate.

    Replication i draws the same requests and the same acceptance at every rate and for every drafter.
    """

    def __init__(self, deployment: Deployment, candidate: Candidate | None, k: int) -> None:
        self.deployment = deployment
        self.candidate = candidate
        self.k = k
        self._pricers: dict[int, Pricer] = {}

    def run(self, replication: int, *, rate_per_s: float | None = None, requests: int) -> Result:
        """Simulate ``requests`` of the traffic at ``rate_per_s`` (None: as the scenario has it)."""
        workload = self.deployment.workload
        assert workload is not None
        seed = np.random.SeedSequence(self.deployment.scenario.simulation.seed, spawn_key=(replication,))
        return simulate(
            self.deployment.program(self.candidate, self.k),
            self.candidate.process if self.candidate and self.k else None,
            workload if rate_per_s is None else at_rate(workload, rate_per_s),
            self.deployment.serving(self.candidate, self.k),
            np.random.default_rng(seed),
            num_requests=requests,
            pricers=self._pricers,
        )

    def sustained(self, slo: Slo, *, above: float, below: float, replications: int, requests: int) -> Sustained:
        """Bisect the rate in [above, below] at which the worst limit, over all replications together, is just kept.

        ``below`` should be the closed form's stability limit: a finite run cannot tell a slow overload from none.
        """
        runs: dict[float, list[Result]] = {}

        def at(rate: float) -> list[Result]:
            if rate not in runs:
                runs[rate] = [self.run(i, rate_per_s=rate, requests=requests) for i in range(replications)]
            return runs[rate]

        rate = _bisect(lambda r: pressure(at(r), slo)[0] <= 1.0, above, below)
        tried = sorted(runs)
        over = next((r for r in tried if r > rate), None)
        binding = pressure(runs[over], slo)[1] if over is not None else "the engine's own throughput"
        alone = tuple(
            float(
                np.exp(
                    np.interp(
                        0.0,
                        *_rising([np.log(pressure([runs[r][i]], slo)[0]) for r in tried], np.log(tried)),
                    )
                )
            )
            for i in range(replications)
        )
        return Sustained(rate, binding, alone)


def at_rate(workload: Workload, rate_per_s: float) -> Workload:
    """The same traffic at another mean rate: lengths and acceptance stay, arrival times stretch."""
    assert not isinstance(workload.arrivals, ClosedLoop)
    return replace(workload, arrivals=replace(workload.arrivals, rate_per_s=rate_per_s))


@dataclass(frozen=True)
class Limit:
    """A latency's quantile beside its limit, in milliseconds; ``name`` as "TTFT p95"."""

    name: str
    limit_ms: float
    value_ms: float

    @property
    def pressure(self) -> float:
        """The quantile over its limit: up to 1 it holds."""
        return self.value_ms / self.limit_ms

    def to_dict(self) -> dict[str, str | float | bool]:
        """Plain values, and whether it ``holds``."""
        return {**vars(self), "holds": self.pressure <= 1.0}


def against(runs: list[Result], slo: Slo, *, users: int | None = None) -> tuple[Limit, ...]:
    """Every limit over the pooled runs; an answer of one token has no TPOT, and what nobody has is 0.

    users: of a closed loop, whose first and last requests are left out (``counted_in_loop``).
    """
    counted = [counted_in_loop(len(r.arrival_s), users) for r in runs]

    def pooled(quantity: str, quantile: float) -> float:
        values = np.concatenate([getattr(r, f"{quantity}_s")[c] for r, c in zip(runs, counted, strict=True)])
        values = values[np.isfinite(values)]
        return float(np.quantile(values, quantile)) if values.size else 0.0

    return limits_of(slo, pooled)


def limits_of(slo: Slo, seconds_at: Callable[[str, float], float | None]) -> tuple[Limit, ...]:
    """Every limit beside ``seconds_at("ttft" or "tpot", quantile)``; left out where that is None."""
    return tuple(
        Limit(f"{quantity.upper()} p{100 * quantile:.0f}", 1e3 * limit_s, 1e3 * seconds)
        for quantity, quantile, limit_s in slo.limits
        if (seconds := seconds_at(quantity, quantile)) is not None
    )


def pressure(runs: list[Result], slo: Slo) -> tuple[float, str]:
    """The largest ratio of a latency's quantile to its limit over the pooled runs, and the name of that limit."""
    worst = max(against(runs, slo), key=lambda limit: limit.pressure)
    return max(worst.pressure, 1e-9), worst.name


def _bisect(holds: Callable[[float], bool], above: float, below: float) -> float:
    """The largest rate in [above, below] that holds, to RATE_TOLERANCE; 0 where not even a hundredth of it does."""
    if holds(below):
        return below
    floor = above / 100.0
    low, high = above, below
    while not holds(low):
        low, high = low / 2.0, low
        if low < floor:
            return 0.0
    while high > low * (1.0 + RATE_TOLERANCE):
        middle = float(np.sqrt(low * high))
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low


def _rising(x: list[float], y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points for interpolation: ``x`` made to rise by its running maximum."""
    upward = np.maximum.accumulate(np.asarray(x)) + np.arange(len(x)) * 1e-12
    return upward, np.asarray(y)
