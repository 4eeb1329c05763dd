"""Requests come, wait for a seat in order of arrival, and leave it to the next: open arrivals and closed loops."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import simpy

from specsim.errors import InputError
from specsim.simulation.after import After
from specsim.simulation.ledger import Ledger


class Seating:
    """Who is there and who waits. ``seated(i, seat)``: request i has a seat, and keeps it until ``leave(seat)``.

    concurrency: of a closed loop, in which a request arrives when another has left; None: arrivals are known. seats: at
    a time (None: the concurrency, else all). think_s: a closed loop's pause before request i. together: a closed loop
    forks and joins, the next ``concurrency`` requests arriving when all have left.
    """

    def __init__(
        self,
        env: simpy.Environment,
        ledger: Ledger,
        concurrency: int | None,
        seated: Callable[[int, int], None],
        *,
        seats: int | None,
        think_s: Callable[[int], float] | None,
        together: bool,
    ) -> None:
        if together and concurrency is None:
            raise InputError("forks and joins need a concurrency", field="together")
        wanted = seats if seats is not None else (concurrency or len(ledger))
        if wanted < 1:
            raise InputError(f"{wanted}; give at least 1", field="seats")
        self.seats = min(wanted, len(ledger))
        self.waiting: deque[int] = deque()
        self._env, self._ledger, self._seated, self._think_s = env, ledger, seated, think_s
        self._free = list(range(self.seats))[::-1]
        self._known = min(concurrency or len(ledger), len(ledger))
        self._joins = concurrency if together else None

    def open(self) -> None:
        """Let everyone come whose time of arrival is known."""
        for i in range(self._known):
            self._arrive_at(i, self._ledger.arrival_s[i])

    def leave(self, seat: int) -> None:
        """A request is finished; in a closed loop others arrive."""
        self._free.append(seat)
        more = 1 if self._joins is None else self._joins if len(self._free) == self.seats else 0
        for _ in range(min(more, len(self._ledger) - self._known)):
            self._follow()
        self._seat()

    def _follow(self) -> None:
        """The next request of a closed loop arrives after its pause."""
        i, pause = self._known, 0.0
        if self._think_s is not None:
            pause = self._think_s(i)
            if not pause >= 0:
                raise InputError(f"{pause} s before request {i}; give 0 or more", field="think_s")
        when_s = self._ledger.arrival_s[i] = self._env.now + pause
        if pause > 0:
            self._arrive_at(i, when_s)
        else:
            self.waiting.append(i)
        self._known += 1

    def _arrive_at(self, i: int, when_s: float) -> None:
        After(self._env, when_s - self._env.now, lambda _: self._arrive(i))

    def _arrive(self, i: int) -> None:
        self.waiting.append(i)
        self._seat()

    def _seat(self) -> None:
        while self.waiting and self._free:
            self._seated(self.waiting.popleft(), self._free.pop())
