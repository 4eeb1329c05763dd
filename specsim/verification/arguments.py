"""What the oracle may be asked, and what is said of a wrong argument."""

from __future__ import annotations

import difflib
import inspect
import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.verification.case import Case
from specsim.verification.exact import CHAIN_RULES, check_own_rule, unknown_algorithm
from specsim.verification.nodes import MATCHING
from specsim.verification.parameters import RANGES, check_parameters


def check_share(**shares: Any) -> None:
    """Raise InputError unless each is a number between 0 and 1."""
    for name, value in shares.items():
        if not _is_number(value) or not 0.0 < value < 1.0:
            raise InputError(f"{value!r}: must be between 0 and 1", field=name)


def check_seconds(**seconds: Any) -> None:
    """Raise InputError unless each is a finite number above 0."""
    for name, value in seconds.items():
        if not _is_number(value) or not 0.0 < value < math.inf:
            raise InputError(f"{value!r}: give a number of seconds above 0", field=name)


def check_whole(least: int, **numbers: Any) -> None:
    """Raise InputError unless each is a whole number of ``least`` or more."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
            raise InputError(f"{value!r}: give a whole number from {least} up", field=name)


def check_choice(value: Any, allowed: Iterable[str], field: str) -> None:
    """Raise InputError unless a value is one of those allowed."""
    allowed = tuple(allowed)
    if value not in allowed:
        raise InputError(f"{value!r}: give one of {', '.join(allowed)}", field=field)


def check_callable(sampler: Any, field: str) -> None:
    """Raise InputError unless something can be called."""
    if not callable(sampler):
        raise InputError(f"{sampler!r}: give something to call", field=field)


def check_claim(algorithm: Any, options: Mapping[str, Any], taken: Callable[..., Any]) -> None:
    """Raise InputError unless a rule is known or one's own, and takes the options; ``taken`` names other arguments."""
    for name in options:
        near = difflib.get_close_matches(name, inspect.signature(taken).parameters, n=1)
        if near and name not in RANGES:
            raise InputError(f"no such argument; did you mean {near[0]!r}?", field=name)
    if algorithm is None:
        if options:
            raise InputError("a claim of losslessness has no parameters", field=next(iter(options)))
    elif callable(algorithm):
        check_own_rule(algorithm, options)
    elif isinstance(algorithm, str) and algorithm in CHAIN_RULES:
        check_parameters(algorithm, CHAIN_RULES[algorithm], options)
    elif algorithm in MATCHING:
        line = f"{algorithm!r} is a rule for several drafts at one position: judge it with check_node_sampler"
        raise InputError(f"{line} of specsim.verification.node_oracle", field="algorithm")
    elif algorithm in ("traversal", "greedy_multipath"):
        line = f"{algorithm!r} verifies a whole tree, and samplers of trees have no judge here"
        raise InputError(f"{line}; exact_law gives the rule's law", field="algorithm")
    else:
        raise unknown_algorithm(algorithm, list(CHAIN_RULES))


def check_cases(cases: Any) -> tuple[Case, ...]:
    """The cases given; raises InputError unless they are some cases of different names."""
    if isinstance(cases, Case) or not isinstance(cases, Iterable):
        raise InputError(f"of type {type(cases).__name__}: give a list of cases", field="cases")
    suite = tuple(cases)
    wrong = next((case for case in suite if not isinstance(case, Case)), None)
    if wrong is not None:
        raise InputError(f"{wrong!r} is of type {type(wrong).__name__}, not a Case", field="cases")
    if not suite:
        raise InputError("give at least one case", field="cases")
    if len({case.name for case in suite}) < len(suite):
        raise InputError("two cases have the same name", field="cases")
    return suite


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)
