"""The measuring half of ``studies.fidelity_live``: live rounds and microbenchmarks, interleaved, on this CPU."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SEED = 20
SMALL_PASS = 1 << 20
"""Bytes that a pass of the counted drafter reads, about: a few rows of its tables."""


@dataclass(frozen=True)
class Grid:
    """What is measured: every pair x context x batch x K, and how often."""

    contexts: tuple[int, ...] = (192, 576)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    ks: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8)
    host_ks: tuple[int, ...] = (0, 1, 2, 4, 8)
    repeats: int = 8
    rounds: int = 8
    runs: tuple[int, ...] = (12, 10, 8, 6)
    """Live runs of each K in a visit, by batch: a larger one gains more tokens in each."""
    sweeps: int = 10
    host_runs: int = 3
    host_rounds: int = 4
    spans: tuple[int, int] = (0, 96)
    """Where passes are measured, relative to the context: below and above the lengths that live rounds reach."""


TINY = Grid((48,), (1, 2), (0, 1, 2), (0, 2), repeats=2, rounds=3, runs=(2, 1), sweeps=1, host_runs=1, host_rounds=2)


def measure(grid: Grid, folder: Path, say: Callable[[str], None]) -> None:
    """Measure everything and write live, passes, host and acceptance tables and the machine into ``folder``."""
    import torch

    from calibration.live.pairs import PAIRS

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    tables: dict[str, list[dict[str, Any]]] = {"live": [], "passes": [], "host": []}
    machine = {**_machine(), "grid": asdict(grid), "load_average": [os.getloadavg()]}
    models = [(pair, *pair.build(SEED)) for pair in PAIRS]
    _write(pd.DataFrame(_acceptance(grid, rng)), folder / "acceptance.parquet")
    begin = time.perf_counter()
    for repeat in range(grid.repeats):
        # One visit holds everything that one comparison needs, in an order of its own.
        for pair, target, draft in models:
            for context in grid.contexts:
                for batch in grid.batches:
                    visit = _Visit(grid, pair, target, draft, context, batch, rng)
                    where = {"repeat": repeat, "pair": pair.name, "context": context, "batch": batch}
                    jobs = visit.jobs()
                    for index in rng.permutation(len(jobs)):
                        table, rows = jobs[index]()
                        tables[table].extend({**where, **row} for row in rows)
        machine["load_average"].append(os.getloadavg())
        machine["minutes"] = (time.perf_counter() - begin) / 60.0
        for name, rows in tables.items():
            _write(pd.DataFrame(rows), folder / f"{name}.parquet")
        _replace(folder / "machine.json", lambda path: path.write_text(json.dumps(machine, indent=1) + "\n"))
        say(f"repeat {repeat + 1} of {grid.repeats}, {machine['minutes']:.1f} min, load {os.getloadavg()[0]:.2f}")


@dataclass(frozen=True)
class _Visit:
    grid: Grid
    pair: Any
    target: Any
    draft: Any
    context: int
    batch: int
    rng: np.random.Generator

    @property
    def capacity(self) -> int:
        """One size of cache for everything in the visit."""
        return self.context + max(max(self.grid.spans), (self.grid.rounds + 2) * (max(self.grid.ks) + 1))

    def jobs(self) -> list[Callable[[], tuple[str, list[dict[str, Any]]]]]:
        """Every measurement of the visit in short pieces, each a call that returns its table and rows."""
        grid = self.grid
        runs = grid.runs[grid.batches.index(self.batch)]
        out: list[Callable[[], tuple[str, list[dict[str, Any]]]]] = []
        for k in grid.ks:  # plain decoding is every speedup's base: twice as many
            out += [partial(self._live, k)] * (2 * runs if k == 0 else runs)
        out += [self._passes] * grid.sweeps
        return out + [partial(self._host, k) for k in grid.host_ks for _ in range(grid.host_runs)]

    def _live(self, k: int) -> tuple[str, list[dict[str, Any]]]:
        from calibration.live.engine import decode
        from calibration.live.pairs import text_prompts

        prompts = text_prompts(self.batch, self.context, self.rng)
        run = decode(
            self.target,
            self.draft,
            prompts,
            k=k,
            rounds=self.grid.rounds + 1,
            rng=self.rng,
            imposed=self.pair.survival(k),
            prefill="assume",
            capacity=self.capacity,
        )
        phases = {f"{name}_s": seconds for name, seconds in run.phases_s.items()}
        columns = {"tokens": run.emitted.sum(axis=1), "wall_s": run.wall_s, **phases}
        rows = pd.DataFrame(columns).iloc[1:]  # the first round warms up
        return "live", [{"k": k, **row} for row in rows.to_dict("records")]

    def _passes(self) -> tuple[str, list[dict[str, Any]]]:
        from calibration.live.micro import PassPoint, time_passes
        from calibration.live.pairs import text_prompts

        target, draft, points = self.target, self.draft, []
        for span in (self.context + more for more in self.grid.spans):
            points += [PassPoint("verify", target, draft, k + 1, span) for k in self.grid.ks if k]
            points.append(PassPoint("decode", target, target, 1, span))
            points.append(PassPoint("draft_first", draft, target, 2, span, "last"))
            points.append(PassPoint("draft", draft, draft, 1, span, "last"))
        prompts = text_prompts(self.batch, self.context + max(self.grid.spans), self.rng)
        taken = time_passes(points, prompts, capacity=self.capacity, rng=self.rng)
        return "passes", [
            {"name": point.name, "queries": point.queries, "span": point.span, "seconds": seconds}
            for point, seconds in zip(points, taken, strict=True)
        ]

    def _host(self, k: int) -> tuple[str, list[dict[str, Any]]]:
        from calibration.live.micro import Idle, time_host

        idle = [Idle(model.vocab, _bytes(model)) for model in (self.target, self.draft)]
        taken = time_host(*idle, batch=self.batch, k=k, rounds=self.grid.host_rounds, rng=self.rng)
        return "host", [{"k": k, "seconds": s} for s in taken]


def _bytes(model: Any) -> int:
    """Memory that a pass of the model reads, in whose place an idle one reads as much."""
    decoder = getattr(model, "decoder", None) or getattr(model, "body", None)
    return SMALL_PASS if decoder is None else decoder.weight_bytes


def _acceptance(grid: Grid, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Survival of the counted pair from runs of its laws alone, without a transformer and with other draws."""
    from calibration.live.engine import decode
    from calibration.live.models import Counted
    from calibration.live.ngram import Ngram, plays
    from calibration.live.pairs import PAIRS, text_prompts

    target, draft = Counted(Ngram.count(plays(), order=6)), Counted(Ngram.count(plays(), order=3))
    (name,) = (pair.name for pair in PAIRS if pair.imposed is None)
    sequences = 64 if grid.repeats > TINY.repeats else 8
    rows = []
    for k in grid.ks[1:]:
        runs = [
            decode(target, draft, text_prompts(sequences, 32, rng), k=k, rounds=grid.rounds + 1, rng=rng)
            for _ in range(3 * grid.repeats)
        ]
        accepted = np.concatenate([run.emitted[1:] for run in runs]) - 1
        rows += [
            {"pair": name, "k": k, "position": i + 1, "survival": float((accepted > i).mean()), "rounds": accepted.size}
            for i in range(k)
        ]
    return rows


def _machine() -> dict[str, Any]:
    import torch

    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                model = line.split(":", 1)[1].strip()
                break
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "threads": 1,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "clock": "processor time of the engine's thread",
    }


def _write(table: pd.DataFrame, path: Path) -> None:
    small = table.astype({c: np.float32 for c, kind in table.dtypes.items() if kind == np.float64})
    _replace(path, lambda beside: small.to_parquet(beside, index=False, compression="zstd"))


def _replace(path: Path, write: Callable[[Path], Any]) -> None:
    beside = path.with_name(f".{path.name}.part")
    write(beside)
    beside.replace(path)
