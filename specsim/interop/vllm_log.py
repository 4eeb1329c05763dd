"""vLLM's SpecDecoding log lines, in the forms they have had."""

from __future__ import annotations

import re

from specsim.errors import InputError
from specsim.interop.spec_decode_counts import SpecDecodeCounts

LINE = re.compile(r"(?:SpecDecoding|Speculative) metrics: (?P<fields>.*)")
ACCEPTED_FIELD = re.compile(r"(?:\bAccepted|Number of accepted tokens): (\d+)")
DRAFTED_FIELD = re.compile(r"(?:\bDrafted|Number of draft tokens): (\d+)")
LENGTH_FIELD = re.compile(r"Mean acceptance length: ([\d.]+|nan)")
RATES_FIELD = re.compile(r"Per-position acceptance rate: ((?:[\d.]+|nan)(?:, (?:[\d.]+|nan))*)")


def counts_from_log(text: str, *, file: str = "log") -> SpecDecodeCounts:
    """Counts summed over a log's SpecDecoding lines, each of which covers the interval since the one before it.

    Lines with a mean acceptance length give their drafts as accepted / (length - 1), or, where nothing was accepted,
    as drafted / positions; lengths are printed to 0.01 and rates to 0.001, so counts are good to about a per cent.
    The first lines of vLLM V1 (2025) and of V0 print totals without length or positions: these give the accepted rate
    and no K, which is not enough, and raise InputError.
    """
    total: SpecDecodeCounts | None = None
    lines = 0
    for match in LINE.finditer(text):
        lines += 1
        counts = _line_counts(match["fields"], file=file)
        if counts is not None:
            total = counts if total is None else total + counts
    if total is None:
        raise InputError(
            f"none of {lines} SpecDecoding lines drafted anything; send requests first, then take the log", file=file
        )
    return total


def _line_counts(fields: str, *, file: str) -> SpecDecodeCounts | None:
    accepted_field, drafted_field = ACCEPTED_FIELD.search(fields), DRAFTED_FIELD.search(fields)
    if accepted_field is None or drafted_field is None:
        raise InputError(f"a SpecDecoding line lacks its counts ({fields[:60]!r}); is the log cut short?", file=file)
    accepted, drafted = float(accepted_field[1]), float(drafted_field[1])
    if drafted == 0:
        return None
    length, rates = LENGTH_FIELD.search(fields), RATES_FIELD.search(fields)
    if length is None or rates is None or "nan" in rates[1]:
        raise InputError(
            "its lines give totals without acceptance by position (older vLLM); take two scrapes of /metrics, or"
            " give length and at_k in the scenario",
            file=file,
        )
    survival = [float(rate) for rate in rates[1].split(", ")]
    share = sum(survival)
    # Rates are rounded to 0.001 each, which is finer than the length's 0.01 unless next to nothing was accepted.
    drafts = accepted / share if share > 0.05 else drafted / len(survival)
    positions = tuple(rate * drafts for rate in survival)
    return SpecDecodeCounts(drafts, drafted, accepted, positions)
