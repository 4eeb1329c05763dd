"""What a GPU's datasheet promises: the peaks that no measured kernel may beat."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from types import MappingProxyType
from typing import Any

from specsim.errors import InputError


@dataclass(frozen=True)
class Hardware:
    """One GPU of a node: capacity, peaks and links, with the source of each field.

    Bandwidths are bytes/s (links: one direction, per GPU); arithmetic is dense operations/s by dtype.
    """

    name: str
    multiprocessors: int
    memory_bytes: int
    memory_bandwidth_bytes_per_s: float
    peak_flops_per_s: Mapping[str, float]
    link_bandwidth_bytes_per_s: float
    node_link_bandwidth_bytes_per_s: float
    gpus_per_node: int
    sources: Mapping[str, str]

    def peak(self, dtype: str) -> float:
        """Peak operations/s in ``dtype``; InputError for one that the GPU has no arithmetic for."""
        if dtype not in self.peak_flops_per_s:
            known = ", ".join(self.peak_flops_per_s)
            raise InputError(f"{self.name} has no {dtype} arithmetic; it has {known}", field="dtype")
        return self.peak_flops_per_s[dtype]


def hardware_names() -> tuple[str, ...]:
    """Names of the GPUs that ship."""
    return tuple(name for name in _tables() if name != "sources")


def load_hardware(name: str) -> Hardware:
    """The GPU called ``name``; InputError naming the nearest one otherwise."""
    if name not in hardware_names():
        near = difflib.get_close_matches(name, hardware_names(), n=1, cutoff=0.4)
        hint = f"; did you mean {near[0]!r}? Shipped" if near else "; shipped"
        raise InputError(f"no GPU {name!r}{hint}: {', '.join(hardware_names())}", field="hardware")
    return _read(name)


def hardware_from_json(fields: Mapping[str, Any]) -> Hardware:
    """The GPU or processor that a profile describes itself; KeyError or TypeError where a field is missing."""
    known = dict(fields)
    for key in ("peak_flops_per_s", "sources"):
        known[key] = MappingProxyType(dict(known[key]))
    return Hardware(**known)


@cache
def _read(name: str) -> Hardware:
    tables = _tables()
    fields = dict(tables[name])
    default = tables["sources"]["default"].replace("<name>", name)
    sources = {key: tables["sources"].get(key, default) for key in fields}
    fields["peak_flops_per_s"] = MappingProxyType(dict(fields["peak_flops_per_s"]))
    return Hardware(name=name, **fields, sources=MappingProxyType(sources))


@cache
def _tables() -> dict[str, dict[str, Any]]:
    return tomllib.loads(resources.files("specsim.cost").joinpath("hardware.toml").read_text(encoding="utf-8"))
