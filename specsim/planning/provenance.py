"""What a plan rests on: profile, evidence, seeds, what was borrowed, what was assumed."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

import specsim
from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.uncertainty import evidence_note, uncertainty_note
from specsim.cost.drafting import load_draft_host
from specsim.cost.intervals import residual_quantiles
from specsim.cost.shapes import Term, Trust
from specsim.planning.deployment import Deployment
from specsim.planning.estimate import DRAWS
from specsim.planning.operating import Choice, asked_rate
from specsim.planning.surface import Surfaces
from specsim.simulation.program import Batch

MEANING = {
    Trust.MEASURED: "measured at the very point",
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
        "measured_by": _measured_by(profile.provenance),
        "error_p5_to_p95": _errors(deployment, surface),
        "answered_by": _layers(deployment, surface),
        "acceptance": [f"{c.label}: {c.source or 'none given'}" for c in deployment.candidates],
        "acceptance_error": [
            f"{c.label}: {uncertainty_note(c.process, max(c.lengths))}"
            for c in deployment.candidates
            if c.process is not None
        ],
        "memory": _memory(deployment),
        "assumed": [
            f"host of {deployment.engine.name}: {deployment.engine.schedule.source}",
            *_drafting(deployment),
            *_verification(deployment),
            "an iteration is priced as if its decoding requests held caches of equal length; each fills its own blocks",
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
    if "tile_edges" in deployment.profile.provenance:
        notes.append(deployment.profile.provenance["tile_edges"])
    for candidate in deployment.candidates:
        if candidate.process is None:
            notes.append(f"{candidate.label} has no acceptance evidence: only its break-even is computed")
            continue
        notes += [f"{candidate.label}: {note}" for note in _evidence_notes(candidate.process, candidate.lengths)]
    if deployment.workload is not None and asked_rate(deployment) is not None and deployment.scenario.slo is None:
        notes.append("no SLO is given, so no capacity is computed; add [slo] or --slo-tpot-ms and --slo-ttft-ms")
    most = max(choices, key=lambda c: c.rate_per_s, default=None)
    if most is not None and most.rate_per_s > 1.02 * choices[0].rate_per_s > 0.0:
        notes.append(
            f"{choices[0].label} at K={choices[0].k} is best at the asked load; under the highest load {most.label} at "
            f"K={most.k} sustains {most.rate_per_s / choices[0].rate_per_s:.2f} times its rate (closed form)"
        )
    if choices and not choices[0].load.stable:
        notes.append(
            "no configuration sustains the load in closed form; the recommendation is the one that comes nearest"
        )
    return notes


def _evidence_notes(process: AcceptanceProcess, lengths: Sequence[int]) -> list[str]:
    """Notes on the evidence, one for all lengths of which the same is to be said."""
    found: dict[str, list[str]] = {}
    for k in lengths:
        note = evidence_note(process, k)
        if note is not None:
            found.setdefault(re.sub(rf"\bK = {k}\b", "K = {}", note), []).append(str(k))
    return [note.replace("{}", ", ".join(known)) for note, known in found.items()]


def _measured_by(origin: Mapping[str, Any]) -> str:
    """The package and the engine versions that the kernels were timed with."""
    versions = sorted({str(table["framework_version"]) for table in origin.get("tables", ())})
    package = " ".join(str(origin[key]) for key in ("package", "package_version", "licence") if key in origin)
    return f"{package or 'not stated'}; engine versions {', '.join(versions) or 'not stated'}"


def _terms(deployment: Deployment, surface: Surfaces) -> Iterator[tuple[str, Term]]:
    """Terms of plain decoding and of each candidate's rounds, at the traffic's context and a middling batch."""
    context = float(surface.contexts[surface.context])
    for candidate in (None, *deployment.candidates):
        program = deployment.program(candidate, candidate.lengths[-1] if candidate else 0)
        yield from program.time(Batch(16.0, 16.0 * context)).terms.items()


def _layers(deployment: Deployment, surface: Surfaces) -> list[str]:
    """Which parts of a round each layer of trust answers for, best first."""
    found = {name: Trust(int(np.max(term.trust))) for name, term in _terms(deployment, surface)}
    return [
        f"{meaning}: {', '.join(sorted(name for name in found if found[name] == layer))}"
        for layer, meaning in MEANING.items()
        if layer in found.values()
    ]


def _errors(deployment: Deployment, surface: Surfaces) -> dict[str, str]:
    """Ends of the cross-validated error of each family and layer that answers in this plan."""
    used = {(term.family, Trust(int(np.max(term.trust)))) for _, term in _terms(deployment, surface)}
    ends = np.array([0.05, 0.95])
    return {
        f"{family} ({layer.name.lower()})": "{:+.0f} to {:+.0f} %".format(
            *(100.0 * np.expm1(residual_quantiles(deployment.profile, family, layer, ends)))
        )
        for family, layer in sorted(used)
    }


def _drafting(deployment: Deployment) -> list[str]:
    """Where the host work of drafting and the reach of a lookup come from."""
    lines = []
    if deployment.candidates:
        host = load_draft_host(deployment.engine)
        lines.append(f"drafting's host work: calls {host.calls_source}, each at {deployment.engine.launch_source}")
    for candidate in deployment.candidates:
        lines += deployment.drafting_assumed(candidate)
        if candidate.drafter.method == "ngram":
            rate = candidate.drafter.proposal_rate
            how = "its first token is taken to be as likely right as its second" if rate < 1.0 else "no rate is known"
            lines.append(f"{candidate.label} proposes in {rate:.0%} of the rounds: {how}")
    return lines


def _verification(deployment: Deployment) -> list[str]:
    """How attention of several query tokens is priced, where that was not measured."""
    if deployment.profile.verify:
        return []
    return ["attention of K+1 query tokens: one read of the cache a sequence and the arithmetic of each token"]


def _memory(deployment: Deployment) -> str:
    if deployment.scenario.serving.num_gpu_blocks is not None:
        return f"{deployment.scenario.serving.num_gpu_blocks:,} cache blocks, as given"
    plain = deployment.memory(None, 0)
    text = (
        f"{plain.weight_bytes / 1e9:.1f} GB weights and {plain.cache_bytes / 1e9:.1f} GB cache a GPU "
        f"({plain.cache_tokens:,} tokens)"
    )
    for candidate in deployment.candidates:
        kept = deployment.memory(candidate, max(candidate.lengths))
        if kept.num_gpu_blocks < plain.num_gpu_blocks:
            text += f"; {kept.cache_tokens:,} with {candidate.label} at K={max(candidate.lengths)}"
    return text
