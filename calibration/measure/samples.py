"""Raw samples in one Parquet file that grows as they come, so that a measurement that was cut short can go on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.measure.points import Point
from calibration.measure.timers import Timing
from specsim.cost.shapes import Floats
from specsim.errors import InputError
from specsim.files import replace_file

COLUMNS = ("point", "kind", "variant", "sample", "wall_s", "busy_s", "status", "at_s")
META = b"specsim"


@dataclass
class Samples:
    """Samples by point, and what they were measured on; ``save`` writes the whole file beside and renames it.

    A row is one sample of one variant, or a point that could not be measured with the reason as its ``status``
    (``oom``, ``too large``, ``too long``, ``wrong output``); measured ones are ``ok`` or ``unsteady``.
    """

    path: Path
    identity: Mapping[str, Any]
    rows: list[tuple[Any, ...]] = field(default_factory=list)

    @classmethod
    def open(cls, path: Path, identity: Mapping[str, Any]) -> Samples:
        """Those of ``path`` if it is there; InputError where it is damaged or was measured on something else."""
        samples = cls(path, dict(identity))
        if not path.exists():
            return samples
        table, found = read_samples(path)
        different = [name for name in identity if found.get(name) != json.loads(json.dumps(identity[name]))]
        if different:
            name = different[0]
            raise InputError(
                f"holds samples of another {name} ({found.get(name)!r}, now {identity[name]!r}); "
                "give another --out, or remove the file",
                file=str(path),
            )
        samples.rows = list(table.itertuples(index=False, name=None))
        return samples

    def add(self, point: Point, variant: str, timing: Timing, *, status: str, at_s: float) -> None:
        """Samples of one variant of a point."""
        for index, (wall, busy) in enumerate(zip(timing.wall_s, timing.busy_s, strict=True)):
            row = (point.key, point.kind, variant, index, float(wall), float(busy), status, at_s)
            self.rows.append(row)

    def refuse(self, point: Point, reason: str, *, at_s: float) -> None:
        """A point that could not be measured."""
        self.rows.append((point.key, point.kind, "", 0, np.nan, np.nan, reason, at_s))

    def forget(self, point: Point) -> None:
        """Drop what is known of a point (it will be measured again)."""
        self.rows = [row for row in self.rows if row[0] != point.key]

    def table(self) -> pd.DataFrame:
        """All rows."""
        return pd.DataFrame(self.rows, columns=list(COLUMNS))

    def save(self) -> None:
        """Write what there is."""
        import pyarrow as pa
        from pyarrow import parquet

        table = pa.Table.from_pandas(self.table(), preserve_index=False)
        table = table.replace_schema_metadata(
            {**(table.schema.metadata or {}), META: json.dumps(self.identity).encode()}
        )
        replace_file(self.path, lambda beside: parquet.write_table(table, beside, compression="zstd"))


def read_samples(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Rows of a sample file and what they were measured on; InputError where it isn't one."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
        identity = json.loads((table.schema.metadata or {})[META])
    except (OSError, pa.ArrowException, KeyError, ValueError) as error:
        raise InputError(
            f"is no file of samples, or damaged ({type(error).__name__}); remove it", file=str(path)
        ) from None
    if tuple(table.column_names) != COLUMNS:
        raise InputError("has other columns than this version writes; remove it", file=str(path))
    return table.to_pandas(), identity


def lower_quartile(values: Floats) -> float:
    """Of the visits to a point: an undisturbed one."""
    return float(np.quantile(values, 0.25))


def middle_mean(values: Floats) -> float:
    """Mean without the lowest and highest quarter: one disturbed visit counts for nothing."""
    ordered = np.sort(values)
    cut = len(ordered) // 4
    return float(ordered[cut : len(ordered) - cut].mean())


def medians(
    table: pd.DataFrame, *, clock: str = "wall", typical: Callable[[Floats], float] = lower_quartile
) -> pd.DataFrame:
    """One row a point: parameters, seconds (of the fastest variant's median), its variant, spread and status.

    clock: ``wall``, or ``processor`` for the time that the calling thread was busy. typical: what stands for a point of
    its visits' medians; what disturbs lasts longer than a visit and only adds, so their lower quartile tells of an
    undisturbed machine, ``middle_mean`` of the machine as it was.
    """
    column = {"wall": "wall_s", "processor": "busy_s"}[clock]
    good = table[table["status"].isin(["ok", "unsteady"])]
    records: list[dict[str, Any]] = []
    for key, part in good.groupby("point", sort=False):
        visits = part.groupby(["variant", "at_s"])[column].median()
        by_variant = visits.groupby(level="variant").agg(lambda x: typical(x.to_numpy()))
        variant = str(by_variant.idxmin())
        mine = part[part["variant"] == variant]
        low, middle, high = np.quantile(mine[column], [0.25, 0.5, 0.75])
        kind, parameters = json.loads(str(key))
        records.append(
            {
                "kind": kind,
                "seconds": float(by_variant.min()),
                "variant": variant,
                "spread": float((high - low) / middle),
                "visits": len(visits.loc[[variant]]),
                "status": str(mine["status"].iloc[0]),
                **parameters,
            }
        )
    return pd.DataFrame(records)
