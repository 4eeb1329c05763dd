"""The measuring half of ``studies.fidelity_live``: live rounds and microbenchmarks, interleaved, on this CPU."""

from __future__ import annotations

import json
import os
import platform
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

SEED = 20
CACHE_OF_A_PASS = 16 << 20
"""Bytes that an idle model reads in a pass's place: more than a core's caches, less than a moment."""


@dataclass(frozen=True)
class Grid:
    """What is measured: every pair x context x batch x K, and how often."""

    contexts: tuple[int, ...] = (192, 576)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    ks: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8)
    host_ks: tuple[int, ...] = (0, 1, 2, 4, 8)
    repeats: int = 6
    rounds: int = 24
    sequences_rounds: int = 192
    pass_samples: int = 6
    host_rounds: int = 12
    spans: tuple[int, int] = (-16, 144)
    """Where passes are measured, relative to the context: below and above the lengths that live rounds reach."""

    def runs(self, batch: int) -> int:
        """Live runs in one visit: fewer for larger batches, so that each K gains about as many tokens."""
        return max(1, self.sequences_rounds // (batch * self.rounds))


TINY = Grid((48,), (1, 2), (0, 1, 2), (0, 2), repeats=2, rounds=4, sequences_rounds=8, pass_samples=2, host_rounds=2)


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
    _write(pd.DataFrame(_acceptance(grid, rng)), folder / "acceptance.parquet")


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
        """Every measurement of the visit, each a call that returns its table and rows."""
        grid, target, draft = self.grid, self.target, self.draft
        runs = grid.runs(self.batch)
        out: list[Callable[[], tuple[str, list[dict[str, Any]]]]] = []
        for k in grid.ks:  # plain decoding is every speedup's base: twice as many
            out += [lambda k=k: self._live(k)] * (2 * runs if k == 0 else runs)
        for span in grid.spans:
            for k in grid.ks:
                after, name = (draft, "verify") if k else (target, "decode")
                out.append(lambda a=after, n=name, k=k, s=span: self._pass(n, target, k + 1, s, "all", a))
            out.append(lambda s=span: self._pass("draft_first", draft, 2, s, "last", target))
            out.append(lambda s=span: self._pass("draft", draft, 1, s, "last", draft))
        return out + [lambda k=k: self._host(k) for k in grid.host_ks]

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

    def _pass(
        self, name: str, model: Any, queries: int, span: int, rows: Any, after: Any
    ) -> tuple[str, list[dict[str, Any]]]:
        from calibration.live.micro import time_pass
        from calibration.live.pairs import text_prompts

        length = self.context + span
        prompts = text_prompts(self.batch, length, self.rng)
        how = {"queries": queries, "capacity": self.capacity, "rows": rows, "after": after}
        taken = time_pass(model, prompts, repeats=self.grid.pass_samples, **how)
        return "passes", [{"name": name, "queries": queries, "span": length, "seconds": s} for s in taken]

    def _host(self, k: int) -> tuple[str, list[dict[str, Any]]]:
        from calibration.live.micro import Idle, time_host

        models = Idle(self.target.vocab, CACHE_OF_A_PASS), Idle(self.target.vocab, CACHE_OF_A_PASS // 16)
        taken = time_host(*models, batch=self.batch, k=k, rounds=self.grid.host_rounds, rng=self.rng)
        return "host", [{"k": k, "seconds": s} for s in taken]


def _acceptance(grid: Grid, rng: np.random.Generator) -> list[dict[str, Any]]:
    """Survival of the counted pair from runs of its laws alone, without a transformer and with other draws."""
    from calibration.live.engine import decode
    from calibration.live.models import Counted
    from calibration.live.ngram import Ngram, plays
    from calibration.live.pairs import PAIRS, text_prompts

    target, draft = Counted(Ngram.count(plays(), order=6)), Counted(Ngram.count(plays(), order=3))
    (name,) = (pair.name for pair in PAIRS if pair.imposed is None)
    rows = []
    for k in grid.ks[1:]:
        prompts = text_prompts(64 if grid.repeats > TINY.repeats else 8, 32, rng)
        runs = [decode(target, draft, prompts, k=k, rounds=grid.rounds + 1, rng=rng) for _ in range(grid.repeats)]
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
