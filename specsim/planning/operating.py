"""Where a replica settles under the traffic, and which drafter and draft length serve it best there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.planning.deployment import Candidate, Deployment
from specsim.planning.schedule import Range
from specsim.planning.surface import Surfaces, prefill_seconds
from specsim.simulation.workload import ClosedLoop, Trace
from specsim.theory.serving import SteadyLoad, steady_load, sustainable_rate

WORTH = 0.01
"""Relative gain that a longer draft must bring to be chosen over a shorter one."""


@dataclass(frozen=True)
class Choice:
    """One configuration of a replica under its load: ``candidate`` None is plain decoding.

    rate_per_s: the largest that it sustains in closed form, within the mean-TPOT limit where one is given.
    """

    candidate: Candidate | None
    k: int
    load: SteadyLoad
    rate_per_s: float

    @property
    def label(self) -> str:
        """The drafter, or ``none``."""
        return self.candidate.label if self.candidate else "none"


class Curve:
    """The closed-form load of one configuration at the traffic's context."""

    def __init__(self, deployment: Deployment, surface: Surfaces, candidate: Candidate | None, k: int) -> None:
        workload = deployment.workload
        assert workload is not None
        grid = surface.grids[candidate.label] if candidate else surface.plain
        fits = surface.fits[:, surface.context]
        self.batches = surface.batches[fits] if fits.any() else surface.batches[:1]
        n = len(self.batches)
        at = int(np.flatnonzero(grid.lengths == k)[0])
        self.round_s = grid.round_s[at, :n, surface.context]
        self.tokens = float(grid.tokens[at])
        self._draws, self._token_draws = grid.round_draws_s[at, :n, surface.context], grid.token_draws[at]
        self.output_tokens = workload.mean_output_tokens
        self.prefill_s = float(prefill_seconds(deployment, candidate, k))
        self._prefill_draws = prefill_seconds(deployment, candidate, k, surface.uniforms)

    def at(self, rate_per_s: float) -> SteadyLoad:
        """Where the replica settles at a rate."""
        return steady_load(
            rate_per_s,
            round_s=lambda b: np.interp(b, self.batches, self.round_s),
            tokens_per_round=self.tokens,
            output_tokens=self.output_tokens,
            prefill_s=self.prefill_s,
            max_batch=int(self.batches[-1]),
        )

    def closed(self, users: float) -> SteadyLoad:
        """Where the replica settles under so many users in a closed loop, as many as the cache holds."""
        size = min(users, float(self.batches[-1]))
        share = self.rate(size) * self.prefill_s
        seconds = float(np.interp(size, self.batches, self.round_s)) / (1.0 - share) / self.tokens
        return SteadyLoad(stable=True, concurrency=size, seconds_per_token=seconds, prefill_share=share)

    def rate(self, batch: float) -> float:
        """The request rate at which the steady batch is ``batch``: B / (rounds * round_s(B) + B * prefill_s)."""
        rounds = max(self.output_tokens - 1.0, 1.0) / self.tokens
        return float(batch / (rounds * np.interp(batch, self.batches, self.round_s) + batch * self.prefill_s))

    def rate_draws(self, batch: float) -> np.ndarray:
        """``rate`` for every joint draw of costs and acceptance, shape (n,)."""
        round_s = np.array([np.interp(batch, self.batches, draw) for draw in self._draws.T])
        rounds = max(self.output_tokens - 1.0, 1.0) / self._token_draws
        return np.asarray(batch / (rounds * round_s + batch * self._prefill_draws))

    def largest_rate(self, tpot_s: float | None) -> float:
        """The largest sustainable rate."""
        return self._largest(self.round_s, self.tokens, self.prefill_s, tpot_s)

    def largest_rate_draws(self, tpot_s: float | None) -> np.ndarray:
        """The same for every joint draw of costs and acceptance, shape (n,)."""
        return np.array(
            [
                self._largest(self._draws[:, j], float(self._token_draws[j]), float(self._prefill_draws[j]), tpot_s)
                for j in range(len(self._token_draws))
            ]
        )

    def _largest(self, round_s: np.ndarray, tokens: float, prefill_s: float, tpot_s: float | None) -> float:
        return sustainable_rate(
            round_s=lambda b: np.interp(b, self.batches, round_s),
            tokens_per_round=tokens,
            output_tokens=self.output_tokens,
            prefill_s=prefill_s,
            max_batch=int(self.batches[-1]),
            max_seconds_per_token=tpot_s if self.output_tokens > 1.0 else None,  # one token has no time between
        )


