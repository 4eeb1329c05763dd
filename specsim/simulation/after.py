"""The one event that the executors need: something happens once, so many seconds from now."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import simpy
from simpy.events import NORMAL, Event


class After(Event):
    """Calls ``then(event)`` after ``delay_s``. SimPy's Timeout without a value or a description, at half its price."""

    def __init__(self, env: simpy.Environment, delay_s: float, then: Callable[[Any], Any]) -> None:
        if delay_s < 0:
            raise ValueError(f"negative delay {delay_s}")
        self.callbacks = [then]
        self._ok = True
        env.schedule(self, NORMAL, delay_s)
