"""Tables and headings that fit 100 columns: coloured on a terminal, plain text in a pipe."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 100
"""Columns of a report that nobody's terminal narrows."""


@dataclass(frozen=True)
class Column:
    """Heading of a column, whether its cells stand at the right, and whether they stay on one line."""

    heading: str
    right: bool = False
    whole: bool = False


@cache
def console() -> Console:
    """Where reports go: stdout, at most 100 columns wide, styled only for a terminal."""
    terminal = sys.stdout.isatty()
    width = WIDTH
    if terminal:
        with contextlib.suppress(OSError):
            width = min(WIDTH, os.get_terminal_size(sys.stdout.fileno()).columns)
    return Console(width=max(width, 60), highlight=False, soft_wrap=False, emoji=False, markup=False)


def show(what: RenderableType) -> None:
    """Print it; a pipe gets lines without padding at their ends."""
    out = console()
    if out.is_terminal:
        out.print(what)
        return
    with out.capture() as lines:
        out.print(what)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in lines.get().splitlines()))


def heading(text: str) -> None:
    """A section's title: the question that it answers."""
    show("")
    show(Text(text, style="bold"))


def paragraph(text: str, *, style: str = "") -> None:
    """Wrapped text."""
    show(Text(text, style=style))


def bullets(lines: Sequence[str], *, style: str = "", indent: int = 0) -> None:
    """One wrapped item a line."""
    grid = Table.grid(padding=(0, 1, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column()
    for line in lines:
        grid.add_row(Text(" " * indent + "-", style=style), Text(line, style=style))
    show(grid)


def print_table(
    title: str, columns: Sequence[Column], rows: Sequence[Sequence[str | Text]], *, note: str | None = None
) -> None:
    """A titled table without ruled lines, and a note under it."""
    heading(title)
    table = Table(box=None, pad_edge=False, show_edge=False, padding=(0, 2, 0, 0), header_style="dim")
    for column in columns:
        table.add_column(
            column.heading, justify="right" if column.right else "left", overflow="fold", no_wrap=column.whole
        )
    for row in rows:
        table.add_row(*(cell if isinstance(cell, Text) else Text(cell) for cell in row))
    show(table)
    if note:
        show(Text(note, style="dim"))
