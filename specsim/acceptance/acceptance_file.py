"""The JSON file that holds acceptance evidence: reading it, with every mistake named, and writing it whole."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from difflib import get_close_matches
from importlib import resources
from pathlib import Path
from typing import Any

from specsim.acceptance.chains import MeasuredLength, Sample
from specsim.acceptance.checks import checked_length, checked_rates, checked_survival
from specsim.acceptance.conversions import (
    accepted_rate_from_survival,
    conditional_from_survival,
    length_from_survival,
    survival_from_conditional,
    survival_from_histogram,
)
from specsim.acceptance.evidence import AcceptanceEvidence
from specsim.errors import InputError
from specsim.files import replace_file

SCHEMA = "specsim.acceptance"
SCHEMA_VERSION = 1
DISAGREEMENT = 0.01
"""Relative difference between a stated and an implied acceptance length that is still rounding or a cut last round."""


def read_evidence(path: Path, *, method: str | None = None, dataset: str | None = None) -> AcceptanceEvidence:
    """Read an acceptance file (docs/acceptance-file.md); ``method`` and ``dataset`` choose where it holds several sets.

    InputError names the file, the field and the remedy for what is missing, out of range or contradictory.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as bad:
        raise InputError(f"cannot be read: {bad.strerror or bad}", file=str(path)) from bad
    except UnicodeDecodeError as bad:
        raise InputError(f"is not UTF-8 text (byte {bad.start}); give an acceptance file", file=str(path)) from bad
    return _chosen(_parsed(text, file=str(path)), method=method, dataset=dataset, file=str(path))


def shipped_evidence(name: str = "llama31_8b", *, method: str, dataset: str = "sharegpt") -> AcceptanceEvidence:
    """Evidence that ships with the package: Llama-3.1-8B on four data sets, ``method`` "eagle" or "ngram"."""
    file = f"{name}.json"
    text = resources.files("specsim.acceptance").joinpath(file).read_text(encoding="utf-8")
    return _chosen(_parsed(text, file=file), method=method, dataset=dataset, file=file)


def write_evidence(path: Path, evidence: AcceptanceEvidence | Sequence[AcceptanceEvidence]) -> None:
    """Write one set or several as an acceptance file; the file appears complete or not at all."""
    text = json.dumps(document_of(evidence), indent=1) + "\n"
    replace_file(path, lambda beside: beside.write_text(text, encoding="utf-8"))


def document_of(evidence: AcceptanceEvidence | Sequence[AcceptanceEvidence]) -> dict[str, Any]:
    """One set or several as the acceptance file's JSON object."""
    sets = [evidence] if isinstance(evidence, AcceptanceEvidence) else list(evidence)
    return {"schema": SCHEMA, "schema_version": SCHEMA_VERSION, "sets": [_to_dict(one) for one in sets]}


def _to_dict(evidence: AcceptanceEvidence) -> dict[str, Any]:
    head = {"source": evidence.source, "engine": evidence.engine, "method": evidence.method}
    written: dict[str, Any] = {name: value for name, value in head.items() if value is not None}
    if evidence.dataset is not None:
        written["dataset"] = evidence.dataset
    if evidence.notes:
        written["notes"] = list(evidence.notes)
    if evidence.length is not None:
        length, at_k, sample = evidence.length
        row = {"num_spec_tokens": at_k, "mean_acceptance_length": length}
        written["by_draft_length"] = [row | _sample_dict(sample)]
        return written
    rows = []
    for row_ in evidence.rows:
        survival = survival_from_conditional(row_.conditional)
        rows.append(
            {
                "num_spec_tokens": row_.k,
                "conditional_acceptance_rates": list(row_.conditional),
                "mean_acceptance_length": round(float(length_from_survival(survival)), 6),
                "draft_acceptance_rate": round(float(accepted_rate_from_survival(survival)), 6),
            }
            | _sample_dict(row_.sample)
        )
    written["by_draft_length"] = rows
    return written


def _sample_dict(sample: Sample | None) -> dict[str, Any]:
    if sample is None:
        return {}
    named = {
        "num_spec_steps": sample.rounds,
        "requests": sample.requests,
        "request_length_sd": sample.request_length_sd,
        "request_weighted_length": sample.request_weighted_length,
        "mean_completion_tokens": sample.mean_completion_tokens,
    }
    return {name: value for name, value in named.items() if value is not None}


