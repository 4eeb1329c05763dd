"""A plan on the terminal: the answer first, then what it rests on, each section a question."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rich.text import Text

from specsim.report import grids
from specsim.report.layout import Column, bullets, heading, paragraph, print_table, show
from specsim.report.numbers import count, digits, ratio, stacked, written
from specsim.scenario import Loaded
from specsim.scenario.scenario import Scenario

Plan = Mapping[str, Any]
SHARE_TOLD = 0.05
"""Share of a replica's time from which prefill is told of beside the answer."""


def print_plan(plan: Plan, loaded: Loaded) -> None:
    """Print the plan of a scenario (the dictionary that ``--json`` prints) as text of at most 100 columns.

    The drafter that is recommended (or the first) is shown in full, the others by their speedup.
    """
    asked = loaded.scenario.shown
    context = grids.context_shown(plan, asked.context_tokens)
    whole, plan = plan, grids.at_batches(plan, grids.batches_shown(plan, asked.batch_sizes))
    drafters = grids.drafters(plan["grid"])
    measured = [name for name in drafters if _has_evidence(plan, name)]
    _question(loaded)
    _answer(plan)
    if context is not None and drafters:
        first = plan["recommendation"].get("drafter")
        main = first if first in drafters else (measured or drafters)[0]
        if main in measured:
            grids.print_speedup(plan, main, context)
        _schedule(plan, main, context)
        grids.print_break_even(plan, main, context)
        _capacity(plan, loaded.scenario)
        grids.print_step_time(plan, main, context)
        for other in drafters:
            if other != main and other in measured:
                grids.print_speedup(plan, other, context)
            elif other != main:
                grids.print_break_even(plan, other, context)
        _not_shown(whole, main, context)
    else:
        _capacity(plan, loaded.scenario)
    _provenance(plan)
    _warnings(plan)


def _has_evidence(plan: Plan, drafter: str) -> bool:
    return any(row["speedup"] is not None for row in plan["grid"] if row["drafter"] == drafter and row["k"] > 0)


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
    advice = plan["recommendation"]
    if "declined" in advice:
        paragraph(f"No recommendation: {advice['declined']}.", style="bold yellow")
        return
    if advice["k"] == 0:
        paragraph("No: leave speculation off at this load.", style="bold red")
        paragraph(f"The load: {_load(advice)}.")
    else:
        paragraph(f"Yes: {advice['drafter']} with num_speculative_tokens = {advice['k']}.", style="bold green")
        sure = advice.get("faster_than_plain")
        exact = advice["tokens_per_round"]["low"] == advice["tokens_per_round"]["high"]
        odds = f"; faster in {100 * sure:.0f} % of the plausible outcomes" if sure is not None else ""
        odds += ", acceptance taken as exact for want of counts" if odds and exact else ""
        gain = written(advice["speedup"], form=ratio)
        paragraph(f"Decoding is {gain} times as fast as without at this load: {_load(advice)}{odds}.")
        share = advice.get("prefill_share")
        if share is not None and share >= SHARE_TOLD:
            paragraph(f"Prefill, which it does not shorten, takes {100 * share:.0f} % of a replica's time there.")
    paragraph(str(advice["reason"]))
    _off_above(advice["speculation_off_above"], advice["considered_up_to"])
    if not advice["replica_stable"]:
        paragraph(
            "No configuration keeps up with this load: it is shown at the most that a replica holds.", style="yellow"
        )
    if any("alone" in row for row in plan["capacity"][:1]):
        paragraph("No rate holds the SLO, with or without: see the capacity below.", style="yellow")
    _which_drafter(advice["drafters"])


def _load(advice: Mapping[str, Any]) -> str:
    """What a replica has to do, in words."""
    rate, replicas = advice["request_rate_per_s"], advice["replicas"]
    each = "" if replicas in (None, 1) else f" on each of {count(replicas)} replicas"
    arrivals = "" if rate is None else f"{digits(rate)} requests/s{each}, "
    return f"{arrivals}batch {count(advice['batch'])}, {count(advice['context_tokens'])} tokens of context"


def _which_drafter(rows: Sequence[Mapping[str, Any]]) -> None:
    """Every drafter at its best length beside plain decoding, where there are several."""
    if len(rows) < 3:  # one drafter and plain decoding: the answer above
        return
    table = [
        [
            Text("no speculation" if row["k"] == 0 else str(row["drafter"])),
            Text("" if row["k"] == 0 else str(row["k"])),
            Text(count(row["batch"])),
            Text("" if row["seconds_per_output_token"] is None else digits(1e3 * row["seconds_per_output_token"])),
            Text("" if row["k"] == 0 else written(row["speedup"], form=ratio)),
            Text(digits(row["largest_rate_per_s"])),
        ]
        for row in rows
    ]
    columns = [
        Column("drafter"),
        Column("K", right=True),
        Column("batch", right=True),
        Column("ms/token", right=True),
        Column("speedup", whole=True),
        Column("most requests/s", right=True),
    ]
    note = "Each at its best length under this load. Ms/token: mean time of an output token, prefill's share counted."
    note += " Most requests/s: that a replica sustains in closed form, within the limit of TPOT if there is one."
    print_table("Which drafter?", columns, table, note=note)


