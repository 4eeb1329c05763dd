"""What a plan rests on: profile, evidence, seeds, what was borrowed, what was assumed."""

from __future__ import annotations

import platform
from typing import Any

import numpy as np

import specsim
from specsim.acceptance.uncertainty import evidence_note, uncertainty_note
from specsim.cost.shapes import Trust
from specsim.planning.deployment import Deployment
from specsim.planning.estimate import DRAWS
from specsim.planning.operating import Choice
from specsim.planning.surface import Surfaces
from specsim.simulation.program import Batch

MEANING = {
    Trust.INTERPOLATED: "interpolated between measured points",
    Trust.BORROWED: "borrowed from the nearest measured shapes",
    Trust.PARAMETRIC: "from a fitted law",
    Trust.TRANSFERRED: "modelled, not measured",
}


def provenance(deployment: Deployment, surface: Surfaces) -> dict[str, Any]:
    """Names, versions, hashes, errors and assumptions, as plain values."""
    profile = deployment.profile
    return {
        "profile": f"{profile.name} (sha256 {profile.sha256[:12]})",
        "measured_by": profile.provenance.get("source"),
        "residuals_p5_p95": _residuals(deployment),
        "acceptance": [f"{c.label}: {c.source or 'none given'}" for c in deployment.candidates],
        "acceptance_error": sorted(
            {uncertainty_note(c.process, max(c.lengths)) for c in deployment.candidates if c.process is not None}
        ),
        "not_measured": _layers(deployment, surface),
        "assumed": [
            f"host of {deployment.engine.name}: {deployment.engine.schedule.source}",
            "decoding requests hold caches of equal length in the grid; the simulation follows each request's own",
            (
                f"intervals: central 90 % of {DRAWS} joint draws of the profile's cross-validated errors and of the "
                "acceptance evidence's own, one draw a part of the step, shared by all times that are compared"
            ),
            *deployment.scenario.assumed,
        ],
        "seed": deployment.scenario.simulation.seed,
        "versions": {
            "llm-specsim": specsim.__version__,
            "numpy": np.__version__,
            "python": platform.python_version(),
        },
    }


def warnings(deployment: Deployment, choices: tuple[Choice, ...]) -> list[str]:
    """What a reader should know before acting."""
    notes = []
    if deployment.profile.low_trust:
        notes.append(f"the profile {deployment.profile.name} is low-trust: {deployment.profile.provenance.get('note')}")
    for candidate in deployment.candidates:
        if candidate.process is None:
            notes.append(f"{candidate.label} has no acceptance evidence: only its break-even is computed")
            continue
        found = [evidence_note(candidate.process, k) for k in candidate.lengths]
        notes += [f"{candidate.label}: {note}" for note in dict.fromkeys(found) if note]
    if deployment.workload is not None and deployment.scenario.slo is None:
        notes.append("no SLO is given, so no capacity is computed; add [slo] or --slo-tpot-ms and --slo-ttft-ms")
    if choices and not choices[0].load.stable:
        notes.append(
            "no configuration sustains the load in closed form; the recommendation is the one that comes nearest"
        )
    return notes


def _layers(deployment: Deployment, surface: Surfaces) -> list[str]:
    """Parts of a round that were not measured as such, at the traffic's context and a middling batch."""
    context = float(surface.contexts[surface.context])
    found: dict[str, str] = {}
    for candidate in (None, *deployment.candidates):
        k = candidate.lengths[0] if candidate else 0
        for name, term in deployment.program(candidate, k).time(Batch(16.0, 16.0 * context)).terms.items():
            worst = Trust(int(np.max(term.trust)))
            if worst > Trust.MEASURED:
                found[name] = MEANING[worst]
    return [
        f"{meaning}: {', '.join(sorted(n for n in found if found[n] == meaning))}"
        for meaning in dict.fromkeys(found.values())
    ]


def _residuals(deployment: Deployment) -> dict[str, str]:
    profile = deployment.profile
    at = np.asarray(profile.probabilities)
    return {
        f"{family} {layer.lower()}": "{:+.0%} to {:+.0%}".format(
            *(np.exp(np.interp([0.05, 0.95], at, np.asarray(values))) - 1.0)
        )
        for family, layers in profile.residuals.items()
        for layer, values in layers.items()
    }
