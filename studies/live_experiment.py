"""The measuring half of ``studies.fidelity_live``: live rounds and microbenchmarks, interleaved, on this CPU."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.measure import points
from calibration.measure.points import Point
from calibration.measure.samples import Samples, medians, middle_mean
from specsim.files import replace_file

SEED = 20
SMALL_PASS = 1 << 20
"""Bytes that a pass of the counted drafter reads, about: a few rows of its tables."""
DTYPE = "fp32"
WARM_LOOKUP, COLD_LOOKUP = "draft", "target"


@dataclass(frozen=True)
class Grid:
    """What is measured: every pair x context x batch x K, and how often."""

    contexts: tuple[int, ...] = (192, 576)
    batches: tuple[int, ...] = (1, 2, 4, 8)
    ks: tuple[int, ...] = (0, 1, 2, 3, 4, 6, 8)
    repeats: int = 8
    rounds: int = 8
    runs: tuple[int, ...] = (6, 5, 4, 3)
    """Live runs of each K in a repeat, by batch: a larger one gains more tokens in each."""
    sweeps: int = 2
    """Times in a repeat that every kernel is measured, a few samples each."""
    pass_sweeps: int = 3
    spans: tuple[int, int] = (0, 96)
    """Where attention and passes are measured, relative to the context: below and above what live rounds reach."""

    @property
    def kernels(self) -> points.Grid:
        """The microbenchmarks that a profile for this grid needs."""
        verified = sorted({k + 1 for k in self.ks})
        cached = tuple(context + more for context in self.contexts for more in self.spans)
        each = [(b, q) for b in self.batches for q in verified]
        rows = sorted({b * q for b, q in each} | {2 * b for b in self.batches})
        return points.Grid(
            rows=tuple(rows),
            queries=tuple(sorted({1, 2, *verified})),
            batches=self.batches,
            cached=cached,
            prompts=points.TINY.prompts,
            around=tuple(each),
            ends=tuple((b, q, c) for b, q in each for c in cached[:: len(self.spans)]),
            host=tuple((b, k) for b in self.batches for k in self.ks),
            logits=tuple(rows),
            stacks=(),
        )


TINY = Grid((48,), (1, 2), (0, 1, 2), repeats=2, rounds=3, runs=(2, 1), sweeps=1, pass_sweeps=1)


@dataclass
class Tables:
    """Everything measured so far, written beside and renamed."""

    folder: Path
    rows: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {"live": [], "passes": [], "lookups": []})

    def write(self, machine: dict[str, Any]) -> None:
        """All tables and the machine."""
        for name, rows in self.rows.items():
            write_table(pd.DataFrame(rows), self.folder / f"{name}.parquet")
        replace_file(
            self.folder / "machine.json",
            lambda path: path.write_text(json.dumps(machine, indent=1, default=str) + "\n"),
        )


def measure(grid: Grid, folder: Path, say: Callable[[str], None]) -> None:
    """Measure everything and write live, passes, lookups, kernels and acceptance, and the machine, into ``folder``."""
    import torch

    from calibration.live.pairs import PAIRS
    from calibration.measure.device import detect, pinned

    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(SEED)
    device = detect("cpu", threads=1)
    machine: dict[str, Any] = {
        "device": device.identity,
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "clock": "processor time of the engine's thread",
        "grid": asdict(grid),
        "load_average": [os.getloadavg()],
    }
    tables = Tables(folder)
    for pair in PAIRS:
        kernel_file(folder, pair.key).unlink(missing_ok=True)
    pairs = [_Measured.of(grid, pair, device, folder, rng, tables) for pair in PAIRS]
    write_table(pd.DataFrame(_acceptance(grid, rng)), folder / "acceptance.parquet")
    begin = time.perf_counter()
    with pinned(device):
        for repeat in range(grid.repeats):
            for pair in pairs:
                # A visit holds every K of one context and batch, so that they meet one load of the machine.
                for jobs in pair.visits(repeat):
                    for index in rng.permutation(len(jobs)):
                        jobs[index]()
                pair.samples.save()
            machine["load_average"].append(os.getloadavg())
            machine["minutes"] = (time.perf_counter() - begin) / 60.0
            tables.write(machine)
            say(f"repeat {repeat + 1} of {grid.repeats}, {machine['minutes']:.1f} min, load {os.getloadavg()[0]:.2f}")


def kernel_file(folder: Path, key: str) -> Path:
    """Raw samples of the kernels that a pair's profile is fitted to."""
    return folder / f"kernels_{key}.parquet"