def asked_rate(deployment: Deployment) -> float | None:
    """Requests per second that the scenario asks for, over all replicas; None for a closed loop."""
    workload = deployment.workload
    assert workload is not None
    arrivals = workload.arrivals
    if isinstance(arrivals, ClosedLoop):
        return None
    if isinstance(arrivals, Trace) and arrivals.rate_per_s is None:
        span = float(arrivals.arrival_s[-1]) - float(arrivals.arrival_s[0])
        return (len(arrivals.arrival_s) - 1) / span if span > 0 else None
    return arrivals.rate_per_s


Curves = dict[tuple[str, int], Curve]
"""By drafter (``none`` for plain decoding) and draft length."""


def curves_of(deployment: Deployment, surface: Surfaces) -> Curves:
    """The curve of plain decoding and of every drafter with evidence at each of its lengths."""
    options: list[tuple[Candidate | None, int]] = [(None, 0)]
    options += [(c, k) for c in deployment.candidates if c.process is not None for k in c.lengths]
    return {
        (candidate.label if candidate else "none", k): Curve(deployment, surface, candidate, k)
        for candidate, k in options
    }


def fewest_replicas(deployment: Deployment, curves: Curves) -> int:
    """Replicas that the best configuration needs in closed form for the asked rate; 1 in a closed loop."""
    rate, best = asked_rate(deployment), max(_largest_rates(deployment, curves).values())
    return max(1, int(np.ceil(rate / best))) if rate is not None and best > 0 else 1


def choose(deployment: Deployment, curves: Curves, ranges: Sequence[Range], *, replicas: int) -> tuple[Choice, ...]:
    """All configurations under the load that one of ``replicas`` gets, the one to use first.

    Each configuration settles at its own batch (a faster one holds fewer requests at once); fewest seconds per token
    wins, a longer draft only for WORTH more; of the winner's lengths the one that the schedule, ``ranges`` at the
    traffic's context, has at its own batch. In a closed loop every configuration runs at the given concurrency.
    """
    largest, rate, workload = _largest_rates(deployment, curves), asked_rate(deployment), deployment.workload
    assert workload is not None
    users = workload.users or 1  # a trace that comes all at once has none, and no rate
    if rate is not None:
        rate /= replicas
    named = {candidate.label: candidate for candidate in deployment.candidates}
    choices = [
        Choice(named.get(label), k, curve.closed(users) if rate is None else curve.at(rate), largest[label, k])
        for (label, k), curve in curves.items()
    ]
    return _as_scheduled(sorted(choices, key=lambda c: _badness(c, choices)), ranges)


def _as_scheduled(choices: list[Choice], ranges: Sequence[Range]) -> tuple[Choice, ...]:
    """First of each drafter's lengths the fastest that its own schedule has at the batch where it settles, if any does.

    Where plain decoding comes first no schedule may disagree; else the fastest that is scheduled does.
    """

    def scheduled(choice: Choice) -> bool:
        size = max(round(choice.load.concurrency), 1) if choice.load.stable else 0
        there = [r for r in ranges if r.batch_min <= size <= r.batch_max and choice.label in ("none", r.drafter)]
        return bool(there) and all(r.k == choice.k for r in there)

    def fastest(among: list[Choice]) -> Choice:
        return min(filter(scheduled, among), key=lambda c: c.load.seconds_per_token, default=among[0])

    firsts = [fastest([c for c in choices if c.label == label]) for label in dict.fromkeys(c.label for c in choices)]
    if firsts[0].k == 0:
        firsts = list(dict.fromkeys([fastest(firsts), *firsts]))
    return (*firsts, *(c for c in choices if c not in firsts))


def _badness(choice: Choice, choices: list[Choice]) -> tuple[float, float, float]:
    """Unstable ones last (by the rate that they sustain); then those within WORTH of the fastest by draft length."""
    if not choice.load.stable:
        return 2.0, -choice.rate_per_s, float(choice.k)
    fastest = min(c.load.seconds_per_token for c in choices if c.load.stable)
    if choice.load.seconds_per_token <= fastest * (1.0 + WORTH):
        return 0.0, float(choice.k), choice.load.seconds_per_token
    return 1.0, choice.load.seconds_per_token, float(choice.k)


def _largest_rates(deployment: Deployment, curves: Curves) -> dict[tuple[str, int], float]:
    limits = deployment.scenario.slo.limits if deployment.scenario.slo else ()
    tpot_s = min((limit for quantity, _, limit in limits if quantity == "tpot"), default=None)
    return {key: curve.largest_rate(tpot_s) for key, curve in curves.items()}
