"""The published systems that run here, in an explicit list."""

from __future__ import annotations

from difflib import get_close_matches

from specsim.errors import InputError
from specsim.systems import (
    adasd,
    baselines,
    bias_mitigation,
    bild,
    chen,
    decentralized,
    dsbd,
    dsd,
    dsi,
    eagle2,
    edge_network,
    fast_blt,
    hsd,
    kong,
    leviathan,
    magicdec,
    metasd,
    pearl,
    pyramid_sd,
    rsd,
    seed,
    sequoia,
    sled,
    smartspec,
    spec_bench,
    specdec_plus,
    specformer,
    speed,
    ssbd,
    staged,
    tandem,
)
from specsim.systems.descriptor import System

SYSTEMS: tuple[System, ...] = (
    *baselines.BASELINES,
    eagle2.SYSTEM,
    leviathan.SYSTEM,
    chen.SYSTEM,
    speed.SYSTEM,
    pearl.SYSTEM,
    dsi.SYSTEM,
    seed.SYSTEM,
    decentralized.SYSTEM,
    edge_network.SYSTEM,
    sled.SYSTEM,
    bild.SYSTEM,
    staged.SYSTEM,
    specdec_plus.SYSTEM,
    tandem.SYSTEM,
    sequoia.SYSTEM,
    smartspec.SYSTEM,
    magicdec.SYSTEM,
    dsbd.SYSTEM,
    rsd.SYSTEM,
    adasd.SYSTEM,
    ssbd.SYSTEM,
    pyramid_sd.SYSTEM,
    hsd.SYSTEM,
    metasd.SYSTEM,
    specformer.SYSTEM,
    fast_blt.SYSTEM,
    kong.SYSTEM,
    spec_bench.SYSTEM,
    bias_mitigation.SYSTEM,
    dsd.SYSTEM,
)


def system(name: str, field: str = "NAME") -> System:
    """The system of that name. Raises InputError with the nearest one."""
    for one in SYSTEMS:
        if one.name == name:
            return one
    names = [one.name for one in SYSTEMS]
    near = get_close_matches(name, names, 1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise InputError(f"{name!r} is not one of {', '.join(names)}{hint}", field=field)
