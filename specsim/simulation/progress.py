"""Run a simulation to its end, or say who waits for whom where it has none."""

from __future__ import annotations

from collections.abc import Callable

import simpy
from simpy.core import EmptySchedule

from specsim.errors import InputError

PATIENCE = 200_000
"""Events without a single commit after which a run counts as going nowhere."""


def run_to_end(
    env: simpy.Environment,
    *,
    finished: Callable[[], bool],
    commits: Callable[[], int],
    who_waits: Callable[[], list[str]],
    patience: int = PATIENCE,
) -> None:
    """Step through all events until ``finished()``.

    Raises InputError, one line for each that waits, when events run out before (a deadlock), or when ``patience``
    events in a row bring no commit.
    """
    step = env.step
    before = commits()
    try:
        while not finished():
            for _ in range(patience):
                step()
            now = commits()
            if now == before:
                raise stalled(
                    f"no commit in {patience} events at {env.now:.6g} s: the simulation goes nowhere", who_waits()
                )
            before = now
    except EmptySchedule:
        if not finished():
            raise stalled(f"nothing can happen any more at {env.now:.6g} s: a deadlock", who_waits()) from None


def stalled(what: str, waiting: list[str]) -> InputError:
    """The report of a run that cannot end: what happened, then who waits for whom (ten at most)."""
    more = [f"and {len(waiting) - 10} more"] if len(waiting) > 10 else []
    return InputError.several([InputError(line, field="simulation") for line in [what, *waiting[:10], *more]])
