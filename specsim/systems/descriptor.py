"""What a published system is, in words and defaults, and how to run it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from specsim.errors import InputError


@dataclass(frozen=True)
class Parameter:
    """A number that the system is run with: its default, what it means, and where the default comes from."""

    name: str
    default: float
    meaning: str
    source: str


@dataclass(frozen=True)
class System:
    """One published system.

    paper: arXiv number. lossless: whether the target's law is kept, in a word or two. topology, pipeline, rule: one
    line each, and a picture. batches: how it serves several requests, or why it cannot. simulate: keyword arguments are
    the parameters; the first is a numpy Generator; it returns what servers and requests did.
    """

    name: str
    title: str
    paper: str
    year: int
    lossless: str
    topology: str
    pipeline: str
    rule: str
    parameters: tuple[Parameter, ...]
    assumptions: tuple[str, ...]
    batches: str
    simulate: Callable[..., Any]

    @property
    def defaults(self) -> dict[str, float]:
        """Parameters at their defaults."""
        return {p.name: p.default for p in self.parameters}


def rate_in_range(rate: float, field: str = "alpha") -> None:
    """Raise InputError for an acceptance rate outside 0..1."""
    if not 0 <= rate <= 1:
        raise InputError(f"{rate}; give a rate in 0..1", field=field)
