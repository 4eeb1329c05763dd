"""Kernel timings from the installed ``aiconfigurator-core`` package (Apache-2.0; extra ``[silicon]``)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

import pandas as pd

from specsim.errors import InputError


@dataclass(frozen=True)
class Table:
    """Rows of one table with where they came from; latencies in seconds."""

    rows: pd.DataFrame
    path: str
    version: str


@dataclass(frozen=True)
class Source:
    """A tree ``data/<system>/<family>/<framework>/<version>/<table>.parquet`` and the version of its package."""

    root: Path
    version: str

    def versions(self, system: str, family: str, framework: str) -> list[str]:
        """Framework versions with data of a family, oldest first."""
        folder = self.root / "data" / system / family / framework
        return sorted((p.name for p in folder.iterdir()), key=_version_key) if folder.is_dir() else []

    def newest(self, system: str, family: str, framework: str, table: str) -> Table | None:
        """The newest version's table, or None when that combination was not measured."""
        return next(self._tables(system, family, framework, table), None)

    def united(self, system: str, family: str, framework: str, table: str, keys: list[str]) -> Table | None:
        """Rows of every version, the newest one's where several have the same ``keys``; None where there are none.

        For tables that a version fills with few models only. ``path`` and ``version`` name them all.
        """
        tables = list(self._tables(system, family, framework, table))
        if not tables:
            return None
        rows = pd.concat([t.rows.assign(age=age) for age, t in enumerate(tables)])
        rows = rows[rows["age"] == rows.groupby(keys)["age"].transform("min")].drop(columns="age")
        return Table(rows, " ".join(t.path for t in tables), " ".join(t.version for t in tables))

    def table(self, system: str, family: str, framework: str, version: str, table: str) -> Table | None:
        """One version's table, or None when that version has none."""
        path = self.root / "data" / system / family / framework / version / f"{table}.parquet"
        if not path.is_file():
            return None
        rows = pd.read_parquet(path)
        rows["seconds"] = rows["latency"].astype(float) * 1e-3  # tables are in milliseconds
        return Table(rows[rows["seconds"] > 0], path.relative_to(self.root).as_posix(), version)

    def _tables(self, system: str, family: str, framework: str, table: str) -> Iterator[Table]:
        for version in reversed(self.versions(system, family, framework)):
            found = self.table(system, family, framework, version, table)
            if found is not None:
                yield found


def installed() -> Source:
    """The tables of the installed package; InputError with the remedy where it isn't installed."""
    spec = util.find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("aiconfigurator-core is not installed; pip install 'llm-specsim[silicon]'")
    root = Path(next(iter(spec.submodule_search_locations))) / "systems"
    return Source(root, metadata.version("aiconfigurator-core"))


def _version_key(version: str) -> tuple[tuple[int, str], ...]:
    """Sorts 1.3.0rc5 before 1.3.0rc20 before 1.3.0, and 0.9 before 0.10."""
    parts = []
    for piece in version.replace("rc", ".-1.").replace("post", ".1.").split("."):
        if piece:
            parts.append((int(piece), "") if piece.lstrip("-").isdigit() else (0, piece))
    return (*parts, (0, ""))
