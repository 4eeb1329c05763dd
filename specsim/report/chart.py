"""Curves as plain text: one letter a system, both axes logarithmic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_uppercase

import numpy as np

from specsim.report.numbers import digits

HEIGHT = 18
LETTERS = ascii_uppercase + ascii_uppercase.lower()
SHARED = "*"


@dataclass(frozen=True)
class Curve:
    """A name and its points (x, y), both above 0."""

    name: str
    points: Sequence[tuple[float, float]]


def chart(curves: Sequence[Curve], *, x: str, y: str, width: int) -> list[str]:
    """Lines of text at most ``width`` wide: the points of every curve by its letter, then who has which letter."""
    points = np.array([point for curve in curves for point in curve.points if min(point) > 0], dtype=np.float64)
    low, high = np.log(points.min(axis=0)), np.log(points.max(axis=0))
    span = np.where(high - low > 1e-9, high - low, 1.0)
    marks = [digits(float(np.exp(high[1] - span[1] * row / (HEIGHT - 1)))) for row in range(HEIGHT)]
    margin = max(map(len, marks)) + 1
    columns = max(width - margin - 2, 20)
    cells = [[" "] * columns for _ in range(HEIGHT)]
    for curve, letter in zip(curves, LETTERS, strict=False):
        for point in curve.points:
            if min(point) <= 0:
                continue
            across, up = (np.log(point) - low) / span
            row, column = round((1 - up) * (HEIGHT - 1)), round(across * (columns - 1))
            here = cells[row][column]
            cells[row][column] = letter if here in (" ", letter) else SHARED
    lines = [y]
    for row, line in enumerate(cells):
        mark = marks[row] if row % 3 == 0 or row == HEIGHT - 1 else ""
        lines.append(f"{mark:>{margin}} |{''.join(line)}".rstrip())
    lines.append(f"{'':{margin}} +{'-' * columns}")
    lines.append(_ticks(low[0], span[0], columns, margin))
    lines.append(f"{x:>{width}}")
    legend = "   ".join(f"{letter} {curve.name}" for curve, letter in zip(curves, LETTERS, strict=False))
    return lines + _wrapped(legend, width)


def _ticks(low: float, span: float, columns: int, margin: int) -> str:
    line = [" "] * (columns + margin + 2)
    marks = max(2, columns // 16)
    for i in range(marks):
        text = digits(float(np.exp(low + span * i / (marks - 1))))
        at = margin + 2 + round((columns - 1) * i / (marks - 1))
        start = min(at, len(line) - len(text))
        line[start : start + len(text)] = text
    return "".join(line).rstrip()


def _wrapped(legend: str, width: int) -> list[str]:
    lines = [""]
    for entry in legend.split("   "):
        joined = f"{lines[-1]}   {entry}" if lines[-1] else entry
        if len(joined) > width:
            lines.append(entry)
        else:
            lines[-1] = joined
    return lines
