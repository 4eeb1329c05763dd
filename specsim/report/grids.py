"""Batch size by draft length: speedup, step time and break-even of one drafter, as tables of 100 columns."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from rich.text import Text

from specsim.report.layout import Column, console, paragraph, print_table
from specsim.report.numbers import count, ratio, stacked

Row = Mapping[str, Any]
USUAL_CONTEXT = 2048
"""Tokens of context that tables show where neither the traffic nor the reader says which."""
MOST_ROWS = 7
COLUMN = 11
"""Width of a column of intervals, the gap before it counted."""


def contexts(rows: Sequence[Row]) -> list[int]:
    """Context lengths that the rows hold, rising."""
    return sorted({row["context_tokens"] for row in rows})


def context_shown(plan: Mapping[str, Any], asked: Sequence[int] | None) -> int | None:
    """The context of the tables: the first that was asked for, else the load's, else a middling one."""
    there = contexts(plan["grid"])
    if not there:
        return None
    wanted = asked[0] if asked else plan["recommendation"].get("context_tokens", USUAL_CONTEXT)
    return min(there, key=lambda tokens: abs(tokens - wanted))


def drafters(rows: Sequence[Row]) -> list[str]:
    """Drafters that the rows hold, in order of appearance, plain decoding left out."""
    return list(dict.fromkeys(row["drafter"] for row in rows if row["k"] > 0))


def print_speedup(plan: Mapping[str, Any], drafter: str, context: int) -> None:
    """Speedup over plain decoding; the length to use in each row is marked."""
    rows = _of(plan["grid"], drafter, context)
    best = {(item["batch_min"], item["batch_max"]): item["k"] for item in _of(plan["schedule"], drafter, context)}

    def chosen(row: Row) -> bool:
        return any(low <= row["batch"] <= (high or float("inf")) and row["k"] == k for (low, high), k in best.items())

    lengths = [k for k in _lengths(rows, kept=set(best.values())) if k > 0]
    header = [Text("tokens/round"), *(stacked(_first(rows, k, "tokens_per_round"), form=ratio) for k in lengths)]

    def cell(row: Row) -> Text:
        if row["speedup"] is not None and chosen(row):
            return stacked(row["speedup"], form=ratio, mark="*", style="bold green")
        slower = row["speedup"] is not None and row["speedup"]["value"] < 1
        return stacked(row["speedup"], form=ratio, style="red" if slower else "")

    _print(f"{drafter}: how much faster is decoding? ({count(context)} tokens of context)", rows, lengths, cell, header)
    paragraph(
        "Speedup: output tokens a second over those of plain decoding at the same batch; below it the 90 % interval."
        " Tokens/round: acceptance length, the bonus token counted. * the length that the schedule uses at"
        " that batch (no mark: none pays).",
        style="dim",
    )


def print_step_time(plan: Mapping[str, Any], drafter: str, context: int) -> None:
    """Milliseconds of a round: drafting, verification and host work."""
    rows = _of(plan["grid"], drafter, context)
    lengths = _lengths(rows)
    _print(
        f"{drafter}: how long does a round take, in ms? ({count(context)} tokens of context)",
        rows,
        lengths,
        lambda row: stacked(row["step_ms"]),
        None,
    )
    paragraph("A round drafts K tokens and verifies K+1, host work included; K=0 is a plain step.", style="dim")


def print_break_even(plan: Mapping[str, Any], drafter: str, context: int) -> None:
    """Acceptance length from which speculation pays."""
    rows = _of(plan["break_even"], drafter, context)
    reached = {(row["k"], row["batch"]): row["tokens_per_round"] for row in _of(plan["grid"], drafter, context)}

    def cell(row: Row) -> Text:
        if not row["possible"]:
            return stacked(row["acceptance_length"], form=ratio, mark="!", style="red")
        mine = reached.get((row["k"], row["batch"]))
        pays = mine is not None and mine["value"] > row["acceptance_length"]["value"]
        return stacked(row["acceptance_length"], form=ratio, style="green" if pays else "")

    lengths = [k for k in _lengths(rows) if k > 0]
    _print(
        f"{drafter}: from which acceptance length does it pay? ({count(context)} tokens of context)",
        rows,
        lengths,
        cell,
        None,
    )
    note = "Acceptance length: tokens a round, the bonus token counted, so at most K+1."
    if any(not row["possible"] for row in rows):
        note += " ! more than K+1: no drafter can make it pay there."
    paragraph(note, style="dim")


def _print(
    title: str, rows: Sequence[Row], lengths: Sequence[int], cell: Callable[[Row], Text], header: list[Text] | None
) -> None:
    at = {(row["batch"], row["k"]): row for row in rows}
    table = [] if header is None else [header]
    for batch in _sorted(rows, "batch"):
        cells = [cell(at[batch, k]) if (batch, k) in at else Text("") for k in lengths]
        table.append([Text(f"batch {count(batch)}"), *cells])
    columns = [Column("", whole=True), *(Column(f"K={k}", right=True, whole=True) for k in lengths)]
    print_table(title, columns, table)


def _of(rows: Sequence[Row], drafter: str, context: int) -> list[Row]:
    return [row for row in rows if row["drafter"] == drafter and row["context_tokens"] == context]


def _first(rows: Sequence[Row], k: int, field: str) -> Any:
    return next(row[field] for row in rows if row["k"] == k)


def _sorted(rows: Sequence[Row], field: str) -> list[Any]:
    return sorted({row[field] for row in rows})


def _lengths(rows: Sequence[Row], *, kept: Collection[int] = ()) -> list[int]:
    """As many draft lengths as fit the width: those ``kept``, the first and the last, and others between them."""
    there = _sorted(rows, "k")
    room = max((console().width - COLUMN) // COLUMN, 2)
    chosen = {there[0], there[-1], *(k for k in kept if k in there)}
    for k in there:
        if len(chosen) >= room:
            break
        chosen.add(k)
    return sorted(chosen)


def batches_shown(plan: Mapping[str, Any], asked: Sequence[int] | None) -> list[int]:
    """Batch sizes of the tables: those asked for, else powers of two up to the largest, and the recommendation's."""
    there = _sorted(plan["grid"], "batch")
    if asked:
        return [batch for batch in there if batch in asked]
    if not there:
        return []
    powers = [batch for batch in there if batch & (batch - 1) == 0]
    here = plan["recommendation"].get("batch")
    kept = {powers[0], *powers[-MOST_ROWS + 1 :], there[-1]} | ({here} if here in there else set())
    return sorted(kept)


def at_batches(plan: Mapping[str, Any], batches: Sequence[int]) -> dict[str, Any]:
    """The plan with only these batch sizes in its tables."""
    kept = {name: [row for row in plan[name] if row["batch"] in batches] for name in ("grid", "break_even")}
    return {**plan, **kept}