HEAD = {"source", "engine", "method", "dataset", "notes", "by_draft_length"}
ROW = {
    "num_spec_tokens",
    "conditional_acceptance_rates",
    "per_position_acceptance_rates",
    "acceptance_histogram",
    "mean_acceptance_length",
    "draft_acceptance_rate",
    "num_spec_steps",
    "requests",
    "request_length_sd",
    "request_weighted_length",
    "mean_completion_tokens",
}


def _parsed(text: str, *, file: str) -> list[AcceptanceEvidence]:
    try:
        document = json.loads(text)
    except json.JSONDecodeError as bad:
        raise InputError(f"is not JSON ({bad.msg} at line {bad.lineno}); is it cut short?", file=file) from bad
    if not isinstance(document, Mapping) or document.get("schema") != SCHEMA:
        raise InputError(
            f'needs "schema": "{SCHEMA}"; make such a file with `specsim acceptance METRICS --out acceptance.json`',
            file=file,
            field="schema",
        )
    if document.get("schema_version") != SCHEMA_VERSION:
        raise InputError(
            f"{document.get('schema_version')!r} is unknown; this version of specsim reads {SCHEMA_VERSION}",
            file=file,
            field="schema_version",
        )
    _only(document, {"schema", "schema_version", "sets"}, file=file, field="")
    sets = document.get("sets")
    if not isinstance(sets, list) or not sets:
        raise InputError("must be a list of at least one set of evidence", file=file, field="sets")
    return [_set(one, file=file, field=f"sets[{i}]") for i, one in enumerate(sets)]


def _set(given: Any, *, file: str, field: str) -> AcceptanceEvidence:
    if not isinstance(given, Mapping):
        raise InputError("must be an object", file=file, field=field)
    _only(given, HEAD, file=file, field=field)
    source = given.get("source")
    if not isinstance(source, str) or not source.strip():
        raise InputError("must say where the figures come from", file=file, field=f"{field}.source")
    rows = given.get("by_draft_length")
    if not isinstance(rows, list) or not rows:
        raise InputError("must be a list of at least one row", file=file, field=f"{field}.by_draft_length")
    parsed = [_row(row, file=file, field=f"{field}.by_draft_length[{i}]") for i, row in enumerate(rows)]
    measured = tuple(row for row in parsed if isinstance(row, MeasuredLength))
    lengths = [row for row in parsed if not isinstance(row, MeasuredLength)]
    if lengths and len(parsed) > 1:
        raise InputError(
            "a bare mean_acceptance_length stands alone; give rates by position in every row, or one row",
            file=file,
            field=f"{field}.by_draft_length",
        )
    text = {name: given.get(name) for name in ("method", "dataset", "engine")}
    return AcceptanceEvidence(
        source=source,
        rows=tuple(sorted(measured, key=lambda row: row.k)),
        length=lengths[0] if lengths else None,
        notes=tuple(given.get("notes", ())),
        **text,
    )


