"""What a simulation found, on the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.text import Text

from specsim.report.layout import Column, bullets, heading, paragraph, print_table
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


def print_summary(summary: Mapping[str, Any], *, title: str, files: Sequence[Path], notes: Sequence[str]) -> None:
    """Print latencies, rates and use of a simulation's summary (its dictionary), and where its files are."""
    statistics = ("mean", "p50", "p90", "p95", "p99")
    rows = [
        [Text(name), *(stacked(_scaled(summary[key][s], 1000.0)) for s in statistics)]
        for key, name in LATENCIES.items()
        if summary.get(key) is not None
    ]
    print_table(
        f"{title}: what do users feel? (ms)",
        [Column(""), *(Column(name, right=True) for name in statistics)],
        rows,
        note="TTFT: arrival to first token. TPOT: time per output token after the first, of one request."
        " ITL: between two emissions. Below each value its 90 % interval.",
    )
    heading("What does the replica do?")
    bullets([f"{name}: {written(summary[key], unit)}" for key, (name, unit) in SHARES.items() if summary.get(key)])
    paragraph(
        f"{summary['requests']:,} requests in {summary['runs']} runs, {sum(summary['warm_up_requests']):,} left out as"
        f" warm-up; {summary['method']}.",
        style="dim",
    )
    for note in (*notes, *summary["notes"]):
        paragraph(note, style="yellow")
    heading("Where is it?")
    bullets([str(path) for path in files])


def _scaled(estimate: Mapping[str, float], factor: float) -> dict[str, float]:
    return {name: value * factor for name, value in estimate.items()}