def _off_above(limits: Mapping[str, Any], considered: Mapping[str, Any]) -> None:
    off = []
    if limits["batch"] is not None:
        rate = limits.get("request_rate_per_s")
        at = f" (from {digits(rate)} requests/s a replica)" if rate is not None else ""
        off.append(f"from {count(limits['batch'])} requests that decode at once{at}")
    if limits["context_tokens"] is not None:
        off.append(f"from {count(limits['context_tokens'])} tokens of context")
    if off:
        paragraph(f"Turn it off {', and '.join(off)}.", style="bold")
    kept = [
        f"at {what} with this {other}"
        for key, what, other in (
            ("batch", f"batch {count(considered['batch'])}", "context"),
            ("context_tokens", f"{count(considered['context_tokens'])} tokens of context", "batch"),
        )
        if limits[key] is None
    ]
    if kept:
        paragraph(f"It still pays at the largest considered: {', and '.join(kept)}.")


def _schedule(plan: Plan, drafter: str, context: int) -> None:
    rows = [row for row in plan["schedule"] if (row["drafter"], row["context_tokens"]) == (drafter, context)]
    if not rows:
        return
    table = []
    for row in rows:
        low, high = count(row["batch_min"]), count(row["batch_max"])
        rates = row.get("request_rate_min_per_s"), row.get("request_rate_max_per_s")
        off = row["k"] == 0
        table.append(
            [
                Text(low if low == high else f"{low}-{high}"),
                Text("-".join(dict.fromkeys(digits(rate) for rate in rates if rate is not None))),
                Text("off" if off else str(row["k"]), style="red" if off else "bold green"),
                Text("" if off else written(row["speedup"], form=ratio)),
                Text(str(row["why"])),
            ]
        )
    print_table(
        f"{drafter}: which draft length at which load? ({count(context)} tokens of context)",
        [
            Column("batch", whole=True),
            Column("requests/s", whole=True),
            Column("K", right=True),
            Column("speedup", whole=True),
            Column("why"),
        ],
        table,
        note="Batch: requests that decode at once on one replica. Requests/s: the arrivals that keep it there"
        " (none: no more than the rows above have).",
    )


def _not_shown(plan: Plan, main: str, context: int) -> None:
    batches = sorted({row["batch"] for row in plan["grid"]})
    fitting = [row["batch"] for row in plan["grid"] if row["context_tokens"] == context]
    own = plan["recommendation"].get("context_tokens", context)
    if fitting and (more := [batch for batch in batches if batch > max(fitting)]):
        paragraph(f"From batch {count(more[0])} on, {count(context)} tokens of context each do not fit the cache.")
    if own != context:
        paragraph(
            f"The answer and the capacity are for the load's own {count(own)} tokens of context; the other tables for"
            f" the {count(context)} asked for, at which no arrivals are known."
        )
    contexts = [count(c) for c in grids.contexts(plan["grid"]) if c != context]
    others = [name for name in grids.drafters(plan["grid"]) if name != main]
    lines = []
    if contexts:
        lines.append(f"The tables show {count(context)} tokens of context; --json holds {', '.join(contexts)} too.")
    if others:
        lines.append(f"For all tables of {', '.join(others)}: --drafter NAME.")
    if lines:
        paragraph(" ".join(lines), style="dim")


def _capacity(plan: Plan, scenario: Scenario) -> None:
    rows = plan["capacity"]
    if not rows:
        return
    priced = any(row.get("cost_per_million_output_tokens") for row in rows)
    columns = [
        Column("configuration"),
        Column("requests/s", right=True),
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
            Text(str(row["binding_constraint"])),
        ]
        for row in rows
    ]
    print_table("How many GPUs does the load take?", columns, table)
    closed = scenario.workload is not None and scenario.workload.arrivals.kind == "closed"
    for row in rows:
        if gain := row.get("rate_over_plain"):
            does = "gives the users" if closed else "sustains"
            paragraph(f"{row['configuration']} {does} {written(gain, form=ratio)} times the rate of no speculation.")
    _limits(rows)
    note = "Requests/s of one replica, simulated with the same requests in every configuration; "
    note += "the rate is what the loop's users get." if closed else "the rate holds every limit of the SLO."
    note += " TTFT: arrival to first token. TPOT: time per output token after the first."
    paragraph(note + (" Cost in the currency of gpu_hour." if priced else ""), style="dim")


def _limits(rows: Sequence[Mapping[str, Any]]) -> None:
    """Limits of a closed loop's users, held or not; and those that requests miss even alone, so that no rate holds."""
    for row in rows:
        for key, where in (("limits", ""), ("alone", " even where requests come one at a time")):
            missed = [limit for limit in row.get(key, ()) if not limit["holds"]]
            shown = missed if key == "alone" else row.get(key, ())
            if shown:
                parts = [f"{x['name']} {digits(x['value_ms'])} ms (limit {digits(x['limit_ms'])})" for x in shown]
                verdict = "no rate holds the SLO" if key == "alone" else "MISSED" if missed else "held"
                paragraph(
                    f"{row['configuration']}: {', '.join(parts)}{where}: {verdict}.", style="yellow" if missed else ""
                )


def _provenance(plan: Plan) -> None:
    heading("Where do the numbers come from?")
    for key, value in plan["provenance"].items():
        name = key.replace("_", " ")
        if isinstance(value, list | tuple) and len(value) > 1:
            bullets([f"{name}:"])
            bullets([_plain(item) for item in value], indent=2)
        elif value not in (None, [], (), {}):
            bullets([f"{name}: {_plain(value)}"])


def _plain(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_plain(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return "; ".join(_plain(item) for item in value)
    return digits(value) if isinstance(value, float) else str(value)


def _warnings(plan: Plan) -> None:
    if plan["warnings"]:
        heading("What should you know before you use this?")
        bullets(plan["warnings"], style="yellow")