def _row(given: Any, *, file: str, field: str) -> MeasuredLength | tuple[float, int, Sample | None]:
    if not isinstance(given, Mapping):
        raise InputError("must be an object", file=file, field=field)
    _only(given, ROW, file=file, field=field)
    kinds = [
        name
        for name in ("conditional_acceptance_rates", "per_position_acceptance_rates", "acceptance_histogram")
        if name in given
    ]
    if len(kinds) > 1:
        raise InputError(f"holds {' and '.join(kinds)}; keep one of them", file=file, field=field)
    sample = Sample(
        rounds=_count(given, "num_spec_steps", file=file, field=field),
        requests=_count(given, "requests", file=file, field=field),
        request_length_sd=_number(given, "request_length_sd", 0.0, file=file, field=field),
        request_weighted_length=_number(given, "request_weighted_length", 1.0, file=file, field=field),
        mean_completion_tokens=_number(given, "mean_completion_tokens", 1.0, file=file, field=field),
    )
    known = sample if sample != Sample() else None
    if not kinds:
        k = _count(given, "num_spec_tokens", file=file, field=field)
        if "mean_acceptance_length" not in given or k is None:
            raise InputError(
                "needs conditional_acceptance_rates, per_position_acceptance_rates, acceptance_histogram, or"
                " mean_acceptance_length with num_spec_tokens",
                file=file,
                field=field,
            )
        name = f"{field}.mean_acceptance_length"
        return float(checked_length(given["mean_acceptance_length"], k, field=name, file=file)), k, known
    where, values = f"{field}.{kinds[0]}", given[kinds[0]]
    if kinds[0] == "conditional_acceptance_rates":
        conditional = checked_rates(values, field=where, file=file)
    elif kinds[0] == "per_position_acceptance_rates":
        conditional = conditional_from_survival(checked_survival(values, field=where, file=file))
    else:
        counts = _dense(values, given, file=file, field=where)
        conditional = conditional_from_survival(survival_from_histogram(counts))
        if sample.rounds not in (None, sum(counts)):
            problem = f"is {sample.rounds}, but the histogram counts {sum(counts)}; correct one of them"
            raise InputError(problem, file=file, field=f"{field}.num_spec_steps")
        known = replace(sample, rounds=sum(counts))
    if conditional.ndim != 1 or conditional.size == 0:
        raise InputError("must be a list of at least one number", file=file, field=where)
    _agree(given, conditional.tolist(), file=file, field=field)
    return MeasuredLength(tuple(conditional.tolist()), known)


def _agree(given: Mapping[str, Any], conditional: list[float], *, file: str, field: str) -> None:
    """Figures beside the rates must follow from them."""
    k = given.get("num_spec_tokens", len(conditional))
    if k != len(conditional):
        raise InputError(
            f"is {k}, but there are {len(conditional)} positions", file=file, field=f"{field}.num_spec_tokens"
        )
    survival = survival_from_conditional(conditional)
    implied = {
        "mean_acceptance_length": float(length_from_survival(survival)),
        "draft_acceptance_rate": float(accepted_rate_from_survival(survival)),
    }
    for name, value in implied.items():
        stated = given.get(name)
        if stated is not None and not math.isclose(float(stated), value, rel_tol=DISAGREEMENT, abs_tol=0.005):
            raise InputError(
                f"is {stated}, but the rates by position imply {value:.4g} (length counts the bonus token; rates are"
                " fractions); correct one of them or leave this field out",
                file=file,
                field=f"{field}.{name}",
            )


def _dense(values: Any, given: Mapping[str, Any], *, file: str, field: str) -> list[int]:
    items = values.items() if isinstance(values, Mapping) else enumerate(values)
    counts = {int(j): int(n) for j, n in items}
    k = int(given.get("num_spec_tokens", max(counts, default=0)))
    if not counts or min(counts) < 0 or max(counts) > k or k < 1:
        raise InputError(f"needs counts for 0..{max(k, 1)} accepted tokens", file=file, field=field)
    return [counts.get(j, 0) for j in range(k + 1)]


def _count(given: Mapping[str, Any], name: str, *, file: str, field: str) -> int | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"{value!r} must be a whole number of at least 1", file=file, field=f"{field}.{name}")
    return value


def _number(given: Mapping[str, Any], name: str, least: float, *, file: str, field: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
        raise InputError(f"{value!r} must be a number, {least:g} or more", file=file, field=f"{field}.{name}")
    return float(value)


def _only(given: Mapping[str, Any], known: set[str], *, file: str, field: str) -> None:
    for name in sorted(set(given) - known):
        near = get_close_matches(name, known, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; known are {', '.join(sorted(known))}"
        raise InputError(f"is unknown{hint}", file=file, field=f"{field}.{name}".lstrip("."))


def _chosen(
    sets: list[AcceptanceEvidence], *, method: str | None, dataset: str | None, file: str
) -> AcceptanceEvidence:
    fitting = [
        one for one in sets if (method is None or one.method == method) and (dataset is None or one.dataset == dataset)
    ]
    if len(fitting) == 1:
        return fitting[0]
    there = "; ".join(f"{one.method or '-'} on {one.dataset or '-'}" for one in sets)
    problem = "no set fits" if not fitting else f"{len(fitting)} sets fit"
    asked = f"method {method or 'any'}, dataset {dataset or 'any'}"
    raise InputError(f"{problem} {asked}; it holds {there}: name one by method and dataset", file=file, field="sets")
