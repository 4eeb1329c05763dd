"""A cell of a paper's table beside what the system here gives for it, and what that took."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Inputs = Literal["published", "assumed", "fitted elsewhere", "fitted here"]
"""Where a cell's inputs come from. "fitted here": the cell, or its neighbours in a fit, set a constant: calibration."""


@dataclass(frozen=True)
class Cell:
    """One published number, ours, and the kind of inputs that ours rests on."""

    setting: str
    quantity: str
    published: float
    ours: float
    inputs: Inputs

    @property
    def error(self) -> float:
        """Ours over published, minus 1."""
        return self.ours / self.published - 1.0


def worst(cells: tuple[Cell, ...]) -> float:
    """Largest absolute error."""
    return max(abs(cell.error) for cell in cells)
