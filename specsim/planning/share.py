"""What one replica gets of a scenario's requests, where several share them, and whether it can serve that."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from specsim.errors import InputError
from specsim.planning.capacity import at_rate, limits_of
from specsim.planning.deployment import Deployment
from specsim.planning.operating import asked_rate
from specsim.scenario import Scenario
from specsim.scenario.sections import Slo


def of_one_replica(deployment: Deployment) -> Deployment:
    """The deployment with the traffic of one of ``simulation.replicas``: its lengths, at its share of the rate.

    Poisson arrivals that are dealt out at random are Poisson again; other arrivals are stretched, as a plan does.
    InputError where a trace arrives all at once, which has no rate to share.
    """
    replicas = deployment.scenario.simulation.replicas or 1
    if deployment.workload is None or replicas == 1:
        return deployment
    rate = asked_rate(deployment)
    if rate is None:
        raise InputError(f"{replicas}: there is no rate to share; remove it", field="simulation.replicas")
    return replace(deployment, workload=at_rate(deployment.workload, rate / replicas))


def load_in_words(deployment: Deployment) -> str:
    """What one replica is given, as a sentence. ``deployment`` is the whole one, before it is shared."""
    assert deployment.workload is not None
    replicas = deployment.scenario.simulation.replicas or 1
    rate = asked_rate(deployment)
    if deployment.workload.users is not None:
        return f"One replica serves {deployment.workload.users:,} users in a closed loop."
    if rate is None:
        return "One replica serves the whole trace."
    if replicas == 1:
        return f"One replica takes all {rate:.4g} requests/s."
    return f"One of {replicas} replicas takes {rate / replicas:.4g} of {rate:.4g} requests/s."


def beyond(slo: Slo | None, quantile: Callable[[str, float], float | None]) -> tuple[str, ...]:
    """Limits that do not hold, in words. quantile("ttft" or "tpot", q): seconds, None where there is none to judge."""
    found = []
    for limit in () if slo is None else limits_of(slo, quantile):
        if limit.pressure > 1.0:
            ms = limit.value_ms
            value = f"{ms:,.0f}" if ms >= 1000 else f"{ms:.4g}"
            found.append(f"{limit.name} is {value} ms (limit {limit.limit_ms:,g})")
    return tuple(found)


def remedy(scenario: Scenario) -> str:
    """What to do where one replica has more than it can serve."""
    if scenario.workload is not None and scenario.workload.arrivals.kind == "closed":
        return "Fewer users a replica (workload.arrivals.concurrency) are served faster."
    return "`specsim plan` says how many replicas the load takes; --replicas N runs one of N."
