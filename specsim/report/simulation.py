"""What a simulation found, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from specsim.report.layout import Column, bullets, heading, paragraph, print_table, show
from specsim.report.numbers import stacked, written

LATENCIES = {"ttft_s": "TTFT", "tpot_s": "TPOT", "itl_s": "ITL", "e2e_s": "end to end"}
SHARES = {
    "request_throughput_per_s": ("requests", "/s"),
    "output_throughput_tokens_per_s": ("output tokens", "/s"),
    "goodput_per_s": ("goodput, requests within every limit", "/s"),
    "goodput_share": ("share of requests within every limit", ""),
    "acceptance_length": ("acceptance length, bonus token included", "tokens a round"),
    "utilisation": ("share of the time that an iteration runs", ""),
    "mean_batch": ("requests that decode at once, mean while busy", ""),
    "cache_mean": ("share of the cache in use, mean while busy", ""),
    "cache_max": ("share of the cache in use, largest", ""),
    "preemptions_per_request": ("preemptions a request", ""),
}


SECONDS_FROM = 1000.0
"""Seconds from which a table is in seconds, since milliseconds of all five statistics need more than 100 columns."""


def print_summary(
    summary: Mapping[str, Any],
    *,
    title: str,
    load: str,
    slo_holds: bool | None,
    files: Sequence[Path],
    assumed: Sequence[str],
    notes: Sequence[str],
) -> None:
    """Print what the replica was given and whether it could serve that, a summary's figures, and where its files are.

    slo_holds: None without an SLO.
    """
    show(Text(title, style="bold"))
    paragraph(load)
    for warning in summary["warnings"]:
        paragraph(warning, style="bold yellow")
    if slo_holds and not summary["load_grows"]:
        paragraph("Every limit of the SLO holds.", style="bold green")
    statistics = ("mean", "p50", "p90", "p95", "p99")
    largest = max(summary[key][s]["high"] for key in LATENCIES if summary.get(key) for s in statistics)
    unit, factor = ("s", 1.0) if largest >= SECONDS_FROM else ("ms", 1000.0)
    rows = [
        [Text(name), *(stacked(_scaled(summary[key][s], factor)) for s in statistics)]
        for key, name in LATENCIES.items()
        if summary.get(key) is not None
    ]
    print_table(
        f"What do users feel? ({unit})",
        [Column("", whole=True), *(Column(name, right=True, whole=True) for name in statistics)],
        rows,
        note="TTFT: arrival to first token. TPOT: time per output token after the first, of one request. ITL: between"
        " two emissions. Below each value its 90 % interval, of chance in requests and acceptance alone: the errors of"
        " profile and evidence, which a plan's intervals hold, come on top.",
    )
    heading("What does the replica do?")
    bullets([f"{name}: {written(summary[key], unit)}" for key, (name, unit) in SHARES.items() if summary.get(key)])
    left_out = f"{sum(summary['warm_up_requests']):,} left out as warm-up"
    if last := sum(summary["cool_down_requests"]):
        left_out += f" (users' first, which arrive at once) and {last:,} at the end (their last, as the batch empties)"
    paragraph(
        f"{summary['requests']:,} requests in {summary['runs']} runs, {left_out}; {summary['method']}.", style="dim"
    )
    if assumed:
        heading("What was assumed?")
        bullets(assumed)
    for note in (*notes, *summary["notes"]):
        paragraph(note, style="yellow")
    heading("Where is it?")
    bullets([str(path) for path in files])


def _scaled(estimate: Mapping[str, float], factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in estimate.items()}
