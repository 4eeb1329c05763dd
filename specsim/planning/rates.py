"""What one replica sustains, as rows of a plan: requests a second, replicas, what they cost, what breaks first."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from specsim.planning.capacity import Replica, against
from specsim.planning.deployment import Deployment
from specsim.planning.estimate import estimate
from specsim.planning.operating import Choice, Curves, asked_rate
from specsim.scenario.sections import Slo
from specsim.simulation.intervals import Estimate, across
from specsim.simulation.metrics import counted_in_loop, requests_per_s


class Simulated:
    """Configurations of a deployment, each simulated once, all with the same requests and acceptance."""

    def __init__(self, deployment: Deployment, curves: Curves) -> None:
        self._deployment, self._curves = deployment, curves
        self._rows: dict[tuple[str, int], tuple[dict[str, Any], np.ndarray]] = {}

    def row(self, choice: Choice) -> dict[str, Any] | None:
        """The row of one configuration; None where arrivals are open and no SLO says which rate is sustained."""
        rate, slo = asked_rate(self._deployment), self._deployment.scenario.slo
        if rate is not None and slo is None:
            return None
        key = (choice.label, choice.k)
        if key not in self._rows:
            self._rows[key] = self._as_it_is(choice) if rate is None or slo is None else self._open(choice, slo, rate)
        return self._rows[key][0]

    def compared(self, choice: Choice, plain: Choice) -> list[dict[str, Any]]:
        """The rows of both, the first with its rate over the second's; one row where they are the same."""
        rows = [dict(row) for one in dict.fromkeys([choice, plain]) if (row := self.row(one)) is not None]
        if len(rows) == 2 and all(row["request_rate_per_s"]["value"] > 0 for row in rows):
            mine, base = (row["request_rate_per_s"] for row in rows)
            gain = mine["value"] / base["value"]
            over, under = (self._rows[one.label, one.k][1] for one in (choice, plain))
            rows[0]["rate_over_plain"] = estimate(gain, gain * over / under).to_dict()
        return rows

    def _open(self, choice: Choice, slo: Slo, asked: float) -> tuple[dict[str, Any], np.ndarray]:
        """The row of one configuration, and plausible rates relative to it, by joint draw."""
        deployment, curve = self._deployment, self._curves[choice.label, choice.k]
        given = deployment.scenario.simulation
        tpot = min((limit for quantity, _, limit in slo.limits if quantity == "tpot"), default=None)
        stable = curve.largest_rate(None)
        bracket = max(curve.largest_rate(tpot), stable / 50.0)
        replica = Replica(deployment, choice.candidate, choice.k)
        above = 0.8 * min(bracket, stable)
        found = replica.sustained(
            slo, above=above, below=stable, replications=given.replications, requests=given.requests
        )
        relative = np.maximum(curve.largest_rate_draws(tpot), 1e-9 * stable) / bracket
        rate = _scaled(found.rate_per_s, relative, across(found.by_replication))
        row = {
            **self._named(choice),
            "request_rate_per_s": rate.to_dict(),
            "replicas": math.ceil(asked / found.rate_per_s) if found.rate_per_s > 0 else None,
            **_costs(deployment, rate),
            "binding_constraint": found.binding,
        }
        if not found.rate_per_s > 0:
            idle = replica.run(0, rate_per_s=above / 1000.0, requests=given.requests)
            row["alone"] = [limit.to_dict() for limit in against([idle], slo)]
        return row, relative

    def _as_it_is(self, choice: Choice) -> tuple[dict[str, Any], np.ndarray]:
        """The same where the traffic has no rate to vary: a closed loop, or a trace that comes all at once."""
        deployment, curve = self._deployment, self._curves[choice.label, choice.k]
        given, workload = deployment.scenario.simulation, deployment.workload
        assert workload is not None
        replica = Replica(deployment, choice.candidate, choice.k)
        runs = [replica.run(i, requests=given.requests) for i in range(given.replications)]
        size = choice.load.concurrency
        relative = curve.rate_draws(size) / curve.rate(size)
        users = workload.users
        rate = across([requests_per_s(r, counted_in_loop(len(r.arrival_s), users)) for r in runs])
        rate = _scaled(rate.value, relative, rate)
        row = {
            **self._named(choice),
            "request_rate_per_s": rate.to_dict(),
            "replicas": None,
            **_costs(deployment, rate),
            "binding_constraint": "all arrive at once" if users is None else "the closed loop's concurrency",
        }
        if deployment.scenario.slo is not None:
            row["limits"] = [limit.to_dict() for limit in against(runs, deployment.scenario.slo, users=users)]
        return row, relative

    @staticmethod
    def _named(choice: Choice) -> dict[str, Any]:
        label = f"{choice.label}, K={choice.k}" if choice.k else "no speculation"
        return {"configuration": label, "drafter": choice.label, "k": choice.k}


def _costs(deployment: Deployment, rate: Estimate) -> dict[str, Any]:
    """GPU-hours per million output tokens, and their price where one is given. More rate costs less: ends swap."""
    workload = deployment.workload
    assert workload is not None
    if rate.value <= 0 or rate.low <= 0:
        return {"gpu_hours_per_million_output_tokens": None}
    hours = deployment.scenario.target.tensor_parallel * 1e6 / 3600.0 / workload.mean_output_tokens
    spent = Estimate(hours / rate.value, hours / rate.high, hours / rate.low)
    price = deployment.scenario.price
    costs: dict[str, Any] = {"gpu_hours_per_million_output_tokens": spent.to_dict()}
    if price is not None:
        costs["cost_per_million_output_tokens"] = _times(spent, price.gpu_hour).to_dict()
    return costs


def _scaled(value: float, ratios: np.ndarray, noise: Estimate) -> Estimate:
    """The simulated value with the closed form's relative spread and the simulation's own, added in squares."""
    model = estimate(1.0, ratios)
    centre = noise.value or 1.0
    below = math.hypot(1.0 - model.low, (noise.value - noise.low) / centre)
    above = math.hypot(model.high - 1.0, (noise.high - noise.value) / centre)
    return Estimate(value, value * max(0.0, 1.0 - below), value * (1.0 + above))


def _times(one: Estimate, factor: float) -> Estimate:
    return Estimate(one.value * factor, one.low * factor, one.high * factor)
