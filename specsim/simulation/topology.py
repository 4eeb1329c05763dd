"""Where a program runs: which servers stand for its devices, and which links join them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from specsim.errors import InputError
from specsim.simulation.links import LinkLaw
from specsim.simulation.servers import Batching, Server

Router = Callable[[Sequence[Server]], int]
"""Which of a device's instances serves a stream, chosen when it begins."""


@dataclass(frozen=True)
class ServerSpec:
    """The servers of one device name. ``route`` is ``seat`` (seat s has instance s mod instances) or a router.

    time_factor: seconds of each instance over those that the program says; empty: all 1. num_blocks: cache blocks of
    ``block_size`` tokens on each instance, one of them never used (None: no limit); an instance holds a cache of every
    stream that is routed to it.
    """

    device: str
    instances: int = 1
    batching: Batching = field(default_factory=Batching)
    route: Literal["seat"] | Router = "seat"
    time_factor: tuple[float, ...] = ()
    num_blocks: int | None = None
    block_size: int = 16


@dataclass(frozen=True)
class LinkSpec:
    """A one-way link between two devices: one for each pair of instances that talk, one an origin, or one for all."""

    origin: str
    to: str
    law: LinkLaw
    per: Literal["pair", "origin", "all"] = "pair"


@dataclass(frozen=True)
class Topology:
    """Servers and links. ``home``: the device where a round begins and its tokens are delivered; None: where they are.

    reply_bytes: what a commit sends home.
    """

    servers: tuple[ServerSpec, ...]
    links: tuple[LinkSpec, ...] = ()
    home: str | None = None
    reply_bytes: float = 0.0

    @property
    def devices(self) -> tuple[str, ...]:
        """Names of the devices."""
        return tuple(spec.device for spec in self.servers)

    def check(self) -> None:
        """Raise InputError for servers or links that cannot be built."""
        for spec in self.servers:
            at = f"server {spec.device}"
            if self.devices.count(spec.device) > 1:
                raise InputError("is given twice", field=at)
            if spec.instances < 1:
                raise InputError(f"{spec.instances}; give at least 1", field=f"{at}: instances")
            if spec.time_factor and len(spec.time_factor) != spec.instances:
                raise InputError(
                    f"{len(spec.time_factor)} factors for {spec.instances} instances", field=f"{at}: time_factor"
                )
            if any(not factor > 0 for factor in spec.time_factor):
                raise InputError(f"{min(spec.time_factor)}; give factors above 0", field=f"{at}: time_factor")
            if spec.num_blocks is not None and spec.num_blocks < 2:
                raise InputError(f"{spec.num_blocks}; give at least 2, or none", field=f"{at}: num_blocks")
            if spec.block_size < 1:
                raise InputError(f"{spec.block_size}; give at least 1", field=f"{at}: block_size")
            spec.batching.check(spec.device)
        for link in self.links:
            for device in (link.origin, link.to):
                if device not in self.devices:
                    raise InputError(f"no server stands for {device!r}", field=f"link {link.origin} -> {link.to}")
            link.law.check(f"{link.origin} -> {link.to}")
        if self.home is not None and self.home not in self.devices:
            raise InputError(f"no server stands for {self.home!r}", field="home")

    def needs_link(self, origin: str, to: str) -> None:
        """Raise InputError where two devices must talk and cannot."""
        if origin != to and not any(link.origin == origin and link.to == to for link in self.links):
            raise InputError(
                f"no link from {origin} to {to}; give one (latency 0 where they share a host)", field="topology.links"
            )


def on_one(*devices: str) -> Topology:
    """A single server for each of these devices, without links."""
    return Topology(tuple(ServerSpec(device) for device in devices))
