"""Acceptance evidence as text: every number with its definition beside it."""

from __future__ import annotations

from collections.abc import Iterable

from specsim.acceptance.conversions import (
    accepted_rate_from_survival,
    length_from_survival,
    survival_from_conditional,
)
from specsim.acceptance.evidence import AcceptanceEvidence
from specsim.acceptance.uncertainty import evidence_note, length_standard_error


def acceptance_report(evidence: AcceptanceEvidence) -> str:
    """The evidence as text, one block a draft length, each number with its definition beside it."""
    process = evidence.process()
    lines = [f"source: {evidence.source}"]
    rows = {row.k: row for row in evidence.rows}
    for k in rows or [process.max_k or 1]:
        survival = process.survival(k)
        error = length_standard_error(process, k)
        sample = rows[k].sample if rows else evidence.length[2] if evidence.length else None
        counted = f"   from {sample.rounds} rounds" if sample and sample.rounds else ""
        margin = f" +- {error:.4f}" if error is not None else ""
        lines += ["", f"num_speculative_tokens (K)   {k}{counted}"]
        lines.append(
            f"acceptance length            {float(length_from_survival(survival)):.4f}{margin}"
            f"   tokens a round emits, bonus token included (1..{k + 1})"
        )
        lines.append(
            f"accepted / drafted           {float(accepted_rate_from_survival(survival)):.4f}"
            "   vLLM's draft acceptance rate, as a fraction"
        )
        if rows:
            conditional = rows[k].conditional
            lines.append(
                f"per position, unconditional  {_figures(survival_from_conditional(conditional))}"
                "   P(the first i all accepted): survival, vLLM's per-position rate"
            )
            lines.append(
                f"per position, conditional    {_figures(conditional)}"
                "   P(token i accepted | those before it were): per_position in a scenario"
            )
        note = evidence_note(process, k)
        if note is not None:
            lines.append(f"note: {note}")
    lines += [f"note: {note}" for note in evidence.notes]
    if any(row.sample is not None and row.sample.requests is None for row in evidence.rows):
        lines.append(
            "note: the error takes rounds as independent, so it is a lower bound: these counts do not show how requests"
            " differ"
        )
    return "\n".join(lines)


def _figures(values: Iterable[float]) -> str:
    return ", ".join(f"{value:.4f}" for value in values)
