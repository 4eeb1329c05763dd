"""The parameters that rules take, their ranges, and what is said of a wrong one."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from specsim.errors import InputError


class Range(NamedTuple):
    """Numbers from ``low`` to ``high``; ``without`` are ends that don't belong to it."""

    low: float
    high: float
    without: tuple[float, ...] = ()

    def __contains__(self, value: object) -> bool:
        """Whether a number lies in it."""
        return isinstance(value, _NUMBERS) and bool(self.low <= value <= self.high) and value not in self.without

    def __str__(self) -> str:
        ends = [f"{end:g}{' (not itself)' if end in self.without else ''}" for end in (self.low, self.high)]
        return f"a number from {ends[0]} up" if self.high == math.inf else f"a number from {ends[0]} to {ends[1]}"


_NUMBERS = (int, float, Fraction, np.integer, np.floating)
_SHARE, _FROM_0, _ABOVE_0 = Range(0, 1), Range(0, math.inf), Range(0, math.inf, (0,))

RANGES: Mapping[str, Range | tuple[str, ...]] = {
    "factor": Range(0, 1, (0,)),
    "epsilon": _ABOVE_0,
    "delta": _ABOVE_0,
    "weight": _SHARE,
    "threshold": _FROM_0,
    "divergence": ("tv", "js", "kl"),
    "stop_entropy": _FROM_0,
    "accept_distance": _FROM_0,
    "fallback": _SHARE,
    "rollback": _FROM_0,
    "bias": Range(0, 1, (1,)),
    "good": _SHARE,
    "keep": _SHARE,
    "entropy_above": _FROM_0,
    "window": Range(1, math.inf),
    "paths": Range(1, math.inf),
    "accept_all": Range(0, 1, (0,)),
    "accept_single": Range(0, 1, (0,)),
    "rho": Range(1, math.inf),
}
"""Every parameter of a rule by its name; names or a range."""

WHOLE = ("window", "paths")
"""Parameters that are whole numbers."""

BY_TOKEN = ("good", "keep")
"""Parameters with one value for each token of the vocabulary."""


def check_parameters(algorithm: str, rule: Callable[..., Any], options: Mapping[str, Any]) -> None:
    """Raise InputError where an option isn't a parameter of the rule, one is missing, or a value is out of range."""
    known = {
        name: parameter
        for name, parameter in inspect.signature(rule).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY and name in RANGES
    }
    for name, value in options.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            takes = f"takes {', '.join(known)}" if known else "takes no parameters"
            raise InputError(f"no such parameter of the {algorithm!r} rule; {hint}it {takes}", field=name)
        _check_value(name, value)
    missing = [n for n, parameter in known.items() if parameter.default is parameter.empty and n not in options]
    if missing:
        raise InputError(f"the {algorithm!r} rule needs it: {missing[0]}={_wanted(missing[0])}", field=missing[0])


def check_by_token(options: Mapping[str, Any], vocab: int, where: str) -> None:
    """Raise InputError where an option by token hasn't a value for each of ``vocab`` tokens."""
    for name in BY_TOKEN:
        if name in options and len(options[name]) < vocab:
            raise InputError(f"has {len(options[name])} values; {where} has {vocab} tokens", field=name)


def _check_value(name: str, value: Any) -> None:
    allowed = RANGES[name]
    several = name in BY_TOKEN
    if several and (isinstance(value, str) or not isinstance(value, (Sequence, np.ndarray))):
        raise InputError(f"{value!r}: give {_wanted(name)}", field=name)
    if name in WHOLE and not isinstance(value, (int, np.integer)):
        raise InputError(f"{value!r}: give a whole number from 1 up", field=name)
    if any(part not in allowed for part in (value if several else [value])):
        raise InputError(f"{value!r}: give {_wanted(name)}", field=name)


def _wanted(name: str) -> str:
    allowed = RANGES[name]
    if isinstance(allowed, Range):
        return f"one of them a token, each {allowed}" if name in BY_TOKEN else str(allowed)
    return f"one of {', '.join(allowed)}"
