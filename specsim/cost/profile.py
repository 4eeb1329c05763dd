"""Profiles: what one GPU's kernels cost under one engine at one precision, with where the numbers come from."""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

import numpy as np

from specsim.cost.attention import AttentionTable, HeadGroup
from specsim.cost.collectives import AllReduce, CollectiveTable
from specsim.cost.gemm import GemmTable
from specsim.cost.hardware import Hardware, hardware_from_json, load_hardware
from specsim.cost.law import ARITHMETIC, Law, gemm_work
from specsim.cost.measured_host import MeasuredHost
from specsim.cost.moe import ExpertTable
from specsim.cost.shapes import Floats
from specsim.cost.verify import VerifyGroup, VerifyTable, verify_work
from specsim.errors import InputError

FILES = {"fp8_static": "fp8", "mxfp4": "bf16", "fp16": "bf16"}
"""Precisions whose tables are in another's file: static scales beside dynamic, 4-bit experts between 16-bit layers."""

SCHEMA = 1
"""Version of a profile made of an engine's tables."""

MEASURED_SCHEMA = 2
"""Version of a profile that may describe its own hardware and hold a verify surface and a measured host."""

ANY_ENGINE = "torch"
"""A profile of kernels as PyTorch runs them belongs to no engine and serves any: rules and host are the engine's."""


@dataclass(frozen=True)
class Elementwise:
    """Norms, rotary, activation: bytes at the achieved bandwidth plus a constant a kernel (inside a graph).

    reorder_s: what a layer adds where sequences have several query tokens, whose heads must be brought together.
    """

    bandwidth_bytes_per_s: float
    kernel_s: float
    reorder_s: float = 0.0


@dataclass(frozen=True, eq=False)
class Profile:
    """GPU x engine x precision: tables by part of a step, residuals by family and layer of trust, provenance.

    ``gemm`` by dtype (a profile at fp8 carries bf16 too, for the LM head); attention by cache precision.
    ``residuals[family][layer]`` are cross-validated quantiles of ln(measured / predicted) at ``probabilities``; a file
    without errors of prefill of its own lends it those of attention.
    ``sha256`` is the hash of the file's content. ``verify`` (by cache precision) and ``host`` are there where they were
    measured; without a verify surface that attention is modelled.
    """

    hardware: Hardware
    engine: str
    dtype: str
    gemm: Mapping[str, GemmTable]
    decode: Mapping[str, AttentionTable]
    prefill: Mapping[str, AttentionTable]
    collectives: CollectiveTable
    experts: Mapping[str, ExpertTable]
    elementwise: Elementwise
    probabilities: Floats
    residuals: Mapping[str, Mapping[str, Floats]]
    provenance: Mapping[str, Any]
    sha256: str
    verify: Mapping[str, VerifyTable] = field(default_factory=dict)
    host: MeasuredHost | None = None

    @property
    def name(self) -> str:
        """``<gpu>-<engine>-<dtype>``, as the shipped files are called."""
        return f"{self.hardware.name}-{self.engine}-{self.dtype}"

    def weight_dtype(self, dtype: str | None = None) -> str:
        """The precision that a target's weights are priced at: ``dtype``, or where none is named the profile's own.

        InputError where the profile is of another: its tables of that one are the LM head's and drafters' alone.
        """
        if dtype is not None and FILES.get(dtype, dtype) != self.dtype:
            raise InputError(
                f"{self.name} prices {self.dtype} weights, asked for {dtype}; load the profile of {dtype}, or leave "
                "dtype out",
                field="dtype",
            )
        return dtype or self.dtype

    @property
    def low_trust(self) -> bool:
        """Whether the measurements themselves are suspect (too many rows faster than physics allows)."""
        return self.provenance.get("trust") == "low"


def profile_names() -> tuple[str, ...]:
    """Names ``<gpu>-<engine>-<dtype>`` of the profiles that ship."""
    files = resources.files("specsim.cost").joinpath("profiles").iterdir()
    return tuple(sorted(file.name.removesuffix(".json") for file in files if file.name.endswith(".json")))


