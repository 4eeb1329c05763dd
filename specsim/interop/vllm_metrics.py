"""Acceptance from what a vLLM server prints: its /metrics counters, one scrape or two, and its log lines."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from specsim.acceptance.evidence import AcceptanceEvidence
from specsim.errors import InputError
from specsim.interop.spec_decode_counts import SpecDecodeCounts, evidence_from_counts
from specsim.interop.vllm_log import LINE, counts_from_log
from specsim.report.acceptance import acceptance_report

__all__ = ["acceptance_report", "counters_from_scrape", "read_acceptance"]

DRAFTS = "vllm:spec_decode_num_drafts"
DRAFT_TOKENS = "vllm:spec_decode_num_draft_tokens"
ACCEPTED = "vllm:spec_decode_num_accepted_tokens"
PER_POSITION = "vllm:spec_decode_num_accepted_tokens_per_pos"
NAMES = (DRAFTS, DRAFT_TOKENS, ACCEPTED, PER_POSITION)


def read_acceptance(
    paths: Sequence[Path], *, model_name: str | None = None, engine: str | None = None
) -> AcceptanceEvidence:
    """Acceptance evidence from one file (a scrape or a log) or two (an earlier and a later scrape: the difference).

    A scrape counts since the server started; two bracket what lay between them. Engines of one model are summed;
    several models need ``model_name``. ``engine`` keeps one data-parallel engine. Raises InputError for a file that is
    neither, series that are missing, no drafts, and counters that fell between the scrapes.
    """
    if not 1 <= len(paths) <= 2:
        raise InputError(f"{len(paths)} files; give one scrape or log, or an earlier and a later scrape", field="FILE")
    texts = [_text(path) for path in paths]
    kinds = ["scrape" if _is_scrape(text) else "log" if _is_log(text) else "neither" for text in texts]
    for path, kind in zip(paths, kinds, strict=True):
        if kind == "neither":
            raise InputError(
                "holds neither vllm:spec_decode_ counters nor SpecDecoding log lines; fetch http://HOST:PORT/metrics"
                " of a server that runs with --speculative-config, or pass its log",
                file=str(path),
            )
    if len(paths) == 2 and "log" in kinds:
        raise InputError("is a log; a difference needs two scrapes of /metrics", file=str(paths[kinds.index("log")]))
    if kinds[0] == "log":
        if model_name is not None or engine is not None:
            raise InputError("log lines name neither model nor engine; leave both out", file=str(paths[0]))
        counts = counts_from_log(texts[0], file=str(paths[0]))
        return evidence_from_counts(counts, source=f"vLLM log {paths[0].name}", file=str(paths[0]))
    scrapes = [
        counters_from_scrape(text, file=str(path), model_name=model_name, engine=engine)
        for path, text in zip(paths, texts, strict=True)
    ]
    named = " to ".join(path.name for path in paths)
    counters = scrapes[0] if len(scrapes) == 1 else _difference(*scrapes, files=(str(paths[0]), str(paths[1])))
    since = "since the server started" if len(paths) == 1 else "between two scrapes"
    counts = _counts(counters, file=str(paths[-1]))
    return evidence_from_counts(counts, source=f"vLLM /metrics {named} ({since})", file=str(paths[-1]))


Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def counters_from_scrape(
    text: str, *, file: str = "metrics", model_name: str | None = None, engine: str | None = None
) -> Series:
    """The speculation counters of a scrape by (name, labels), of one model.

    Raises InputError for text that does not parse, a model or engine that is not there, and several models unasked.
    """
    from prometheus_client.parser import text_string_to_metric_families

    if text and not text.endswith("\n"):
        raise InputError(
            "ends inside a line, so its last value may be cut; scrape again (or end a whole file with a newline)",
            file=file,
        )
    found: Series = {}
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name.removesuffix("_total") in NAMES and not sample.name.endswith("_created"):
                    key = (sample.name.removesuffix("_total"), tuple(sorted(sample.labels.items())))
                    found[key] = found.get(key, 0.0) + sample.value
    except (ValueError, KeyError, IndexError, TypeError) as bad:
        raise InputError(f"is not Prometheus text ({bad}); is it cut short?", file=file) from bad
    for label, wanted in (("model_name", model_name), ("engine", engine)):
        there = sorted({dict(labels).get(label, "") for _, labels in found})
        if wanted is not None and wanted not in there:
            raise InputError(f"{wanted!r} is not in the scrape; it has {', '.join(there)}", file=file, field=label)
        if wanted is not None:
            found = {key: value for key, value in found.items() if dict(key[1]).get(label) == wanted}
    models = sorted({dict(labels).get("model_name", "") for _, labels in found})
    if len(models) > 1:
        raise InputError(f"has several models ({', '.join(models)}); name one", file=file, field="model_name")
    return found


def _difference(earlier: Series, later: Series, *, files: tuple[str, str]) -> Series:
    for key, value in earlier.items():
        if key not in later:
            raise InputError(
                f"lacks {key[0]} {dict(key[1])} that {files[0]} has; scrape the same server", file=files[1]
            )
        if later[key] < value:
            raise InputError(
                f"{key[0]} fell from {value:g} to {later[key]:g}: the server restarted between the scrapes, or the"
                " files are in the wrong order; give the earlier one first, both from one run",
                file=files[1],
            )
    return {key: value - earlier.get(key, 0.0) for key, value in later.items()}


def _counts(series: Mapping[tuple[str, tuple[tuple[str, str], ...]], float], *, file: str) -> SpecDecodeCounts:
    totals = dict.fromkeys(NAMES, 0.0)
    positions: dict[int, float] = {}
    for (name, labels), value in series.items():
        if name == PER_POSITION:
            place = dict(labels).get("position", "")
            if not place.isdigit():
                raise InputError(f"position {place!r} is not a number", file=file, field=PER_POSITION)
            positions[int(place)] = positions.get(int(place), 0.0) + value
        totals[name] += value
    present = {name for name, _ in series}
    missing = [name for name in (DRAFTS, DRAFT_TOKENS, ACCEPTED) if name not in present]
    if missing:
        raise InputError(f"lacks {', '.join(f'{name}_total' for name in missing)}; is the scrape cut short?", file=file)
    if positions and sorted(positions) != list(range(len(positions))):
        raise InputError(f"has positions {sorted(positions)}; is the scrape cut short?", file=file, field=PER_POSITION)
    per_position = tuple(positions[i] for i in range(len(positions))) or None
    if per_position is not None and abs(totals[PER_POSITION] - totals[ACCEPTED]) > 0.5:
        raise InputError(
            f"positions sum to {totals[PER_POSITION]:g} but {totals[ACCEPTED]:g} tokens were accepted; is the scrape"
            " cut short, or summed over servers?",
            file=file,
            field=PER_POSITION,
        )
    return SpecDecodeCounts(totals[DRAFTS], totals[DRAFT_TOKENS], totals[ACCEPTED], per_position)


def _text(path: Path) -> str:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise InputError(f"cannot be read: {bad}", file=str(path)) from bad
    if not text.strip():
        raise InputError("is empty; scrape /metrics again or pass the server's log", file=str(path))
    return text


def _is_scrape(text: str) -> bool:
    return re.search(r"^(# (HELP|TYPE) )?vllm:spec_decode_", text, re.MULTILINE) is not None


def _is_log(text: str) -> bool:
    return LINE.search(text) is not None
