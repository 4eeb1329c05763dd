"""Write a simulation down: one row a request, the summary, the scenario, and where it all came from."""

from __future__ import annotations

import hashlib
import json
import platform
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.files import writing
from specsim.simulation.metrics import Summary
from specsim.simulation.result import Result

COLUMNS = (
    "arrival_s",
    "scheduled_s",
    "first_token_s",
    "finish_s",
    "prompt_tokens",
    "output_tokens",
    "rounds",
    "drafted",
    "accepted",
    "preemptions",
)
"""Columns of requests.parquet, after ``run`` and ``request``."""


def provenance(*, seed: int, profile: Path | None = None, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What a reader needs to make the same numbers: versions, the seed, and the profile's SHA-256."""
    import scipy

    import specsim

    block: dict[str, Any] = {
        "specsim": specsim.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "seed": seed,
    }
    if profile is not None:
        block["profile"] = profile.name
        block["profile_sha256"] = hashlib.sha256(profile.read_bytes()).hexdigest()
    return block | dict(extra or {})


def write_run(
    out: Path, results: Sequence[Result], summary: Summary, *, scenario: str, provenance: Mapping[str, Any]
) -> tuple[Path, ...]:
    """Write requests.parquet, summary.json, scenario.toml and provenance.json into the directory ``out``.

    All files are made in a directory beside it, which takes its name when they are complete: an interrupted write
    leaves nothing. Raises InputError where ``out`` exists and holds anything else.
    """
    names = ("requests.parquet", "summary.json", "scenario.toml", "provenance.json")
    _may_replace(out, names)
    with writing(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        try:
            _write_requests(beside / names[0], results)
            _write_json(beside / names[1], summary.to_dict())
            (beside / names[2]).write_text(scenario)
            _write_json(beside / names[3], dict(provenance))
            beside.chmod(0o755)
            _take_place(beside, out)
        except BaseException:
            shutil.rmtree(beside, ignore_errors=True)
            raise
    return tuple(out / name for name in names)


def _may_replace(out: Path, names: tuple[str, ...]) -> None:
    if out.exists() and not out.is_dir():
        raise InputError("is a file; name a directory", file=str(out), field="--out")
    others = sorted(p.name for p in out.iterdir() if p.name not in names) if out.is_dir() else []
    if others:
        raise InputError(
            f"holds {others[0]!r}, which no simulation wrote; name an empty or a new directory",
            file=str(out),
            field="--out",
        )


def _take_place(beside: Path, out: Path) -> None:
    """Give the finished directory its name. An old one steps aside first and comes back if that fails."""
    if not out.exists():
        beside.replace(out)
        return
    old = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent))
    out.replace(old / "was")
    try:
        beside.replace(out)
    except BaseException:
        (old / "was").replace(out)
        raise
    finally:
        shutil.rmtree(old, ignore_errors=True)


def _write_requests(path: Path, results: Sequence[Result]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    sizes = [len(r.arrival_s) for r in results]
    table: dict[str, Any] = {
        "run": np.repeat(np.arange(len(results)), sizes),
        "request": np.concatenate([np.arange(n) for n in sizes]),
    }
    for name in COLUMNS:
        table[name] = np.concatenate([getattr(r, name) for r in results])
    pq.write_table(pa.table(table), path, compression="zstd")


def _write_json(path: Path, content: dict[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