def load_profile(hardware: str | Path, *, engine: str, dtype: str) -> Profile:
    """The shipped profile of a GPU, or the one in a JSON file (a path ending in .json).

    InputError when nothing such ships, when the file is unreadable or of a newer schema, when it is for another
    engine or dtype, and when its numbers beat the GPU's physics.
    """
    if isinstance(hardware, Path) or hardware.endswith(".json"):
        path = Path(hardware)
        try:
            content = path.read_bytes()
        except OSError as error:
            raise InputError(f"cannot read a profile: {error.strerror or error}", file=str(path)) from error
        profile = read_profile(content, file=str(path))
        for field, wanted, found in (("engine", engine, profile.engine), ("dtype", dtype, profile.dtype)):
            if FILES.get(wanted, wanted) != found and found != ANY_ENGINE:
                raise InputError(
                    f"the profile is for {field} {found!r}, asked for {wanted!r}; give --{field} {found}",
                    file=path.name,
                )
        return profile
    name = f"{hardware}-{engine}-{FILES.get(dtype, dtype)}"
    if name not in profile_names():
        near = difflib.get_close_matches(name, profile_names(), n=1, cutoff=0.0)
        hint = f"; nearest: {near[0]}" if near else ""
        raise InputError(f"no profile {name!r} ships{hint}; all: {', '.join(profile_names())}", field="hardware")
    return _shipped(name)


@lru_cache(maxsize=8)
def _shipped(name: str) -> Profile:
    content = resources.files("specsim.cost").joinpath("profiles", f"{name}.json").read_bytes()
    return read_profile(content, file=f"{name}.json")


def read_profile(content: bytes, *, file: str) -> Profile:
    """A profile from the bytes of its JSON; ``file`` is what errors call it."""
    try:
        data = json.loads(content)
    except ValueError as error:
        raise InputError(f"not a profile: {error}", file=file) from error
    if not isinstance(data, dict) or "schema" not in data:
        raise InputError("not a profile: no field 'schema'; write one with specsim calibrate", file=file)
    schema = data["schema"]
    if schema not in (SCHEMA, MEASURED_SCHEMA):
        newer = isinstance(schema, int) and schema > MEASURED_SCHEMA
        remedy = "upgrade llm-specsim" if newer else "rebuild it with python -m calibration.build"
        raise InputError(
            f"profile schema {schema}, this version reads {SCHEMA} and {MEASURED_SCHEMA}; {remedy}", file=file
        )
    try:
        profile = _from_json(data, hashlib.sha256(content).hexdigest())
    except InputError as error:
        raise InputError(error.lines[0], file=file) from error
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        problem = f"missing field {error}" if isinstance(error, KeyError) else str(error)
        raise InputError(f"not a complete profile: {problem}", file=file) from error
    _check_physics(profile, file)
    return profile


def _from_json(data: Mapping[str, Any], sha256: str) -> Profile:
    attention, named, residuals = data["attention"], data["hardware"], dict(data["residuals"])
    probabilities = _floats(residuals.pop("probabilities"))
    if "attention" in residuals:
        residuals.setdefault("prefill", residuals["attention"])
    hardware = load_hardware(named) if isinstance(named, str) else hardware_from_json(named)
    return Profile(
        hardware=hardware,
        engine=data["engine"],
        dtype=data["dtype"],
        gemm={dtype: _gemm(dtype, table, data["gemm"], hardware) for dtype, table in data["gemm"].items()},
        decode={kv: _attention("decode", kv, table) for kv, table in attention["decode"].items()},
        prefill={kv: _attention("prefill", kv, table) for kv, table in attention["prefill"].items()},
        collectives=CollectiveTable(
            {
                int(gpus): AllReduce(_floats(curve["message_bytes"]), _floats(curve["latency_us"]) * 1e-6)
                for gpus, curve in data["collectives"].items()
            }
        ),
        experts={dtype: ExpertTable.from_json(dtype, table) for dtype, table in data["experts"].items()},
        elementwise=_elementwise(data["elementwise"]),
        probabilities=probabilities,
        residuals={
            family: {layer: _floats(values) for layer, values in layers.items()} for family, layers in residuals.items()
        },
        provenance=data["provenance"],
        sha256=sha256,
        verify={kv: _verify(kv, table) for kv, table in attention.get("verify", {}).items()},
        host=MeasuredHost(**data["host"]) if data.get("host") else None,
    )


def _elementwise(section: Mapping[str, float]) -> Elementwise:
    reorder_s = section.get("reorder_us", 0.0) * 1e-6
    return Elementwise(section["bandwidth_bytes_per_s"], section["kernel_us"] * 1e-6, reorder_s)


def _gemm(dtype: str, table: Mapping[str, Any], tables: Mapping[str, Any], hardware: Hardware) -> GemmTable:
    """A table of its own, or another's less what depends on rows and depth alone (static scales against dynamic)."""
    whole = tables[table["of"]] if "of" in table else table
    shapes, seconds = _floats(whole["shapes"]), _floats(whole["latency_us"]) * 1e-6
    if "of" in table:
        depth = np.searchsorted(_floats(table["depths"]), shapes[:, 1])
        net = seconds - _floats(table["off_us"]).T[depth] * 1e-6
        seconds = np.where(net >= _floor(_floats(whole["rows"]), shapes, dtype, hardware), net, np.nan)
    return GemmTable(
        dtype=dtype,
        law=Law(**table["law"]),
        rows=_floats(whole["rows"]),
        shapes=shapes,
        seconds=seconds,
        length=table["length"],
        nugget=table["nugget"],
        measured=np.array(whole["measured"], dtype=np.bool_) if "measured" in whole else None,
    )