def profile_file(folder: Path, key: str) -> Path:
    """The profile of a pair's kernels."""
    return folder / f"profile_{key}.json"


def fit(folder: Path) -> None:
    """The profiles that ``specsim calibrate`` would make of the kernels' samples, written beside them."""
    from calibration.live.pairs import PAIRS
    from calibration.measure.device import Device
    from calibration.measure.fit import fit_profile
    from calibration.measure.samples import read_samples

    for pair in PAIRS:
        table, identity = read_samples(kernel_file(folder, pair.key))
        shapes = [shape for shape in (pair.target, pair.draft) if shape is not None]
        origin = {"package": "studies.fidelity_live", "licence": "own measurement", "measured_on": identity}
        origin |= {"clock": "processor", "samples": kernel_file(folder, pair.key).name}
        data = medians(table, clock="processor", typical=middle_mean)
        document = fit_profile(data, Device(**identity), shapes, dtype=DTYPE, provenance=origin)
        text = json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n"
        replace_file(profile_file(folder, pair.key), lambda path, text=text: path.write_text(text))


@dataclass(frozen=True, eq=False)
class _Measured:
    grid: Grid
    pair: Any
    target: Any
    draft: Any
    workshop: Any
    points: list[Point]
    samples: Samples
    rng: np.random.Generator
    tables: Tables

    @classmethod
    def of(
        cls, grid: Grid, pair: Any, device: Any, folder: Path, rng: np.random.Generator, tables: Tables
    ) -> _Measured:
        import torch

        from calibration.measure.company import company
        from calibration.measure.kernels import Workshop
        from calibration.measure.points import candidates

        target, draft = pair.build(SEED)
        shapes = [shape for shape in (pair.target, pair.draft) if shape is not None]
        forwards = [shape.forward(dtype=DTYPE, kv_dtype=DTYPE) for shape in shapes]
        idle = (_bytes(target), _bytes(draft))
        workshop = Workshop(device, torch.float32, company(forwards, most=2.0 * device.cache_bytes), idle_bytes=idle)
        samples = Samples(kernel_file(folder, pair.key), device.identity)
        wanted = candidates(shapes, dtype=DTYPE, grid=grid.kernels)
        return cls(grid, pair, target, draft, workshop, wanted, samples, rng, tables)

    def visits(self, repeat: int) -> Iterator[list[Callable[[], None]]]:
        """Everything that a repeat measures of the pair in short pieces, by context and batch.

        Kernels belong to no context or batch: each is measured in ``sweeps`` of the visits, drawn anew in every repeat.
        """
        grid = self.grid
        kernels: list[Callable[[], None]] = [partial(self._kernel, point) for point in self.points] * grid.sweeps
        if self.pair.orders is not None:
            kernels += [partial(self._lookups, repeat, batch) for batch in grid.batches] * (4 * grid.sweeps)
        cases = [(context, *each) for context in grid.contexts for each in zip(grid.batches, grid.runs, strict=True)]
        shares = np.array_split(self.rng.permutation(len(kernels)), len(cases))
        for share, case in zip(shares, self.rng.permutation(len(cases)), strict=True):
            context, batch, runs = cases[case]
            where = {"repeat": repeat, "pair": self.pair.name, "context": context, "batch": batch}
            out: list[Callable[[], None]] = [kernels[index] for index in share]
            for k in grid.ks:  # plain decoding is every speedup's base: twice as many
                out += [partial(self._live, where, k)] * (2 * runs if k == 0 else runs)
            yield out + [partial(self._passes, where)] * grid.pass_sweeps

    def _capacity(self, context: int) -> int:
        """One size of cache for everything at a context."""
        return context + max(max(self.grid.spans), (self.grid.rounds + 2) * (max(self.grid.ks) + 1))

    def _live(self, where: dict[str, Any], k: int) -> None:
        from calibration.live.engine import decode
        from calibration.live.pairs import text_prompts

        run = decode(
            self.target,
            self.draft,
            text_prompts(where["batch"], where["context"], self.rng),
            k=k,
            rounds=self.grid.rounds + 1,
            rng=self.rng,
            imposed=self.pair.survival(k),
            prefill="assume",
            capacity=self._capacity(where["context"]),
        )
        phases = {f"{name}_s": seconds for name, seconds in run.phases_s.items()}
        columns = {"tokens": run.emitted.sum(axis=1), "wall_s": run.wall_s, **phases}
        rows = pd.DataFrame(columns).iloc[1:]  # the first round warms up
        self.tables.rows["live"] += [{**where, "k": k, **row} for row in rows.to_dict("records")]

    def _passes(self, where: dict[str, Any]) -> None:
        from calibration.live.micro import PassPoint, time_passes
        from calibration.live.pairs import text_prompts

        target, draft, passes = self.target, self.draft, []
        for span in (where["context"] + more for more in self.grid.spans):
            passes += [PassPoint("verify", target, draft, k + 1, span) for k in self.grid.ks if k]
            passes.append(PassPoint("decode", target, target, 1, span))
            passes.append(PassPoint("draft_first", draft, target, 2, span, "last"))
            passes.append(PassPoint("draft", draft, draft, 1, span, "last"))
        prompts = text_prompts(where["batch"], where["context"] + max(self.grid.spans), self.rng)
        taken = time_passes(passes, prompts, capacity=self._capacity(where["context"]), rng=self.rng)
        self.tables.rows["passes"] += [
            {**where, "name": point.name, "queries": point.queries, "span": point.span, "seconds": seconds}
            for point, seconds in zip(passes, taken, strict=True)
        ]

    def _kernel(self, point: Point) -> None:
        from calibration.measure.timers import time_kernels

        made = self.workshop.prepare(point)
        for variant, timing in zip(made, time_kernels(list(made.values()), "cpu", repeats=3), strict=True):
            self.samples.add(point, variant, timing, status="ok", at_s=time.time())

    def _lookups(self, repeat: int, batch: int) -> None:
        from calibration.live.micro import time_lookups
        from calibration.live.pairs import text_prompts

        verified = [k + 1 for k in self.grid.ks]
        for who, model, queries, beside in (
            (COLD_LOOKUP, self.target, verified, _bytes(self.target)),
            (WARM_LOOKUP, self.draft, [1, 1, 1], SMALL_PASS),
        ):
            prompts = text_prompts(batch, 64, self.rng)
            taken = time_lookups(model.ngram, prompts, queries, beside_bytes=beside, rng=self.rng)
            self.tables.rows["lookups"] += [
                {"repeat": repeat, "pair": self.pair.name, "who": who, "rows": batch * q, "seconds": seconds}
                for q, seconds in zip(queries, taken, strict=True)
            ]


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

    (pair,) = (pair for pair in PAIRS if pair.orders is not None)
    target, draft = (Counted(Ngram.count(plays(), order=order)) for order in pair.orders or ())
    sequences = 64 if grid.repeats > TINY.repeats else 8
    rows = []
    for k in grid.ks[1:]:
        runs = [
            decode(target, draft, text_prompts(sequences, 32, rng), k=k, rounds=grid.rounds + 1, rng=rng)
            for _ in range(3 * grid.repeats)
        ]
        accepted = np.concatenate([run.emitted[1:] for run in runs]) - 1
        rows += [
            {
                "pair": pair.name,
                "k": k,
                "position": i + 1,
                "survival": float((accepted > i).mean()),
                "rounds": accepted.size,
            }
            for i in range(k)
        ]
    return rows


def write_table(table: pd.DataFrame, path: Path) -> None:
    """A Parquet file, written beside and renamed; numbers in 32 bits."""
    small = table.astype({c: np.float32 for c, kind in table.dtypes.items() if kind == np.float64})
    replace_file(path, lambda beside: small.to_parquet(beside, index=False, compression="zstd"))
