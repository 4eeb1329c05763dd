"""The whole plan of a scenario: does speculation pay, how far to draft, up to which load, on how many GPUs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.cost.shapes import Trust
from specsim.planning.deployment import deploy
from specsim.planning.estimate import intervals
from specsim.planning.grid import Grid
from specsim.planning.operating import Curves, curves_of
from specsim.planning.provenance import provenance, warnings
from specsim.planning.recommendation import recommendation, settle
from specsim.planning.schedule import Range, schedule
from specsim.planning.surface import Surfaces, surfaces
from specsim.scenario import Scenario

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
    ranges = [r for c in deployment.candidates if c.process is not None for r in schedule(deployment, surface, c)]
    report(2, 4)
    curves = curves_of(deployment, surface) if deployment.workload is not None else {}
    settled = settle(deployment, curves, [r for r in ranges if r.context_tokens == surface.contexts[surface.context]])
    report(3, 4)
    return Plan(
        recommendation=recommendation(deployment, surface, settled, curves),
        schedule=_schedule_rows(ranges, curves, float(surface.contexts[surface.context])),
        grid=[row for label, grid in surface.grids.items() for row in _grid_rows(label, grid, surface)],
        break_even=[row for label, grid in surface.grids.items() for row in _break_even_rows(label, grid, surface)],
        capacity=settled.capacity,
        provenance=provenance(deployment, surface),
        warnings=warnings(deployment, settled.choices),
    )


def _schedule_rows(ranges: list[Range], curves: Curves, context: float) -> list[dict[str, Any]]:
    """Ranges with the arrivals that keep a replica there, at the traffic's context.

    Arrivals only rise with the batch up to the most that a replica sustains: a range that adds none has none.
    """
    rows, most = [], dict.fromkeys((r.drafter for r in ranges), 0.0)
    for r in ranges:
        row = {**vars(r), "speedup": r.speedup.to_dict()}
        curve = curves.get((r.drafter if r.k else "none", r.k))
        if curve is not None and r.context_tokens == context:
            sizes = curve.batches[(curve.batches >= r.batch_min) & (curve.batches <= r.batch_max)]
            rates = [curve.rate(size) for size in (r.batch_min, *sizes, r.batch_max)]
            if max(rates) > most[r.drafter]:
                row["request_rate_min_per_s"] = max(rates[0], most[r.drafter])
                row["request_rate_max_per_s"] = most[r.drafter] = max(rates)
        rows.append(row)
    return rows


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
