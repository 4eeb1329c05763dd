"""The published systems that run here, in an explicit list."""

from __future__ import annotations

from difflib import get_close_matches

from specsim.errors import InputError
from specsim.systems import chen, decentralized, dsi, edge_network, leviathan, pearl, seed, sled, speed
from specsim.systems.descriptor import System

SYSTEMS: tuple[System, ...] = (
    leviathan.SYSTEM,
    chen.SYSTEM,
    speed.SYSTEM,
    pearl.SYSTEM,
    dsi.SYSTEM,
    seed.SYSTEM,
    decentralized.SYSTEM,
    edge_network.SYSTEM,
    sled.SYSTEM,
)


def system(name: str) -> System:
    """The system of that name. Raises InputError with the nearest one."""
    for one in SYSTEMS:
        if one.name == name:
            return one
    names = [one.name for one in SYSTEMS]
    near = get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{name!r} is not one of {', '.join(names)}{hint}", field="NAME")
