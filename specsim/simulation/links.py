"""Links between devices: latency, bandwidth, jitter, loss; messages in turn, or sharing the bandwidth."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Any, Literal

import numpy as np
import simpy
from simpy.events import Event

from specsim.errors import InputError
from specsim.simulation.after import After

Arrived = Callable[[Event], Any]


@dataclass(frozen=True)
class LinkLaw:
    """How long a message of some bytes is under way: bytes / bytes_per_s on the link, then the latency.

    latency_s: one way. jitter: the latency is multiplied by 1 + a uniform number in -jitter..jitter. bytes_per_s:
    infinite by default. loss: probability that a message is lost; after retry_s its sender sends it again. sharing:
    ``fifo`` (one message after the other) or ``shared`` (all at once, the bandwidth divided by their weights).
    """

    latency_s: float = 0.0
    bytes_per_s: float = float("inf")
    jitter: float = 0.0
    loss: float = 0.0
    retry_s: float = 0.0
    sharing: Literal["fifo", "shared"] = "fifo"

    def check(self, name: str) -> None:
        """Raise InputError for a link over which nothing can arrive."""
        at = f"link {name}"
        if not self.bytes_per_s > 0:
            raise InputError(
                f"{self.bytes_per_s:g} bytes/s carry nothing; give a bandwidth above 0", field=f"{at}: bytes_per_s"
            )
        if not 0 <= self.latency_s < np.inf:
            raise InputError(f"{self.latency_s} s; give 0 or more", field=f"{at}: latency_s")
        if not 0 <= self.jitter <= 1:
            raise InputError(f"{self.jitter}; give 0..1, a share of the latency", field=f"{at}: jitter")
        if not 0 <= self.loss < 1:
            raise InputError(f"{self.loss}; give 0 or more, below 1", field=f"{at}: loss")
        if self.loss > 0 and not self.retry_s > 0:
            raise InputError(
                "messages are lost and never sent again; give the seconds until a retry", field=f"{at}: retry_s"
            )
        if self.sharing not in ("fifo", "shared"):
            raise InputError(f"{self.sharing!r}; use fifo or shared", field=f"{at}: sharing")


@dataclass(frozen=True)
class LinkUse:
    """What a link carried: messages, bytes sent (retries included), messages lost, seconds busy."""

    name: str
    messages: int
    bytes_sent: float
    lost: int
    busy_s: float


class Link:
    """One direction of one link on SimPy's clock."""

    def __init__(self, env: simpy.Environment, name: str, law: LinkLaw, rng: np.random.Generator) -> None:
        law.check(name)
        self.env, self.name, self.law, self._rng = env, name, law, rng
        self._draws: list[float] = []
        self._free_s = 0.0
        self._fair = law.sharing == "shared" and np.isfinite(law.bytes_per_s)
        self._plain = not self._fair and law.loss == 0
        self._bytes_per_s, self._latency_s, self._jitter = law.bytes_per_s, law.latency_s, law.jitter
        # Sharing: a message of b bytes and weight w is through when the work per unit of weight has grown by b / w.
        self._through = self._changed_s = self._weight = 0.0
        self._sharing: list[tuple[float, int, float, float, Arrived]] = []
        self._sent = 0
        self._next: After | None = None
        self._last_s = 0.0
        self.messages = self.lost = 0
        self.bytes_sent = self.busy_s = 0.0

    @property
    def flying(self) -> int:
        """Messages that share the link or are lost and to be sent again; 1 where any other is still under way."""
        return max(self._sent - self.messages, int(self._last_s > self.env.now))

    def send(self, message_bytes: float, arrived: Arrived, weight: float = 1.0) -> None:
        """Send a message; ``arrived(event)`` is called when it is there."""
        self._sent += 1
        if not self._plain:
            self._transmit(message_bytes, arrived, weight)
            return
        self.bytes_sent += message_bytes  # what ``_transmit`` and ``_deliver`` do where nothing is shared or lost
        took = message_bytes / self._bytes_per_s
        now, free = self.env.now, self._free_s
        sent = (now if now > free else free) + took
        self._free_s = sent
        self.busy_s += took
        self._travel(sent - now, now, arrived)

    def sending(self, message_bytes: float, weight: float = 1.0) -> Event:
        """The same for processes: an event that happens when the message is there."""
        there = self.env.event()
        self.send(message_bytes, lambda _: there.succeed(), weight)
        return there

    def use(self) -> LinkUse:
        """What it has carried until now."""
        return LinkUse(self.name, self.messages, self.bytes_sent, self.lost, self.busy_s)

    def _transmit(self, message_bytes: float, arrived: Arrived, weight: float) -> None:
        self.bytes_sent += message_bytes
        if self._fair:
            self._share(message_bytes, arrived, weight)
            return
        now = self.env.now
        took = message_bytes / self.law.bytes_per_s
        start = max(now, self._free_s)
        self._free_s = start + took
        self.busy_s += took
        self._deliver(start + took - now, message_bytes, arrived, weight)

    def _deliver(self, until_sent_s: float, message_bytes: float, arrived: Arrived, weight: float) -> None:
        law = self.law
        if law.loss and self._draw() < law.loss:
            self.lost += 1
            After(self.env, until_sent_s + law.retry_s, lambda _: self._transmit(message_bytes, arrived, weight))
            return
        self._travel(until_sent_s, self.env.now, arrived)

    def _travel(self, until_sent_s: float, now: float, arrived: Arrived) -> None:
        latency = self._latency_s
        if self._jitter:
            draws = self._draws
            latency *= 1.0 + self._jitter * (2.0 * (draws.pop() if draws else self._draw()) - 1.0)
        under_way = until_sent_s + latency
        After(self.env, under_way, arrived)
        self.messages += 1
        if now + under_way > self._last_s:
            self._last_s = now + under_way

    def _share(self, message_bytes: float, arrived: Arrived, weight: float) -> None:
        if not weight > 0:
            raise InputError(f"a message of weight {weight} gets no bandwidth", field=f"link {self.name}: weight")
        self._advance()
        heappush(self._sharing, (self._through + message_bytes / weight, self._sent, weight, message_bytes, arrived))
        self._weight += weight
        self._schedule()

    def _advance(self) -> None:
        now = self.env.now
        if self._sharing:
            self._through += (now - self._changed_s) * self.law.bytes_per_s / self._weight
            self.busy_s += now - self._changed_s
        self._changed_s = now

    def _schedule(self) -> None:
        left = max(0.0, self._sharing[0][0] - self._through)
        self._next = After(self.env, left * self._weight / self.law.bytes_per_s, self._one_through)

    def _one_through(self, event: Event) -> None:
        if event is not self._next:
            return  # somebody joined meanwhile and the time was set anew
        self._advance()
        through, _, weight, message_bytes, arrived = heappop(self._sharing)
        self._through = max(self._through, through)
        self._weight = self._weight - weight if self._sharing else 0.0
        if self._sharing:
            self._schedule()
        self._deliver(0.0, message_bytes, arrived, weight)

    def _draw(self) -> float:
        if not self._draws:
            self._draws = self._rng.random(512).tolist()
        return self._draws.pop()
