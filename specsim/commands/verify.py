"""``specsim verify``: is a sampler what it claims to be? Exit status 0 consistent, 1 rejected, 3 inconclusive."""

from __future__ import annotations

import importlib
import os
import sys
import tomllib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Literal, cast, get_args

from specsim.errors import InputError


def run(
    sampler: str,
    *,
    algorithm: str,
    options: Sequence[str],
    level: str,
    alpha: float,
    detect_tv: float,
    budget_s: float,
    seed: int,
    arrays: str,
    takes: str,
    drafts: int | None,
    as_json: bool,
) -> int:
    """Import ``package.module:function``, judge it, print the verdict and return the exit status."""
    from specsim.verification.node_oracle import check_node_sampler
    from specsim.verification.nodes import MATCHING
    from specsim.verification.oracle import Level, check_sampler

    if level not in get_args(Level):
        raise InputError(f"{level!r}: give one of {', '.join(get_args(Level))}", field="--level")
    parameters = _parameters(options)
    if algorithm in MATCHING:
        fixed = {"--level": (level, "auto"), "--arrays": (arrays, "numpy"), "--takes": (takes, "probabilities")}
        for flag, (given, only) in {**fixed, "--option": (parameters, {})}.items():
            if given != only:
                raise InputError(f"the rule {algorithm!r} for several drafts has {only or 'none'} alone", field=flag)
    elif drafts is not None:
        raise InputError(f"is of rules for several drafts at one position: {', '.join(MATCHING)}", field="--drafts")
    with _stdout_kept():
        if algorithm in MATCHING:
            verdict = check_node_sampler(
                imported(sampler),
                algorithm,
                k=2 if drafts is None else drafts,
                alpha=alpha,
                detect_tv=detect_tv,
                budget_s=budget_s,
                seed=seed,
            )
        else:
            verdict = check_sampler(
                imported(sampler),
                _claimed(algorithm),
                level=cast("Level", level),
                alpha=alpha,
                detect_tv=detect_tv,
                budget_s=budget_s,
                seed=seed,
                arrays=cast('Literal["numpy", "torch"]', arrays),
                takes=cast('Literal["probabilities", "logits"]', takes),
                **parameters,
            )
    print(verdict.to_json() if as_json else verdict)
    return verdict.exit_code


@contextmanager
def _stdout_kept() -> Iterator[None]:
    """What others print, in Python or below it, goes to stderr: stdout is the verdict's."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        os.dup2(2, 1)
        with redirect_stdout(sys.stderr):
            yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def imported(where: str, field: str = "SAMPLER") -> Callable[..., Any]:
    """The object at ``package.module:function``, after saying on stderr which module is imported."""
    module, _, name = where.partition(":")
    if not module or not name:
        raise InputError(f"{where!r}: give package.module:function", field=field)
    print(f"importing {module} (from {Path.cwd()} or the installed packages)", file=sys.stderr)
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Any = importlib.import_module(module)
    except (Exception, SystemExit) as error:  # a script that ends itself is no module
        line = " ".join(str(error).split())
        raise InputError(f"{module!r} can't be imported: {type(error).__name__}: {line}", field=field) from error
    finally:
        sys.path.pop(0)
    for part in name.split("."):
        if not hasattr(found, part):
            raise InputError(f"module {module!r} has no {name!r}", field=field)
        found = getattr(found, part)
    if not callable(found):
        raise InputError(f"{where!r} is a {type(found).__name__}, not something to call", field=field)
    return cast("Callable[..., Any]", found)


def _claimed(algorithm: str) -> str | Callable[..., Any] | None:
    """A rule's name, somebody's own rule at ``package.module:function``, or None for losslessness alone."""
    if ":" in algorithm:
        return imported(algorithm, "--algorithm")
    return None if algorithm == "lossless" else algorithm


def _parameters(options: Sequence[str]) -> dict[str, Any]:
    """``name=value`` pairs, values as TOML writes them (``.75`` is a number too, and a bare word text)."""
    given: dict[str, Any] = {}
    for option in options:
        name, equals, value = option.partition("=")
        if not equals or not name.isidentifier():
            raise InputError(f"{option!r}: give name=value", field="--option")
        try:
            given[name] = tomllib.loads(f"value = {value}")["value"]
        except tomllib.TOMLDecodeError:
            try:
                given[name] = float(value)
            except ValueError:
                given[name] = value
    return given
