"""A round program cut into legs: the stretches of passes that one device runs back to back."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from specsim.errors import InputError
from specsim.simulation.program import Pass, RoundProgram
from specsim.simulation.timed import no_host


@dataclass(frozen=True)
class Leg:
    """Passes of one device, as a program of their own that prices them.

    after: legs (by index) that must be done. bytes_in: what arrives from another device, a round; and by prompt token.
    """

    name: str
    device: str
    program: RoundProgram
    after: tuple[int, ...]
    bytes_in: float
    prompt_bytes_in: float


def legs_of(program: RoundProgram, devices: Iterable[str]) -> tuple[Leg, ...]:
    """Cut a program into legs, in an order that respects ``after``.

    A pass joins the one before it when it alone follows it, alone, on the same device; a program on one device is one
    leg. The host's work belongs to the leg of the first pass listed. Raises InputError, naming the stage, for passes
    that wait for each other, that name an unknown pass, or whose device has no server.
    """
    passes = _ordered(program)
    known = set(devices)
    for p in passes:
        if p.device not in known:
            raise InputError(
                f"runs on {p.device!r}, which no server stands for (servers: {', '.join(sorted(known)) or 'none'})",
                field=f"{program.name}: stage {p.name}",
            )
    if len({p.device for p in passes}) == 1:
        return (_leg(program, program, passes, (), "+".join(p.name for p in passes)),)
    followers = Counter(name for p in passes for name in p.after)
    groups: list[list[Pass]] = []
    group_of: dict[str, int] = {}
    for p in passes:
        if len(p.after) == 1 and followers[p.after[0]] == 1:
            group = group_of[p.after[0]]
            if groups[group][0].device == p.device:
                groups[group].append(p)
                group_of[p.name] = group
                continue
        group_of[p.name] = len(groups)
        groups.append([p])
    legs = []
    for members in groups:
        after = tuple(dict.fromkeys(group_of[name] for name in members[0].after))
        has_host = any(p is program.passes[0] for p in members)
        name = "+".join(p.name for p in members)
        own = RoundProgram(f"{program.name}: {name}", program.k, tuple(members), program.host if has_host else no_host)
        legs.append(_leg(program, own, members, after, name))
    return tuple(legs)


def _leg(whole: RoundProgram, own: RoundProgram, passes: list[Pass], after: tuple[int, ...], name: str) -> Leg:
    first = passes[0]
    for field, value in (("bytes_in", first.bytes_in), ("prompt_bytes_in", first.prompt_bytes_in)):
        if not 0 <= value < np.inf:
            raise InputError(f"{value} bytes; give 0 or more", field=f"{whole.name}: stage {first.name}: {field}")
    return Leg(name, first.device, own, after, first.bytes_in, first.prompt_bytes_in)


def _ordered(program: RoundProgram) -> list[Pass]:
    if not program.passes:
        raise InputError("has no passes to run on servers", field=program.name)
    by_name = {p.name: p for p in program.passes}
    if len(by_name) < len(program.passes):
        twice = next(name for name, n in Counter(p.name for p in program.passes).items() if n > 1)
        raise InputError("two stages have this name", field=f"{program.name}: stage {twice}")
    for p in program.passes:
        for name in p.after:
            if name not in by_name:
                raise InputError(f"waits for {name!r}, which is no stage", field=f"{program.name}: stage {p.name}")
    done: dict[str, Pass] = {}
    left = list(program.passes)
    while left:
        ready = [p for p in left if all(name in done for name in p.after)]
        if not ready:
            chain = " -> ".join(_cycle(left, by_name))
            raise InputError(f"stages wait for each other: {chain}", field=program.name)
        done[ready[0].name] = ready[0]
        left.remove(ready[0])
    return list(done.values())


def _cycle(left: list[Pass], by_name: dict[str, Pass]) -> list[str]:
    names = {p.name for p in left}
    path = [left[0].name]
    while path.count(path[-1]) < 2:
        path.append(next(name for name in by_name[path[-1]].after if name in names))
    return path[path.index(path[-1]) :]
