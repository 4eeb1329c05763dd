"""The whole plan of a scenario: does speculation pay, how far to draft, up to which load, on how many GPUs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.cost.shapes import Trust
from specsim.planning.capacity import Replica
from specsim.planning.deployment import Deployment, deploy
from specsim.planning.estimate import estimate, intervals
from specsim.planning.grid import Grid, best_lengths, off_above
from specsim.planning.operating import Choice, Curve, asked_rate, choose
from specsim.planning.provenance import provenance, warnings
from specsim.planning.schedule import schedule
from specsim.planning.surface import Surfaces, surfaces
from specsim.planning.why import explain
from specsim.scenario import Scenario
from specsim.scenario.sections import Slo
from specsim.simulation.intervals import Estimate, across
from specsim.simulation.program import Batch

Progress = Callable[[int, int], None]
"""Called with the parts done and the parts in all."""


@dataclass(frozen=True)
class Plan:
    """Plain tables, ready for JSON: every estimate is an object with ``value``, ``low`` and ``high``.

    recommendation: what to run, or why nothing is recommended (``declined``). schedule: draft length by batch range.
    grid: step time and speedup by drafter, K, batch and context. break_even: the acceptance length from which
    speculation pays. capacity: rate of a replica, replicas, GPU-hours. provenance, warnings: what it rests on.
    """

    recommendation: dict[str, Any]
    schedule: list[dict[str, Any]]
    grid: list[dict[str, Any]]
    break_even: list[dict[str, Any]]
    capacity: list[dict[str, Any]]
    provenance: dict[str, Any]
    warnings: list[str]

    def to_dict(self) -> dict[str, Any]:
        """The tables by name."""
        return dict(vars(self))


def plan(scenario: Scenario, *, progress: Progress | None = None) -> Plan:
    """Answer a scenario. Raises InputError for what ships nowhere, cannot be priced, or does not fit."""
    report = progress or (lambda _done, _total: None)
    report(0, 4)
    deployment = deploy(scenario)
    surface = surfaces(deployment)
    report(1, 4)
    curves: dict[tuple[str, int], Curve] = {}
    choices = choose(deployment, surface, curves) if deployment.workload is not None else ()
    ranges = [r for c in deployment.candidates if c.process is not None for r in schedule(deployment, surface, c)]
    report(2, 4)
    capacity = _capacity(deployment, choices, curves, lambda done, total: report(2 * total + done, 3 * total))
    rows = []
    for r in ranges:
        row = {**vars(r), "speedup": r.speedup.to_dict()}
        curve = curves.get((r.drafter if r.k else "none", r.k))
        if curve is not None and r.context_tokens == surface.contexts[surface.context]:
            row["request_rate_min_per_s"], row["request_rate_max_per_s"] = (
                curve.rate(r.batch_min),
                curve.rate(r.batch_max),
            )
        rows.append(row)
    return Plan(
        recommendation=_recommendation(deployment, surface, choices, curves),
        schedule=rows,
        grid=[row for label, grid in surface.grids.items() for row in _grid_rows(label, grid, surface)],
        break_even=[row for label, grid in surface.grids.items() for row in _break_even_rows(label, grid, surface)],
        capacity=capacity,
        provenance=provenance(deployment, surface),
        warnings=warnings(deployment, choices),
    )


def _recommendation(
    deployment: Deployment, surface: Surfaces, choices: tuple[Choice, ...], curves: dict[tuple[str, int], Curve]
) -> dict[str, Any]:
    context = float(surface.contexts[surface.context])
    if not any(c.process is not None for c in deployment.candidates):
        why = (
            "there is no acceptance evidence; measure it on your traffic (`specsim acceptance` reads vLLM's metrics) "
            "and compare it with the break-even below"
            if deployment.candidates
            else "there is no drafter to compare with; add [[drafter]]"
        )
        return {"declined": why, "context_tokens": context}
    if not choices:
        why = "there is no workload; the load that a draft length must suit follows from it"
        return {"declined": why, "context_tokens": context}
    best = choices[0]
    named = best.candidate or next(c for c in deployment.candidates if c.process is not None)
    grid = surface.grids[named.label]
    size = best.load.concurrency if best.load.stable else float(curves[best.label, best.k].batches[-1])
    row = int(np.argmin(np.abs(np.log(surface.batches) - math.log(max(size, 1.0)))))
    batch = float(surface.batches[row])
    at = int(np.flatnonzero(grid.lengths == best.k)[0])
    value, draws = float(grid.speedup[at, row, surface.context]), grid.speedup_draws[at, row, surface.context]
    held_batches = surface.fits[:, surface.context]
    held_contexts = surface.fits[row]
    off_batch = off_above(
        best_lengths(grid.speedup[:, held_batches, surface.context], grid.lengths), surface.batches[held_batches]
    )
    plain = curves["none", 0]
    shown_k = best.k or int(grid.lengths[1])
    return {
        "drafter": best.label,
        "k": best.k,
        "context_tokens": context,
        "batch": batch,
        "mean_batch": size,
        "replica_stable": best.load.stable,
        "seconds_per_output_token": best.load.seconds_per_token if best.load.stable else None,
        "speedup": estimate(value, draws).to_dict(),
        "faster_than_plain": float((draws > 1.0).mean()) if best.k else None,
        "tokens_per_round": estimate(float(grid.tokens[at]), grid.token_draws[at]).to_dict(),
        "speculation_off_above": {
            "batch": off_batch,
            "request_rate_per_s": None if off_batch is None else plain.rate(off_batch),
            "context_tokens": off_above(
                best_lengths(grid.speedup[:, row, held_contexts], grid.lengths), surface.contexts[held_contexts]
            ),
        },
        "considered_up_to": {
            "batch": float(surface.batches[held_batches].max()),
            "context_tokens": float(surface.contexts[held_contexts].max()),
        },
        "reason": explain(
            deployment.program(None, 0),
            deployment.program(named, shown_k),
            Batch(batch, batch * context),
            tokens_per_round=float(grid.tokens[int(np.flatnonzero(grid.lengths == shown_k)[0])]),
        ),
    }


def _grid_rows(label: str, grid: Grid, surface: Surfaces) -> list[dict[str, Any]]:
    steps = _table(1e3 * grid.round_s, 1e3 * grid.round_draws_s)
    speeds = _table(grid.speedup, grid.speedup_draws)
    tokens = _table(grid.tokens, grid.token_draws)
    known = np.isfinite(grid.tokens)
    return [
        {
            "drafter": label,
            "k": int(grid.lengths[i]),
            "batch": int(grid.batches[j]),
            "context_tokens": int(grid.contexts[m]),
            "tokens_per_round": tokens(i) if known[i] else None,
            "step_ms": steps(i, j, m),
            "speedup": speeds(i, j, m) if known[i] else None,
            "trust": Trust(int(grid.trust[i, j, m])).name.lower(),
        }
        for i, j, m in _cells(grid, surface)
    ]


def _break_even_rows(label: str, grid: Grid, surface: Surfaces) -> list[dict[str, Any]]:
    needed = _table(grid.break_even, grid.break_even_draws)
    return [
        {
            "drafter": label,
            "k": int(grid.lengths[i]),
            "batch": int(grid.batches[j]),
            "context_tokens": int(grid.contexts[m]),
            "acceptance_length": needed(i, j, m),
            "possible": bool(grid.break_even[i, j, m] <= grid.lengths[i] + 1),
        }
        for i, j, m in _cells(grid, surface)
        if grid.lengths[i] > 0
    ]


def _cells(grid: Grid, surface: Surfaces) -> Iterator[tuple[int, int, int]]:
    """Indices of length, batch and context wherever the cache holds the batch."""
    return (
        (i, j, m)
        for i in range(len(grid.lengths))
        for j in range(len(grid.batches))
        for m in range(len(grid.contexts))
        if surface.fits[j, m]
    )


def _table(values: np.ndarray, draws: np.ndarray) -> Callable[..., dict[str, float]]:
    """Estimates of a whole array at once, looked up by index."""
    columns = intervals(values, draws)
    return lambda *at: dict(zip(("value", "low", "high"), (float(column[at]) for column in columns), strict=True))


def _capacity(
    deployment: Deployment, choices: tuple[Choice, ...], curves: dict[tuple[str, int], Curve], report: Progress
) -> list[dict[str, Any]]:
    """The recommended configuration and plain decoding, simulated with the same requests and acceptance."""
    if not choices:
        return []
    slo = deployment.scenario.slo
    plain = next(c for c in choices if c.k == 0)
    compared = list(dict.fromkeys([choices[0], plain]))
    rate = asked_rate(deployment)
    rows, draws = [], []
    for done, choice in enumerate(compared):
        report(done, len(compared))
        if rate is None:
            rows.append(_closed(deployment, choice))
        elif slo is not None:
            row, relative = _open(deployment, choice, curves[choice.label, choice.k], slo, rate)
            rows.append(row)
            draws.append(relative)
    if len(draws) == 2 and all(row["request_rate_per_s"]["value"] > 0 for row in rows):
        gain = rows[0]["request_rate_per_s"]["value"] / rows[1]["request_rate_per_s"]["value"]
        rows[0]["rate_over_plain"] = estimate(gain, gain * draws[0] / draws[1]).to_dict()
    return rows


def _open(
    deployment: Deployment, choice: Choice, curve: Curve, slo: Slo, asked: float
) -> tuple[dict[str, Any], np.ndarray]:
    """The row of one configuration, and plausible rates relative to it, by joint draw."""
    given = deployment.scenario.simulation
    tpot = min((limit for quantity, _, limit in slo.limits if quantity == "tpot"), default=None)
    stable = curve.largest_rate(None)
    bracket = max(curve.largest_rate(tpot), stable / 50.0)
    replica = Replica(deployment, choice.candidate, choice.k)
    found = replica.sustained(
        slo, above=0.8 * min(bracket, stable), below=stable, replications=given.replications, requests=given.requests
    )
    relative = np.maximum(curve.largest_rate_draws(tpot), 1e-9 * stable) / bracket
    rate = _scaled(found.rate_per_s, relative, across(found.by_replication))
    row = {
        "configuration": _label(choice),
        "drafter": choice.label,
        "k": choice.k,
        "request_rate_per_s": rate.to_dict(),
        "replicas": math.ceil(asked / found.rate_per_s) if found.rate_per_s > 0 else None,
        **_costs(deployment, rate),
        "binding_constraint": found.binding,
    }
    return row, relative


def _closed(deployment: Deployment, choice: Choice) -> dict[str, Any]:
    given = deployment.scenario.simulation
    replica = Replica(deployment, choice.candidate, choice.k)
    runs = [replica.run(i, requests=given.requests) for i in range(given.replications)]
    rate = across([len(r.arrival_s) / r.duration_s for r in runs])
    return {
        "configuration": _label(choice),
        "drafter": choice.label,
        "k": choice.k,
        "request_rate_per_s": rate.to_dict(),
        "replicas": None,
        **_costs(deployment, rate),
        "binding_constraint": "the closed loop's concurrency",
    }


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


def _label(choice: Choice) -> str:
    return f"{choice.label}, K={choice.k}" if choice.k else "no speculation"
