"""A model on a device: work queues for it, it forms batches, and each batch takes the time that it costs."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Literal

import numpy as np
import simpy
from simpy.events import Event

from specsim.errors import InputError
from specsim.simulation.after import After
from specsim.simulation.cache_limits import BlockPool

Done = Callable[["Job"], Any]

_NEVER, _FOREVER = float("nan"), float("inf")


class Job:
    """One piece of work: who it is for, what it is (the price reads it), and what happens when it is done.

    priority: lower runs first on a priority server, ties in order of arrival (a deadline makes it earliest-first).
    Cancelled work that queues is skipped; a running batch ends at once when all of it is cancelled (``Server.cancel``).
    """

    __slots__ = ("came_s", "cancelled", "owner", "priority", "started_s", "then", "what")

    def __init__(self, owner: Any, what: Any, then: Done, priority: float = 0.0) -> None:
        self.owner, self.what, self.then, self.priority = owner, what, then, priority
        self.cancelled = False
        self.came_s = self.started_s = _NEVER

    def __lt__(self, other: Job) -> bool:
        return self.priority < other.priority


@dataclass(frozen=True)
class ServerUse:
    """What a server did: seconds busy, batches run, jobs in them, and seconds that cancelled jobs had run for.

    cache_max: largest share of its cache blocks held; 0 where they are not limited.
    """

    name: str
    busy_s: float
    batches: int
    jobs: int
    wasted_s: float
    cache_max: float = 0.0

    @property
    def mean_batch(self) -> float:
        """Jobs a batch; 0 where none ran."""
        return self.jobs / self.batches if self.batches else 0.0


@dataclass(frozen=True)
class Batching:
    """How a server forms batches.

    max_batch: jobs together. min_batch: it waits for so many (a static batch; 1: never); or_all: or for all streams
    that it serves and has cache blocks for, where they are fewer. window_s: it waits so long after the first job for
    others, or until max_batch are there; 0: it starts at once. order: ``fcfs``, or ``priority`` (lowest first). take:
    called with the queue in order and the time; the places in it of the jobs to take, 1 to max_batch of them (None: its
    front).
    """

    max_batch: int = 1
    min_batch: int = 1
    or_all: bool = False
    window_s: float = 0.0
    order: Literal["fcfs", "priority"] = "fcfs"
    take: Callable[[Sequence[Job], float], Sequence[int]] | None = None

    def check(self, name: str) -> None:
        """Raise InputError for a batch that can never form."""
        if self.max_batch < 1:
            raise InputError(f"{self.max_batch}; give at least 1", field=f"server {name}: max_batch")
        if not 1 <= self.min_batch <= self.max_batch:
            raise InputError(
                f"{self.min_batch} must lie in 1..max_batch = {self.max_batch}", field=f"server {name}: min_batch"
            )
        if not 0 <= self.window_s < np.inf:
            raise InputError(f"{self.window_s} s; give 0 or more", field=f"server {name}: window_s")
        if self.order not in ("fcfs", "priority"):
            raise InputError(f"{self.order!r}; use fcfs or priority", field=f"server {name}: order")


class Server:
    """One server on SimPy's clock; ``price(jobs)`` gives the seconds of the batch that it formed."""

    def __init__(
        self,
        env: simpy.Environment,
        name: str,
        price: Callable[[Sequence[Job]], float],
        batching: Batching | None = None,
    ) -> None:
        self.batching = batching or Batching()
        self.batching.check(name)
        self.env, self.name, self._price = env, name, price
        self._queue: deque[Job] = deque()
        self._heap: list[tuple[float, int, Job]] = []
        self._by_priority = self.batching.order == "priority"
        self._eager = self.batching.window_s == 0 and self.batching.min_batch == 1
        self._at_once = self._eager and not self._by_priority and self.batching.take is None
        self._running: list[Job] = []
        self._end: After | None = None
        self._end_s = 0.0
        self._came = 0
        self._window: After | None = None
        self._closed = False  # the window is over: what is there goes
        self.busy_s = self.wasted_s = 0.0
        self.batches = self.jobs = 0
        self.streams = 0
        """Streams that a router has put here."""
        self.pool: BlockPool | None = None
        """Cache blocks, where they are limited."""

    @property
    def busy(self) -> bool:
        """Whether a batch runs."""
        return bool(self._running)

    @property
    def load(self) -> int:
        """Jobs queued and running, cancelled ones not counted."""
        return len(self.waiting()) + sum(not job.cancelled for job in self._running)

    def submit(self, job: Job) -> None:
        """Queue a job; ``job.then(job)`` is called when its batch is done."""
        job.came_s = self.env.now
        if self._at_once and not self._running and not self._queue:
            self._start([job])
            return
        if self._by_priority:
            heappush(self._heap, (job.priority, self._came, job))
            self._came += 1
        else:
            self._queue.append(job)
        if not self._running:
            self._consider(None)

    def work(self, owner: Any, what: Any, priority: float = 0.0) -> Event:
        """The same for processes: an event that happens when the job is done, with the job as its value."""
        done = self.env.event()
        self.submit(Job(owner, what, done.succeed, priority))
        return done

    def cancel(self, job: Job) -> None:
        """Nobody wants the job any more: it leaves the queue, or the server stops if all that it runs is cancelled."""
        job.cancelled = True
        if job in self._running and all(other.cancelled for other in self._running):
            self.busy_s -= self._end_s - self.env.now
            self.wasted_s += self.env.now - job.started_s
            self._running, self._end = [], None
            self._consider(None)

    def use(self) -> ServerUse:
        """What it has done until now."""
        share = self.pool.most / self.pool.usable if self.pool is not None else 0.0
        return ServerUse(self.name, self.busy_s, self.batches, self.jobs, self.wasted_s, share)

    def waiting(self) -> list[Job]:
        """The queue, in the order in which it will be served."""
        jobs = [entry[2] for entry in sorted(self._heap)] if self._by_priority else self._queue
        return [job for job in jobs if not job.cancelled]

    def waits_for(self) -> str:
        """Why nothing runs though work is queued."""
        missing = self._least() - len(self.waiting())
        return f"{missing} more for its batch of {self._least()}" if missing > 0 else "its batching window"

    def leave(self) -> None:
        """One of its streams has ended."""
        self.streams -= 1
        if self.batching.or_all:
            After(self.env, 0.0, self._consider)  # the next stream may take the seat at once

    def _least(self) -> int:
        """Jobs that a batch waits for."""
        least = self.batching.min_batch
        if not self.batching.or_all:
            return least
        return min(least, max(self.streams if self.pool is None else len(self.pool.held), 1))

    def _consider(self, _: Event | None) -> None:
        """Start a batch if one may start now."""
        if self._running:
            return
        queue = self._heap if self._by_priority else self._queue
        if not queue:
            return
        if not self._eager and not self._ready():
            return
        self._closed = False
        if self._window is not None:
            self._window = None
        batch = self._form()
        if batch:
            self._start(batch)

    def _start(self, batch: list[Job]) -> None:
        seconds = self._price(batch)
        if not 0 <= seconds < _FOREVER:
            raise InputError(f"a batch of {len(batch)} takes {seconds} s", field=f"server {self.name}")
        now = self.env.now
        for job in batch:
            job.started_s = now
        self._running = batch
        self.batches += 1
        self.jobs += len(batch)
        self.busy_s += seconds
        self._end = After(self.env, seconds, self._finish)
        self._end_s = now + seconds

    def _ready(self) -> bool:
        queued, first = 0, np.inf
        for job in [entry[2] for entry in self._heap] if self._by_priority else self._queue:
            if not job.cancelled:
                queued += 1
                if job.came_s < first:
                    first = job.came_s
        if queued >= self.batching.max_batch or self._closed:
            return queued > 0
        if queued < self._least():
            return False
        if self.batching.window_s == 0:
            return True
        left = first + self.batching.window_s - self.env.now
        if left <= 0:
            return True
        if self._window is None:
            self._window = After(self.env, left, self._window_over)
        return False

    def _window_over(self, event: Event) -> None:
        if event is self._window:
            self._closed = True
            self._consider(None)

    def _form(self) -> list[Job]:
        if self.batching.take is not None:
            return self._taken(self.batching.take)
        most, heap, queue = self.batching.max_batch, self._heap, self._queue
        batch: list[Job] = []
        while len(batch) < most and (queue or heap):
            job = queue.popleft() if queue else heappop(heap)[2]
            if not job.cancelled:
                batch.append(job)
        return batch

    def _taken(self, take: Callable[[Sequence[Job], float], Sequence[int]]) -> list[Job]:
        heap = sorted(entry for entry in self._heap if not entry[2].cancelled)
        ahead = self.waiting()
        places = take(ahead, self.env.now) if ahead else ()
        chosen, most = set(places), self.batching.max_batch
        if ahead and not (1 <= len(chosen) <= most and chosen <= set(range(len(ahead))) and len(chosen) == len(places)):
            raise InputError(
                f"takes places {list(places)} of a queue of {len(ahead)}; give 1..{most} different ones",
                field=f"server {self.name}: take",
            )
        self._heap = [entry for place, entry in enumerate(heap) if place not in chosen]
        if not self._by_priority:
            self._queue = deque(job for place, job in enumerate(ahead) if place not in chosen)
        return [ahead[place] for place in sorted(chosen)]

    def _finish(self, event: Event) -> None:
        if event is not self._end:
            return  # all of that batch was cancelled
        batch, queue = self._running, self._heap if self._by_priority else self._queue
        alone = len(batch) == 1 and not queue
        if alone:
            self._running = []
        dropped = 0
        for job in batch:
            if job.cancelled:
                dropped += 1
            else:
                job.then(job)
        if dropped:
            self.wasted_s += (self.env.now - batch[0].started_s) * dropped / len(batch)
        if alone:
            return
        # Whoever resubmits at once belongs into the next batch beside those who waited.
        self._running = []
        if self.batching.max_batch == 1:
            self._consider(None)
        else:
            After(self.env, 0.0, self._consider)
