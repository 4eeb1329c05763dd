"""Which drafter and draft length a scenario should run, at the load that one of its replicas then has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.cost.intervals import sample_seconds
from specsim.planning.deployment import Candidate, Deployment
from specsim.planning.estimate import estimate
from specsim.planning.grid import best_lengths, off_above
from specsim.planning.operating import Choice, Curves, asked_rate, choose, fewest_replicas
from specsim.planning.rates import Simulated
from specsim.planning.schedule import Range
from specsim.planning.surface import Surfaces
from specsim.planning.why import explain
from specsim.simulation.intervals import Estimate
from specsim.simulation.program import Batch


@dataclass(frozen=True)
class Settled:
    """The configurations at the load of one replica, the one to use first, and what was simulated of it and of plain.

    rate_per_s: what one replica gets (None in a closed loop, and without traffic). replicas: that share the asked rate.
    """

    choices: tuple[Choice, ...]
    capacity: list[dict[str, Any]]
    rate_per_s: float | None = None
    replicas: int | None = None


def settle(deployment: Deployment, curves: Curves, ranges: Sequence[Range]) -> Settled:
    """Choose for the load that a replica has once there are as many replicas as the simulated capacity asks for.

    The closed form says how many share the rate at first; where the chosen configuration sustains less under the SLO,
    more do, each of them has less to do, and another length may suit it better. That one is taken unless it needs more
    replicas.
    """
    if not curves:
        return Settled((), [])
    rate, simulated = asked_rate(deployment), Simulated(deployment, curves)
    replicas, before = fewest_replicas(deployment, curves), None
    choices = choose(deployment, curves, ranges, replicas=replicas)
    while rate is not None and (row := simulated.row(choices[0])) is not None:
        needed = row["replicas"]
        if needed is None or needed == replicas:
            break
        if before is not None and needed > replicas:
            kept = next(c for c in choices if (c.label, c.k) == (before.label, before.k))
            choices = (kept, *(c for c in choices if c is not kept))
            break
        replicas, before = needed, choices[0]
        choices = choose(deployment, curves, ranges, replicas=replicas)
    plain = next(c for c in choices if c.k == 0)
    share = None if rate is None else rate / replicas
    return Settled(choices, simulated.compared(choices[0], plain), share, None if rate is None else replicas)


def recommendation(deployment: Deployment, surface: Surfaces, settled: Settled, curves: Curves) -> dict[str, Any]:
    """What to run and how it does at its load, or why nothing is recommended (``declined``), as plain values."""
    context = float(surface.contexts[surface.context])
    if not any(c.process is not None for c in deployment.candidates):
        why = (
            "there is no acceptance evidence; measure it on your traffic (`specsim acceptance` reads vLLM's metrics) "
            "and compare it with the break-even below"
            if deployment.candidates
            else "there is no drafter to compare with; add [[drafter]]"
        )
        return {"declined": why, "context_tokens": context}
    if not settled.choices:
        why = "there is no workload; the load that a draft length must suit follows from it"
        return {"declined": why, "context_tokens": context}
    best = settled.choices[0]
    named = best.candidate or next(c for c in deployment.candidates if c.process is not None)
    size = _size(best, curves)
    row = int(np.argmin(np.abs(np.log(surface.batches) - np.log(size))))
    grid = surface.grids[named.label]
    shown_k = best.k or int(grid.lengths[1])
    at = [int(np.flatnonzero(grid.lengths == k)[0]) for k in (best.k, shown_k)]
    gain, draws = _speedup(deployment, surface, named, best.k, size)
    held_batches, held_contexts = surface.fits[:, surface.context], surface.fits[row]
    lengths = best_lengths(grid.speedup[:, held_batches, surface.context], grid.lengths)
    off_batch = off_above(lengths, surface.batches[held_batches])
    return {
        "drafter": best.label,
        "k": best.k,
        "context_tokens": context,
        "batch": size,
        "mean_batch": best.load.concurrency if best.load.stable else size,
        "replica_stable": best.load.stable,
        "request_rate_per_s": settled.rate_per_s,
        "replicas": settled.replicas,
        "seconds_per_output_token": best.load.seconds_per_token if best.load.stable else None,
        "prefill_share": best.load.prefill_share if best.load.stable else None,
        "speedup": gain.to_dict(),
        "faster_than_plain": float((draws > 1.0).mean()) if best.k else None,
        "tokens_per_round": estimate(float(grid.tokens[at[0]]), grid.token_draws[at[0]]).to_dict(),
        "drafters": _drafters(deployment, surface, settled, curves),
        "speculation_off_above": {
            "batch": off_batch,
            "request_rate_per_s": None if off_batch is None else curves["none", 0].rate(off_batch),
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
            Batch(size, size * context),
            tokens_per_round=float(grid.tokens[at[1]]),
        ),
    }


def _drafters(deployment: Deployment, surface: Surfaces, settled: Settled, curves: Curves) -> list[dict[str, Any]]:
    """The best length of every drafter with evidence at the load, and plain decoding, the recommended one first."""
    rows = []
    for label in dict.fromkeys(choice.label for choice in settled.choices):
        choice = next(c for c in settled.choices if c.label == label)
        size = _size(choice, curves)
        gain = Estimate(1.0, 1.0, 1.0)
        if choice.candidate is not None:
            gain, _ = _speedup(deployment, surface, choice.candidate, choice.k, size)
        rows.append(
            {
                "drafter": label,
                "k": choice.k,
                "batch": size,
                "seconds_per_output_token": choice.load.seconds_per_token if choice.load.stable else None,
                "speedup": gain.to_dict(),
                "largest_rate_per_s": choice.rate_per_s,
            }
        )
    return rows


def _size(choice: Choice, curves: Curves) -> float:
    """Requests that decode at once, a whole number: where the load settles, or the most that a replica holds."""
    largest = float(curves[choice.label, choice.k].batches[-1])
    return max(float(round(choice.load.concurrency)), 1.0) if choice.load.stable else largest


def _speedup(
    deployment: Deployment, surface: Surfaces, candidate: Candidate, k: int, size: float
) -> tuple[Estimate, np.ndarray]:
    """Output tokens a second over plain decoding's at one batch and the traffic's context; and its joint draws."""
    grid = surface.grids[candidate.label]
    at = int(np.flatnonzero(grid.lengths == k)[0])
    batch = Batch(size, size * float(surface.contexts[surface.context]))
    plain, mine = (deployment.program(c, n).time(batch) for c, n in ((None, 0), (candidate, k)))
    draws = [sample_seconds(time, deployment.profile, surface.uniforms) for time in (plain, mine)]
    ratios = grid.token_draws[at] * draws[0] / draws[1]
    return estimate(float(grid.tokens[at] * plain.total_s / mine.total_s), ratios), ratios
