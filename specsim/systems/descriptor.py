"""What a published system is, in words and defaults, and how to run it."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from specsim.errors import InputError

if TYPE_CHECKING:
    from specsim.planning.setting import Setting
    from specsim.systems.composition import Composition


@dataclass(frozen=True)
class Parameter:
    """A number that the system is run with: its default, what it means, and where the default comes from.

    default: None where a scenario must give it.
    """

    name: str
    default: float | None
    meaning: str
    source: str


@dataclass(frozen=True)
class Choice:
    """A word that the system is run with: one of ``options``, the first unless a scenario says otherwise."""

    name: str
    options: tuple[str, ...]
    meaning: str
    source: str


@dataclass(frozen=True)
class System:
    """One published system.

    paper: arXiv number. lossless: whether the target's law is kept, in a word or two. topology, pipeline, rule: one
    line each, and a picture. batches: how it serves several requests, or why it cannot. simulate: keyword arguments are
    the parameters; the first is a numpy Generator; it returns what servers and requests did. None for what is not a
    paper's setting but a baseline: it only runs on a scenario.

    compose: puts the system together for a scenario, or raises NotApplicable; inputs, choices: the numbers and words
    that ``[systems.NAME]`` of the scenario may set. study: its module in ``studies.papers``; None where no published
    table has its inputs.
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
    simulate: Callable[..., Any] | None
    compose: Callable[[Setting], Composition]
    inputs: tuple[Parameter, ...] = ()
    choices: tuple[Choice, ...] = ()
    study: str | None = None

    @property
    def key(self) -> str:
        """The name as a TOML key, quoted where it must be."""
        return self.name if re.fullmatch(r"[A-Za-z0-9_-]+", self.name) else f'"{self.name}"'


def rate_in_range(rate: float, field: str = "alpha") -> None:
    """Raise InputError for an acceptance rate outside 0..1."""
    if not 0 <= rate <= 1:
        raise InputError(f"{rate}; give a rate in 0..1", field=field)
