"""A topology as it runs: its servers with their cache blocks, its links, and who waits where."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import simpy

from specsim.errors import InputError
from specsim.simulation.cache_limits import BlockPool, check_fits
from specsim.simulation.links import Link, LinkUse
from specsim.simulation.servers import Job, Server, ServerUse
from specsim.simulation.topology import ServerSpec, Topology

Seats = dict[str, tuple[Server, int]]
"""The instance of every device that serves a stream, and its number."""


class Place:
    """Servers stand from the start; a link is made when its two instances first talk.

    seconds(factor, jobs): what a batch takes on an instance with that time factor.
    """

    def __init__(
        self,
        env: simpy.Environment,
        topology: Topology,
        seconds: Callable[[float, Sequence[Job]], float],
        rng: np.random.Generator,
    ) -> None:
        topology.check()
        self.topology, self._env, self._rng = topology, env, rng
        self._specs = {spec.device: spec for spec in topology.servers}
        self._servers = {spec.device: self._instances(spec, seconds) for spec in topology.servers}
        self._links: dict[tuple[str, int, int, str], Link] = {}

    def _instances(self, spec: ServerSpec, seconds: Callable[[float, Sequence[Job]], float]) -> list[Server]:
        factors = spec.time_factor or (1.0,) * spec.instances
        names = [spec.device] if spec.instances == 1 else [f"{spec.device}[{n}]" for n in range(spec.instances)]
        servers = [
            Server(self._env, name, partial(seconds, factor), spec.batching)
            for name, factor in zip(names, factors, strict=True)
        ]
        if spec.num_blocks is not None:
            for server in servers:
                server.pool = BlockPool(self._env, server.name, spec.num_blocks, spec.block_size)
        return servers

    @property
    def limited(self) -> bool:
        """Whether any server's cache has an end."""
        return any(spec.num_blocks is not None for spec in self._specs.values())

    @property
    def pools(self) -> list[BlockPool]:
        """Cache blocks of all servers that have a limit."""
        return [server.pool for server in self._everyone() if server.pool is not None]

    def check_batches(self, streams: int) -> None:
        """Raise InputError where a server waits for more streams than there are at a time."""
        for spec in self._specs.values():
            if spec.batching.min_batch > streams and not spec.batching.or_all:
                raise InputError(
                    f"a batch of {spec.batching.min_batch} never fills with {streams} streams at a time: a deadlock",
                    field=f"server {spec.device}: min_batch",
                )

    def check_cache(self, tokens: int, *, request: int) -> None:
        """Raise InputError where a request of so many tokens could never run alone."""
        for spec in self._specs.values():
            if spec.num_blocks is not None:
                check_fits(
                    spec.device, usable=spec.num_blocks - 1, block_size=spec.block_size, tokens=tokens, request=request
                )

    def seat(self, number: int) -> Seats:
        """The instances that serve a stream on seat ``number``, which counts among their streams until ``leave``."""
        at = {}
        for device, servers in self._servers.items():
            route = self._specs[device].route
            chosen = number % len(servers) if route == "seat" else route(servers)
            if not 0 <= chosen < len(servers):
                raise InputError(f"picks {chosen} of {len(servers)} instances", field=f"server {device}: route")
            servers[chosen].streams += 1
            at[device] = (servers[chosen], chosen)
        return at

    def leave(self, at: Seats) -> None:
        """The stream has ended."""
        for server, _ in at.values():
            server.leave()

    def link(self, at: Seats, origin: str, to: str) -> Link:
        """The link that carries a stream's messages between two devices."""
        a, b = at[origin][1], at[to][1]
        spec = next(one for one in self.topology.links if one.origin == origin and one.to == to)
        key = (origin, *{"pair": (a, b), "origin": (a, -1), "all": (-1, -1)}[spec.per], to)
        if key not in self._links:
            name = {"pair": f"{origin}[{a}] -> {to}[{b}]", "origin": f"{origin}[{a}] -> {to}"}.get(spec.per)
            self._links[key] = Link(self._env, name or f"{origin} -> {to}", spec.law, self._rng)
        return self._links[key]

    def uses(self) -> tuple[tuple[ServerUse, ...], tuple[LinkUse, ...]]:
        """What servers and links did until now."""
        return tuple(s.use() for s in self._everyone()), tuple(link.use() for link in self._links.values())

    def where(self, owner: object, stage: Callable[[Job], str]) -> str | None:
        """What a stream waits for in a queue or on the way; None: neither holds it."""
        for server in self._everyone():
            for place, job in enumerate(server.waiting()):
                if job.owner is owner:
                    held = "is busy" if server.busy else f"waits for {server.waits_for()}"
                    return (
                        f"(stage {stage(job)}) waits for server {server.name}, {place} ahead of it; the server {held}"
                    )
        flying = [link.name for link in self._links.values() if link.flying]
        return f"waits for a message on link {', '.join(flying)}" if flying else None

    def _everyone(self) -> list[Server]:
        return [server for servers in self._servers.values() for server in servers]