def _verify(kv_dtype: str, table: Mapping[str, Any]) -> VerifyTable:
    groups = tuple(
        VerifyGroup(
            head_dim=group["head_dim"],
            law=Law(**group["law"]),
            layouts=_floats(group["layouts"]),
            seconds=_floats(group["latency_us"]) * 1e-6,
        )
        for group in table["groups"]
    )
    axes = {name: _floats(table[name]) for name in ("queries", "batches", "lengths")}
    size = tuple(axis.size for axis in axes.values())
    for group in groups:
        if group.seconds.shape != (len(group.layouts), *size) or not (group.seconds > 0.0).all():
            raise ValueError(
                f"the verify surface of head dimension {group.head_dim} has a gap or isn't {size} a layout"
            )
    return VerifyTable(kv_dtype, **axes, groups=groups, length=table["length"], nugget=table["nugget"])


def _attention(phase: Literal["decode", "prefill"], kv_dtype: str, table: Mapping[str, Any]) -> AttentionTable:
    groups = tuple(
        HeadGroup(
            head_dim=group["head_dim"],
            window=group["window"],
            law=Law(**group["law"]),
            layouts=_floats(group["layouts"]),
            seconds=_floats(group["latency_us"]) * 1e-6,
        )
        for group in table["groups"]
    )
    return AttentionTable(
        phase=phase,
        kv_dtype=kv_dtype,
        batches=_floats(table["batches"]),
        lengths=_floats(table["lengths"]),
        groups=groups,
        length=table["length"],
        nugget=table["nugget"],
    )


def _floats(values: Any) -> Floats:
    """An array from nested lists; null is NaN."""
    return np.array(values, dtype=np.float64)


def _check_physics(profile: Profile, file: str) -> None:
    gpu = profile.hardware
    for dtype, table in profile.gemm.items():
        floor = _floor(table.rows, table.shapes, dtype, gpu)
        with np.errstate(invalid="ignore"):
            wrong = (table.seconds <= 0.0) | (table.seconds < floor * 0.99)
        if wrong.any():
            i, j = np.argwhere(wrong)[0]
            n, k = table.shapes[i].astype(int)
            raise InputError(
                f"[{int(table.rows[j])}, {k}] x [{k}, {n}] in {table.seconds[i, j] * 1e6:.4g} us is faster than "
                f"{gpu.name} allows ({floor[i, j] * 1e6:.4g} us); latencies are in microseconds",
                file=file,
                field=f"gemm.{dtype}.latency_us",
            )
    for kv, surfaces in profile.verify.items():
        for group in surfaces.groups:
            _check_surface(surfaces, group, gpu, file, f"attention.verify.{kv}.latency_us")
    if not (np.diff(profile.probabilities) > 0).all():
        raise InputError("probabilities must increase", file=file, field="residuals.probabilities")


def _check_surface(table: VerifyTable, group: VerifyGroup, gpu: Hardware, file: str, field: str) -> None:
    grid = np.ix_(table.queries, table.batches, table.lengths)
    for (heads, kv_heads), seconds in zip(group.layouts, group.seconds, strict=True):
        _, flops, _ = verify_work(
            *grid, heads=int(heads), kv_heads=int(kv_heads), head_dim=group.head_dim, kv_dtype=table.kv_dtype
        )
        peak = max(gpu.peak_flops_per_s.values())
        if (seconds < 0.99 * flops / peak).any():  # a small cache may be read from a processor's own
            problem = f"{int(heads)} heads of {group.head_dim} take less time than {gpu.name}'s arithmetic needs"
            raise InputError(f"{problem}; latencies are in microseconds", file=file, field=field)


def _floor(rows: Floats, shapes: Floats, dtype: str, hardware: Hardware) -> Floats:
    """Seconds [S, M] that the GPU's bandwidth and arithmetic need at least."""
    moved, flops = gemm_work(rows[None, :], shapes[:, :1], shapes[:, 1:], dtype)
    peak = hardware.peak(ARITHMETIC[dtype])
    return np.asarray(np.maximum(moved / hardware.memory_bandwidth_bytes_per_s, flops / peak))
