"""Systems side by side on the terminal: what users feel, what it costs, what does not apply, and a chart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.text import Text

from specsim.planning.comparison import Comparison, Row
from specsim.report.chart import Curve, chart
from specsim.report.layout import Column, bullets, console, heading, paragraph, print_table, show
from specsim.report.numbers import NOTHING, digits, ratio
from specsim.scenario import Loaded

ALONE = "one request at a time"


def print_comparison(made: Comparison, loaded: Loaded, *, files: Sequence[Path] = ()) -> None:
    """Print a comparison as text of at most 100 columns, fastest first after plain decoding."""
    target = loaded.scenario.target
    show(Text(f"{target.model}, {target.dtype}, on {made.rows[0].hardware[0]}, {target.engine}", style="bold"))
    requests = made.rows[0].requests
    paragraph(
        f"Scenario: {loaded.source}. The same {requests:,} requests, acceptance evidence and seed"
        f" ({loaded.scenario.simulation.seed}) for every system.",
        style="dim",
    )
    _load(made)
    rows = [made.rows[0], *sorted(made.rows[1:], key=lambda row: -row.speedup.value)]
    _speeds(rows)
    _costs(rows)
    _curves(made)
    _assumed(rows)
    _left_out("Which do not apply here, and why?", made.left_out)
    for note in loaded.notes:
        paragraph(note, style="yellow")
    if files:
        heading("Where is it?")
        bullets([str(path) for path in files])


def _load(made: Comparison) -> None:
    """What the replica was given, who cannot keep up with it, and who is beyond the SLO."""
    paragraph(made.load)
    if growing := [row.system for row in made.rows if row.load_grows]:
        paragraph(
            f"Requests pile up until the run ends with {', '.join(growing)}: no load that these sustain, or a run too"
            " short to settle; their latencies and speedups depend on how long it is.",
            style="bold yellow",
        )
    if beyond := [row for row in made.rows if row.beyond_slo]:
        plain = f" ({beyond[0].system}: {'; '.join(beyond[0].beyond_slo)})"
        paragraph(f"The SLO does not hold with {', '.join(row.system for row in beyond)}{plain}.", style="bold yellow")
    if growing or beyond:
        paragraph(made.remedy, style="bold yellow")


def _speeds(rows: Sequence[Row]) -> None:
    several = len({row.gpus for row in rows}) > 1
    names = ("speedup", "tokens/s", *(("GPUs", "each") if several else ()), "TPOT\nms", "p95", "TTFT\nms", "p95")
    cells = []
    for row in rows:
        how = row.ran_with + (f"; {ALONE}" if row.one_at_a_time else "")
        how += f"; {' + '.join(row.hardware)}" if len(row.hardware) > 1 else ""
        gpus = [str(row.gpus), digits(row.per_gpu)] if several else []
        latencies = [digits(1000 * s) for s in (row.tpot_s, row.tpot_p95_s, row.ttft_s, row.ttft_p95_s)]
        cells.append([row.system, how, _speedup(row), digits(row.output_tokens_per_s), *gpus, *latencies])
    alone = any(row.one_at_a_time for row in rows)
    waits = " A system that serves one request at a time makes others wait, which TPOT leaves out and TTFT shows."
    print_table(
        "What do users feel at this workload?",
        [Column("system", whole=True), Column("ran with"), *(Column(name, right=True, whole=True) for name in names)],
        cells,
        note="Speedup: plain decoding's mean TPOT over the system's. ±: its 90 % interval over stretches of the same"
        " requests, of chance alone; the errors of profile and evidence, which `specsim plan` counts, come on top."
        " Tokens/s: output, from the first arrival to the last finish; under open arrivals it is what arrives unless a"
        " system cannot keep up. In a closed loop, no user's first or last request counts. Where there are several"
        " drafters or lengths, each system has those that the closed form finds fastest at this load." + waits * alone,
    )


def _speedup(row: Row) -> str:
    found = row.speedup
    half = max(found.high - found.value, found.value - found.low)
    if not half:
        return ratio(found.value)
    return f"{ratio(found.value)} ±{half:.2f}" if half >= 0.005 else f"{ratio(found.value)} ±<.01"


def _costs(rows: Sequence[Row]) -> None:
    names = (
        "tokens\n/round",
        "drafts\n/token",
        "wasted",
        "weights\nGB",
        "cache\nGB",
        "net kB\n/token",
        "GFLOP\n/token",
    )
    cells = [
        [
            row.system,
            ratio(row.tokens_per_round),
            ratio(row.drafted),
            NOTHING if row.wasted_share is None else f"{100 * row.wasted_share:.0f} %",
            digits(row.weight_bytes / 1e9),
            digits(row.cache_bytes / 1e9),
            digits(row.network_bytes / 1e3) if row.network_bytes else NOTHING,
            digits(row.flops / 1e9),
            row.lossless,
        ]
        for row in rows
    ]
    print_table(
        "What does it cost?",
        [
            Column("system", whole=True),
            *(Column(name, right=True, whole=True) for name in names),
            Column("lossless"),
        ],
        cells,
        note="A token: an output token. Weights, and the cache at its fullest: on each of the target's GPUs. GFLOP: of"
        f" rounds, rejected tokens and drafts included; prompts take {digits(rows[0].prompt_flops / 1e9)} an output"
        " token in plain decoding.",
    )


def _curves(made: Comparison) -> None:
    curves = [
        Curve(row.system, [(p.output_tokens_per_s / row.gpus, 1000 * p.tpot_s) for p in row.sweep])
        for row in made.rows
        if row.sweep
    ]
    if not curves:
        return
    heading("How does latency rise with throughput?")
    for line in chart(curves, x="output tokens/s a GPU", y="mean TPOT, ms", width=console().width):
        show(Text(line))
    users = sorted({p.concurrency for row in made.rows for p in row.sweep})
    paragraph(
        f"Closed loops of {', '.join(map(str, users))} users, each system as above; systems that serve one request at a"
        " time have one user. *: several systems.",
        style="dim",
    )


def _assumed(rows: Sequence[Row]) -> None:
    lines = [f"{row.system}: {'; '.join(row.assumed)}" for row in rows if row.assumed]
    if lines:
        heading("What was assumed?")
        bullets(lines)


def _left_out(title: str, reasons: Mapping[str, str]) -> None:
    if not reasons:
        return
    heading(title)
    together: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        together.setdefault(reason, []).append(name)
    bullets([f"{', '.join(names)}: {reason}" for reason, names in together.items()])
