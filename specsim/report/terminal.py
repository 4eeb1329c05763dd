"""A plan on the terminal: the answer first, then what it rests on, each section a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from specsim.report import grids
from specsim.report.layout import Column, bullets, heading, paragraph, print_table, show
from specsim.report.numbers import digits, stacked, written
from specsim.scenario import Loaded
from specsim.scenario.scenario import Scenario

Plan = Mapping[str, Any]


def print_plan(plan: Plan, loaded: Loaded) -> None:
    """Print the plan of a scenario (the dictionary that ``--json`` prints) as text of at most 100 columns."""
    context = grids.context_shown(plan)
    _question(loaded)
    _answer(plan)
    if context is not None:
        for drafter in grids.drafters(plan["grid"]):
            if any(row["speedup"] is not None for row in plan["grid"] if row["drafter"] == drafter):
                grids.print_speedup(plan, drafter, context)
    _schedule(plan)
    if context is not None:
        for drafter in grids.drafters(plan["grid"]):
            grids.print_step_time(plan, drafter, context)
        for drafter in grids.drafters(plan["break_even"]):
            grids.print_break_even(plan, drafter, context)
        _other_contexts(plan, context)
    _capacity(plan)
    _provenance(plan)
    _warnings(plan)


def _question(loaded: Loaded) -> None:
    scenario = loaded.scenario
    target = scenario.target
    gpus = f"{target.tensor_parallel} x {target.hardware}" if target.tensor_parallel > 1 else target.hardware
    show(Text(f"{target.model}, {target.dtype}, on {gpus}, {target.engine}", style="bold"))
    names = ", ".join(drafter.label for drafter in scenario.drafters) or "none given"
    paragraph(f"Drafters: {names}. Traffic: {_traffic(scenario)}. Scenario: {loaded.source}.", style="dim")


def _traffic(scenario: Scenario) -> str:
    if scenario.workload is None:
        return "none given"
    arrivals = scenario.workload.arrivals
    if arrivals.kind == "closed":
        return f"{arrivals.concurrency} users in a closed loop"
    if arrivals.kind == "trace":
        return f"the trace {arrivals.file}" + (f" at {arrivals.rate_per_s:g} requests/s" if arrivals.rate_per_s else "")
    burst = f" with burstiness {arrivals.burstiness:g}" if arrivals.kind == "gamma" else ""
    return f"{arrivals.rate_per_s:g} requests/s{burst}"


def _answer(plan: Plan) -> None:
    heading("Should speculation be on, and how far should it draft?")
    advice = plan.get("recommendation") or {}
    declined = advice.get("declined") or (None if advice else plan.get("declined"))
    if declined or not advice:
        paragraph(f"No recommendation: {declined or 'there is no acceptance evidence'}", style="bold yellow")
        return
    if advice["k"] == 0:
        paragraph("No: leave speculation off.", style="bold red")
    else:
        paragraph(f"Yes: {advice['drafter']} with num_speculative_tokens = {advice['k']}.", style="bold green")
        speedup = advice.get("speedup")
        if speedup:
            where = f" at batch {digits(advice['batch'])}" if advice.get("batch") else ""
            paragraph(f"{written(speedup)} times the output tokens a second of plain decoding{where}.")
    if advice.get("reason"):
        paragraph(advice["reason"])
    _off_above(advice.get("speculation_off_above"))


def _off_above(limits: Mapping[str, Any] | None) -> None:
    if limits is None:
        return
    words = {
        "batch": "more than {} requests decode at once",
        "request_rate_per_s": "one replica gets more than {} requests/s",
        "context_tokens": "requests hold more than {} tokens of context",
    }
    off = [text.format(digits(limits[key])) for key, text in words.items() if limits.get(key) is not None]
    on = [key for key in words if key in limits and limits[key] is None]
    if off:
        paragraph(f"Turn it off where {', or where '.join(off)}.", style="bold")
    if on:
        names = {"batch": "batch size", "request_rate_per_s": "request rate", "context_tokens": "context length"}
        paragraph(f"It pays up to the largest {' and '.join(names[key] for key in on)} considered.")


def _schedule(plan: Plan) -> None:
    rows = plan["schedule"]
    if not rows:
        return
    one = len({row["context_tokens"] for row in rows}) == 1
    table = []
    for row in rows:
        high = row["batch_max"]
        batch = (
            f"{row['batch_min']:,g}"
            if high == row["batch_min"]
            else f"{row['batch_min']:,g}-{high:,g}"
            if high
            else f"{row['batch_min']:,g}+"
        )
        cells = [Text(str(row["drafter"])), Text(batch)]
        cells += [] if one else [Text(f"{row['context_tokens']:,g}")]
        off = row["k"] == 0
        cells += [
            Text("off" if off else str(row["k"]), style="red" if off else "bold green"),
            Text(written(row["speedup"])),
            Text(str(row["why"])),
        ]
        table.append(cells)
    columns = [
        Column("drafter", whole=True),
        Column("batch", whole=True),
        *([] if one else [Column("context", right=True)]),
    ]
    columns += [Column("K", right=True), Column("speedup", whole=True), Column("why")]
    print_table("Which draft length at which load?", columns, table)


def _other_contexts(plan: Plan, context: int) -> None:
    others = [c for c in (grids.contexts(plan["grid"]) or grids.contexts(plan["break_even"])) if c != context]
    if others:
        listed = ", ".join(f"{c:,g}" for c in others)
        paragraph(f"The tables show {context:,g} tokens of context; --json holds {listed} too.", style="dim")


def _capacity(plan: Plan) -> None:
    rows = plan["capacity"]
    if not rows:
        return
    priced = any(row.get("cost_per_million_output_tokens") for row in rows)
    columns = [
        Column("configuration"),
        Column("requests/s a replica", right=True),
        Column("replicas", right=True),
        Column("GPU-hours/M tokens", right=True),
        *([Column("cost/M tokens", right=True)] if priced else []),
        Column("what limits it"),
    ]
    table = [
        [
            Text(str(row["configuration"])),
            stacked(row["request_rate_per_s"]),
            Text("-" if row.get("replicas") is None else str(row["replicas"])),
            stacked(row.get("gpu_hours_per_million_output_tokens")),
            *([stacked(row.get("cost_per_million_output_tokens"))] if priced else []),
            Text(str(row.get("binding_constraint") or row.get("binding constraint") or "")),
        ]
        for row in rows
    ]
    print_table("How many GPUs does the load take?", columns, table)
    note = "Simulated with the same requests in every configuration; the rate holds every limit of the SLO."
    note += " TTFT: arrival to first token. TPOT: time per output token after the first."
    paragraph(note + (" Cost in the currency of gpu_hour." if priced else ""), style="dim")


def _provenance(plan: Plan) -> None:
    heading("Where do the numbers come from?")
    bullets(list(_sources(plan["provenance"])))


def _sources(provenance: Mapping[str, Any]) -> Sequence[str]:
    lines = []
    for key, value in provenance.items():
        if value is None or value == [] or value == {}:
            continue
        name = key.replace("_", " ")
        if isinstance(value, list | tuple):
            lines.append(f"{name}: {'; '.join(map(str, value))}")
        elif isinstance(value, Mapping):
            lines.append(f"{name}: {', '.join(f'{k} {_plain(v)}' for k, v in value.items())}")
        else:
            lines.append(f"{name}: {_plain(value)}")
    return lines


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return "(" + ", ".join(f"{k} {_plain(v)}" for k, v in value.items()) + ")"
    return digits(value) if isinstance(value, float) else str(value)


def _warnings(plan: Plan) -> None:
    if plan["warnings"]:
        heading("What should you know before you use this?")
        bullets(plan["warnings"], style="yellow")
