"""A round on its way through its program's graph: legs run on servers, follow each other over links, and come home."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import simpy

from specsim.simulation.cache_limits import BlockPool
from specsim.simulation.graph import Graph
from specsim.simulation.links import Link
from specsim.simulation.mixed import Chunk
from specsim.simulation.place import Place, Seats
from specsim.simulation.servers import Job


class Walk:
    """Runs rounds, and chunks of prompts; ``over(stream)`` is called when all that one started has come home.

    priority: of a job on priority servers, from (stream, stage, now).
    """

    def __init__(
        self,
        env: simpy.Environment,
        place: Place,
        priority: Callable[[int, str, float], float] | None,
        over: Callable[[Stream], None],
    ) -> None:
        self._env, self._place, self._priority, self._over = env, place, priority, over
        self._home, self._reply_bytes = place.topology.home, place.topology.reply_bytes

    def start(self, stream: Stream) -> None:
        """Begin at the roots of the stream's graph; what they need leaves home."""
        graph = stream.graph
        stream.left = graph.sinks
        stream.missing = graph.missing.copy()
        for root in graph.roots:
            if graph.at_home[root]:
                self._run(stream, root)
            else:
                assert self._home is not None
                self._carry(stream, self._home, root)

    def where(self, stream: Stream) -> str | None:
        """What a stream waits for in a queue or on the way; None: neither holds it."""
        return self._place.where(stream, lambda job: stream.graph.legs[job.what[3]].name)

    def _run(self, stream: Stream, leg: int) -> None:
        graph = stream.graph
        server = stream.at[graph.devices[leg]][0]
        job = Job(stream, (graph.prices[leg], stream.kv, stream.chunk, leg), self._done)
        if self._priority is not None:
            job.priority = self._priority(stream.i, graph.legs[leg].name, self._env.now)
        server.submit(job)

    def _done(self, job: Job) -> None:
        stream: Stream = job.owner
        leg: int = job.what[3]
        graph = stream.graph
        if graph.after[leg]:
            for other in graph.after_here[leg]:
                self._arrived(stream, other)
            for other in graph.after_away[leg]:
                self._carry(stream, graph.devices[leg], other)
        elif graph.at_home[leg]:
            self._came_home(stream)
        else:
            assert self._home is not None
            link = self._link(stream, graph.devices[leg], self._home)
            link.send(self._reply_bytes, lambda _: self._came_home(stream))

    def _carry(self, stream: Stream, origin: str, leg: int) -> None:
        to = stream.graph.legs[leg]
        if origin == self._home:
            stream.sent_s = self._env.now
        size = to.bytes_in if stream.chunk is None else to.prompt_bytes_in * stream.chunk[0]
        self._link(stream, origin, to.device).send(size, lambda _: self._arrived(stream, leg))

    def _arrived(self, stream: Stream, leg: int) -> None:
        left = stream.missing[leg] = stream.missing[leg] - 1
        if left <= 0:
            self._run(stream, leg)

    def _came_home(self, stream: Stream) -> None:
        stream.left -= 1
        if not stream.left:
            self._over(stream)

    def _link(self, stream: Stream, origin: str, to: str) -> Link:
        link = stream.links.get((origin, to))
        if link is None:
            link = stream.links[origin, to] = self._place.link(stream.at, origin, to)
        return link


class Stream:
    """One request on its seat, within a round.

    graph: what the round, or the prompt's chunk, runs. kv: cached tokens before it. left: its ends that are not home
    yet; missing: of each leg, the legs that it still waits for. sent_s: when it last left home. next_k: length of a
    round that was chosen and could not run; -1: none. pools, starts_with, needs, turn: as ``Cached`` has them.
    """

    __slots__ = (
        "at", "chunk", "graph", "i", "k", "kv", "left", "links", "missing", "needs", "next_k", "pools", "prompt_left",
        "seat", "sent_s", "starts_with", "turn",
    )  # fmt: skip

    def __init__(self, i: int, seat: int, at: Seats, *, prompt_left: int, kv: int) -> None:
        self.i, self.seat, self.at, self.prompt_left, self.kv = i, seat, at, prompt_left, kv
        self.pools: tuple[BlockPool, ...] = ()
        self.links: dict[tuple[str, str], Link] = {}
        self.k = self.left = self.starts_with = self.needs = self.turn = 0
        self.sent_s = np.inf
        self.next_k = -1
        self.chunk: Chunk | None = None
        self.missing: list[int] = []
        self.graph: Graph
