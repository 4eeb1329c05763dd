"""``specsim simulate``: one configuration through the serving simulator, written down."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from specsim.errors import InputError
from specsim.files import folder_to_write
from specsim.report.progress import progress
from specsim.scenario import Loaded, Overrides, Scenario, load_scenario, told_of
from specsim.scenario.drafters import Drafter

if TYPE_CHECKING:
    from specsim.simulation.metrics import Statistics, Summary


def run(path: str | None, flags: Overrides, *, out: str | None, as_json: bool) -> None:
    """Simulate the one configuration of the scenario, write the results into ``out``, and print the summary."""
    if out is None:
        raise InputError("is missing; name a directory for the results", field="--out")
    folder = folder_to_write(out)
    loaded = load_scenario(path, flags)
    scenario = loaded.scenario
    drafter, k = one_configuration(loaded)
    if scenario.workload is None:
        raise InputError("is missing; a simulation needs requests", file=loaded.source, field="workload")
    from specsim.planning.capacity import Replica
    from specsim.planning.deployment import deploy
    from specsim.planning.share import load_in_words, of_one_replica
    from specsim.simulation.metrics import Slo, summarise
    from specsim.simulation.record import provenance, write_run

    with told_of(loaded):
        whole = deploy(scenario)
        deployment = of_one_replica(whole)
    candidate = next((c for c in deployment.candidates if drafter is not None and c.label == drafter.label), None)
    replica = Replica(deployment, candidate, k)
    count, size = scenario.simulation.replications, scenario.simulation.requests
    results = []
    with told_of(loaded), progress("simulating") as report:
        for i in range(count):
            report(i, count)
            results.append(replica.run(i, requests=size))
    limits = _request_limits(scenario)
    summary = summarise(
        results,
        slo=Slo(**limits) if limits else None,
        warm_up="mser5" if scenario.workload.arrivals.kind in ("poisson", "gamma") else "none",
        users=deployment.workload.users if deployment.workload else None,
    )
    missed, load = _beyond(scenario, summary), load_in_words(whole)
    summary = replace(summary, warnings=_warnings(scenario, summary, missed))
    assumed = [*(deployment.drafting_assumed(candidate) if candidate and k else ()), *scenario.assumed]
    written = write_run(
        folder,
        results,
        summary,
        scenario=scenario.to_toml(),
        provenance=provenance(
            seed=scenario.simulation.seed,
            extra={
                "profile": deployment.profile.name,
                "profile_sha256": deployment.profile.sha256,
                "configuration": {"drafter": drafter.label if drafter and k else None, "num_speculative_tokens": k},
                "load": load,
                "assumed": assumed,
                "notes": list(loaded.notes),
            },
        ),
    )
    if as_json:
        json.dump(summary.to_dict(), sys.stdout, indent=2, allow_nan=False)
        sys.stdout.write("\n")
        return
    from specsim.report.simulation import print_summary

    what = f"{drafter.label}, K={k}" if drafter and k else "plain decoding"
    print_summary(
        summary.to_dict(),
        title=f"{scenario.target.model}, {what}",
        load=load,
        slo_holds=None if scenario.slo is None else not missed,
        files=written,
        assumed=assumed,
        notes=loaded.notes,
    )


def _warnings(scenario: Scenario, summary: Summary, missed: tuple[str, ...]) -> tuple[str, ...]:
    """What the reader must see before any latency: a load that cannot be sustained, limits that do not hold."""
    from specsim.planning.share import remedy

    found = []
    if summary.load_grows:
        found.append(
            "Requests pile up until the runs end: the replica cannot keep up, or the runs are too short to settle."
            " The latencies depend on how long a run is."
        )
    if missed:
        found.append(f"The SLO does not hold: {'; '.join(missed)}.")
    return (*found, remedy(scenario)) if found else ()


def _beyond(scenario: Scenario, summary: Summary) -> tuple[str, ...]:
    from specsim.planning.share import beyond

    def quantile(quantity: str, q: float) -> float | None:
        statistics: Statistics | None = getattr(summary, f"{quantity}_s")
        value: float | None = None if statistics is None else getattr(statistics, f"p{100 * q:.0f}").value
        return value

    return beyond(scenario.slo, quantile)


def one_configuration(loaded: Loaded) -> tuple[Drafter | None, int]:
    """The drafter and draft length to simulate; InputError where the scenario holds several, or no evidence."""
    drafters = [d for d in loaded.scenario.drafters if d.method != "none"]
    if len(drafters) > 1:
        names = ", ".join(d.label for d in drafters)
        problem = f"simulate runs one configuration, and there are {len(drafters)} drafters ({names}); choose one with"
        raise InputError(f"{problem} --drafter", file=loaded.source, field="drafter")
    if not drafters:
        return None, 0
    lengths = drafters[0].num_speculative_tokens or ()
    if len(lengths) != 1:
        found = ", ".join(map(str, lengths)) or "none given"
        problem = f"simulate runs one draft length ({found}); choose it with --num-speculative-tokens K"
        raise InputError(problem, file=loaded.source, field="drafter.num_speculative_tokens")
    if lengths[0] and drafters[0].acceptance is None:
        problem = "is missing; a simulation needs acceptance evidence (a table, or --acceptance-*)"
        raise InputError(problem, file=loaded.source, field="acceptance")
    return drafters[0], lengths[0]


def _request_limits(scenario: Scenario) -> dict[str, float]:
    """What one request must keep to count as goodput: the limit of each quantity's highest quantile."""
    limits = {} if scenario.slo is None else {q: s for q, _, s in sorted(scenario.slo.limits, key=lambda one: one[1])}
    return {f"{quantity}_s": seconds for quantity, seconds in limits.items()}
