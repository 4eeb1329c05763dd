"""``specsim calibrate``: measure this machine for some minutes, fit, and write the profile beside its samples."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import specsim
from calibration.measure.device import Device, detect, torch_or_error
from calibration.measure.fit import fit_profile
from calibration.measure.points import Grid, Point, candidates
from calibration.measure.samples import Samples, medians
from calibration.measure.session import Outcome, Session
from specsim.cost.law import BYTES
from specsim.cost.model import load_model
from specsim.cost.model_shape import ModelShape
from specsim.cost.profile import Profile, read_profile
from specsim.errors import InputError
from specsim.files import file_to_write, replace_file
from specsim.report.progress import progress

DEFAULT_MODELS = {"cuda": ("meta-llama/Llama-3.1-8B", "meta-llama/Llama-3.2-1B"), "cpu": ("Qwen/Qwen3-0.6B",)}
"""A target and a drafter that a GPU serves; on a processor, a model that answers there at all."""
DEFAULT_DTYPE = {"cuda": "bf16", "cpu": "fp32"}
RATES = {"cuda": (1.5e12, 2e14), "cpu": (1e10, 5e10)}
"""Bytes/s and operations/s that a budget is planned with until a session knows its own pace."""
CLOCKS = ("wall", "processor")
FLEX_SHARE = 0.1
"""Of a budget on CUDA that may go into compiling FlexAttention; what was compiled by then stays a variant."""


@dataclass(frozen=True)
class Calibrated:
    """What a calibration leaves: the profile, its document and file, the samples' file, and how it went."""

    profile: Profile
    document: dict[str, Any]
    path: Path
    samples: Path
    outcome: Outcome
    device: Device


def calibrate(
    out: Path,
    *,
    minutes: float = 3.0,
    device: str = "auto",
    models: Sequence[str] = (),
    dtype: str | None = None,
    tensor_parallel: int = 1,
    threads: int | None = None,
    clock: str = "wall",
    grid: Grid | None = None,
) -> Calibrated:
    """Measure for ``minutes`` (what is there already counts), fit, and write ``out`` and its samples.

    clock: what a CPU's times are: ``wall``, or ``processor`` for a machine that others use too. Raises InputError for
    a missing device, models or precision that it can't take, samples of another machine, and too few points; samples
    taken so far are kept in every case.
    """
    if out.suffix != ".json":
        raise InputError(f"{str(out)!r}: a profile's name ends in .json", field="--out")
    file_to_write(str(out))
    if not 0.0 < minutes <= 24 * 60:
        raise InputError(f"{minutes:g} is not a time in minutes; give more than 0", field="--minutes")
    if clock not in CLOCKS:
        raise InputError(f"{clock!r} is not a clock; give {' or '.join(CLOCKS)}", field="--clock")
    found = detect(device, threads=threads)
    kind = dtype or DEFAULT_DTYPE[found.kind]
    shapes = [load_model(name) for name in models or DEFAULT_MODELS[found.kind]]
    samples = Samples.open(out.with_suffix(".samples.parquet"), {**found.identity, "dtype": kind})
    session, points = session_for(
        found,
        shapes,
        samples,
        dtype=kind,
        tensor_parallel=tensor_parallel,
        grid=grid,
        flex_s=FLEX_SHARE * 60.0 * minutes,
    )
    session.clock = clock
    with progress("measuring") as report:
        outcome = session.run(points, budget_s=60.0 * minutes, progress=report)
    table = samples.table()
    provenance = {
        "package": "specsim calibrate",
        "package_version": specsim.__version__,
        "licence": "own measurement",
        "measured_on": found.identity,
        "date": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "clock": clock,
        "clocks_seen": outcome.clocks[:: max(1, len(outcome.clocks) // 4)],
        "samples": samples.path.name,
        "points": int(table[table["wall_s"].notna()]["point"].nunique()),
        "refused": sorted(set(table[table["wall_s"].isna()]["status"])),
        "unsteady_share": round(outcome.unsteady / max(outcome.measured, 1), 3),
        "disturbed": outcome.disturbed,
    }
    document = fit_profile(medians(table, clock=clock), found, shapes, dtype=kind, provenance=provenance)
    content = (json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n").encode()
    profile = read_profile(content, file=out.name)
    replace_file(out, lambda beside: beside.write_bytes(content))
    return Calibrated(profile, document, out, samples.path, outcome, found)


def session_for(
    device: Device,
    models: Sequence[ModelShape],
    samples: Samples,
    *,
    dtype: str,
    tensor_parallel: int = 1,
    grid: Grid | None = None,
    flex_s: float = 0.0,
) -> tuple[Session, list[Point]]:
    """A session on ``device`` and the points worth measuring for ``models``; InputError for a precision it lacks."""
    torch = torch_or_error()
    names = {"bf16": torch.bfloat16, "fp32": torch.float32}
    if dtype not in names:
        raise InputError(f"{dtype!r} cannot be measured here; give {' or '.join(names)}", field="--dtype")
    from calibration.measure.company import company
    from calibration.measure.kernels import Workshop

    sparse = [model.name for model in models if model.experts]
    if sparse:
        raise InputError(f"{sparse[0]} has experts, which are not measured yet; give dense models", field="--model")
    for model in models:
        model.check_parallel(tensor_parallel)
    forwards = [model.forward(tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=dtype) for model in models]
    workshop = Workshop(device, names[dtype], company(forwards, most=2.0 * device.cache_bytes), flex_s=flex_s)
    bandwidth, flops = RATES[device.kind]
    session = Session(
        device,
        workshop.prepare,
        samples,
        int(BYTES[dtype]),
        bandwidth_bytes_per_s=bandwidth,
        flops_per_s=flops,
    )
    return session, candidates(models, dtype=dtype, grid=grid or Grid(), tensor_parallel=tensor_parallel)
