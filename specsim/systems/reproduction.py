"""A paper's numbers beside ours: rows, where every input comes from, and the page that shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["published", "derived", "fitted", "assumed"]


@dataclass(frozen=True)
class Given:
    """An input: published (printed in the paper or its code), derived from printed numbers, fitted, or assumed."""

    name: str
    value: str
    status: Status
    source: str


@dataclass(frozen=True)
class Row:
    """One number: what it is, the paper's or the law's, ours, and how far off it may be (None: printed only).

    ``of`` says what stands in the first column: ``published``, or ``law`` for a closed form or bound.
    """

    what: str
    reference: float | None
    ours: float
    tolerance: float | None = None
    of: Literal["published", "law"] = "published"

    @property
    def error(self) -> float | None:
        """Relative error; None without a reference."""
        return None if not self.reference else self.ours / self.reference - 1.0

    @property
    def verdict(self) -> str:
        """``ok``, ``missed``, or empty where nothing was asked."""
        if self.tolerance is None or self.error is None:
            return ""
        return "ok" if abs(self.error) <= self.tolerance else "missed"


@dataclass(frozen=True)
class Check:
    """A statement that must hold, with what was found."""

    what: str
    found: str
    holds: bool


@dataclass(frozen=True)
class Reproduction:
    """Everything that one paper's rerun shows."""

    name: str
    title: str
    rows: tuple[Row, ...]
    checks: tuple[Check, ...]
    inputs: tuple[Given, ...]
    notes: tuple[str, ...]

    @property
    def missed(self) -> tuple[str, ...]:
        """What was asked for and is not reached."""
        rows = tuple(row.what for row in self.rows if row.verdict == "missed")
        return rows + tuple(check.what for check in self.checks if not check.holds)

    def markdown(self) -> str:
        """The page, ending in a newline."""
        lines = [f"# {self.name}: {self.title}", "", f"Produced by `specsim reproduce {self.name}`.", ""]
        if self.rows:
            lines += ["| | published or law | ours | error | within | |", "|---|---|---|---|---|---|"]
            lines += [f"| {' | '.join(cells)} |" for cells in map(row_cells, self.rows)]
            lines.append("")
        if self.checks:
            lines += ["| must hold | found | |", "|---|---|---|"]
            lines += [f"| {c.what} | {c.found} | {'ok' if c.holds else 'missed'} |" for c in self.checks]
            lines.append("")
        lines += ["| input | value | is | from |", "|---|---|---|---|"]
        lines += [f"| {g.name} | {g.value} | {g.status} | {g.source} |" for g in self.inputs]
        for note in self.notes:
            lines += ["", note]
        return "\n".join(lines) + "\n"


def row_cells(row: Row) -> tuple[str, str, str, str, str, str]:
    """A row as text: what, reference, ours, error, allowed, verdict."""
    reference = "-" if row.reference is None else f"{row.reference:.4g}" + (" (law)" if row.of == "law" else "")
    error = "-" if row.error is None else f"{100 * row.error:+.1f} %"
    allowed = "printed only" if row.tolerance is None else f"{100 * row.tolerance:g} %"
    return row.what, reference, f"{row.ours:.4g}", error, allowed, row.verdict
