"""Numbers and estimates as a reader wants them: three digits, and the interval beside the value."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from rich.text import Text

NOTHING = "-"
Form = Callable[[float], str]
"""How a number is written."""


def digits(value: float, significant: int = 3) -> str:
    """A number with about three digits, thousands apart: 0.0123, 1.62, 48.5, 21,300."""
    size = abs(value)
    if size >= 1000:
        return f"{float(f'{value:.{significant}g}'):,.0f}"
    if size >= 100:
        return f"{value:.0f}"
    if size >= 10:
        return f"{value:.{max(significant - 2, 0)}f}"
    if size >= 1 or size == 0:
        return f"{value:.{max(significant - 1, 0)}f}"
    return f"{value:#.{significant}g}"


def count(value: float) -> str:
    """A number of things, thousands apart."""
    return f"{value:,.0f}"


def ratio(value: float) -> str:
    """A ratio near one, with two decimals: 0.98, 1.62."""
    return f"{value:.2f}" if abs(value) < 100 else digits(value)


def interval(estimate: Mapping[str, Any], *, form: Form = digits) -> str:
    """The ends of an estimate, as 1.50-1.71; as ±0.002 where both would read the same."""
    if form(estimate["low"]) == form(estimate["high"]):
        half = max(estimate["high"] - estimate["value"], estimate["value"] - estimate["low"])
        return f"±{half:.1g}" if half < 10 else f"±{digits(half, 2)}"
    return f"{form(estimate['low'])}-{form(estimate['high'])}"


def written(estimate: Mapping[str, Any] | None, unit: str = "", *, form: Form = digits) -> str:
    """An estimate in a line of text: 1.62 (1.50-1.71) ms."""
    if estimate is None:
        return NOTHING
    tail = f" {unit}" if unit else ""
    if _no_width(estimate):
        return f"{form(estimate['value'])}{tail}"
    return f"{form(estimate['value'])} ({interval(estimate, form=form)}){tail}"


def stacked(estimate: Mapping[str, Any] | None, *, form: Form = digits, mark: str = "", style: str = "") -> Text:
    """An estimate in a cell: the value, and below it the interval; ``mark`` and ``style`` single it out."""
    if estimate is None:
        return Text(NOTHING, style="dim")
    cell = Text(f"{form(estimate['value'])}{mark}", style=style)
    if _no_width(estimate):
        return cell  # a single run, or one outcome in all: an interval of no width would read as certainty
    return cell.append(f"\n{interval(estimate, form=form)}", style="dim")


def _no_width(estimate: Mapping[str, Any]) -> bool:
    return bool(estimate["high"] - estimate["low"] <= 1e-9 * abs(estimate["value"]))
