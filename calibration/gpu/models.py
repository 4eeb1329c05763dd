"""Whole passes with and without graphs, and the live engine's throughput beside the passes it consists of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from calibration.gpu.session import Session
from calibration.live.decoder import Decoder
from calibration.live.engine import LiveRun, decode
from calibration.live.micro import Idle
from calibration.live.models import Captured, Model, Transformer
from calibration.live.rule import Coins, reject, sample
from calibration.measure.timers import Prepared, launched
from specsim.cost.model_shape import ModelShape

Load = tuple[int, int, int]
"""Sequences, query tokens of each, cached tokens of each."""


def layers_of(target: ModelShape, count: int) -> ModelShape:
    """A drafter of ``count`` of the target's layers with its embeddings and head; one is the size of an EAGLE head."""
    return replace(target, name=f"{count} layer{'s' * (count > 1)} of {target.name}", layers=count)


def build(session: Session, shape: ModelShape, max_positions: int = 16384) -> Decoder:
    """A decoder with random weights on the session's device, in bf16 on CUDA."""
    generator = torch.Generator(device=session.device).manual_seed(0)
    return Decoder.random(shape, generator=generator, dtype=session.workshop.dtype, max_positions=max_positions)


def measure_steps(session: Session, shape: ModelShape, loads: Sequence[Load], until_s: float) -> None:
    """Rows of table ``steps``: passes of (sequences, query tokens each, cached tokens each), graph and eager."""
    decoder: list[Decoder] = []

    def prepare() -> None:
        decoder.append(build(session, shape))

    if session.attempt(f"weights of {shape.name}", prepare):
        return
    for batch, queries, cached in loads:
        if session.elapsed_s > until_s:
            session.note(f"steps: out of time in {shape.name}")
            return

        def measure(batch: int = batch, queries: int = queries, cached: int = cached) -> None:
            decoder[0].allocate(batch, cached + queries)
            tokens = torch.ones(batch, queries, dtype=torch.long, device=session.device)
            start = torch.full((batch,), cached, device=session.device)

            def step(_: int) -> Tensor:
                return decoder[0].forward(tokens, start, span=cached + queries)

            kernels = {"eager": Prepared(step, eager=True)} | ({"graph": Prepared(step)} if session.cuda else {})
            load = {"batch": batch, "query_tokens": queries, "tokens": batch * queries, "kv_tokens": cached}
            for mode, timing in zip(kernels, session.time(list(kernels.values())), strict=True):
                for repeat, seconds in enumerate(timing.wall_s.tolist()):
                    named = {"op": "step", "model": shape.name, "layers": shape.layers, "mode": mode}
                    session.add("steps", **named, **load, repeat=repeat, latency_us=round(seconds * 1e6, 3))

        session.attempt(f"a pass of {shape.name} at {batch} x {queries} after {cached}", measure)


@dataclass(frozen=True)
class LiveGrid:
    """Throughput points of one pair; acceptance is imposed, ``rate`` at every position."""

    batches: tuple[int, ...]
    contexts: tuple[int, ...]
    ks: tuple[int, ...]
    rounds: int
    repeats: int
    rate: float = 0.8


def measure_live(session: Session, target: Decoder, draft: Decoder, grid: LiveGrid, until_s: float) -> None:
    """Rows of tables ``live``, and ``parts`` with the passes and host work that its rounds consist of, interleaved."""
    rng = np.random.default_rng(0)
    for batch in grid.batches:
        for context in grid.contexts:
            if session.elapsed_s > until_s:
                session.note(f"live: out of time before batch {batch}, context {context}")
                return
            case = partial(_case, session, target, draft, grid, batch, context, rng, until_s)
            session.attempt(f"live {target.shape.name} with {draft.shape.name}, {batch} x {context}", case)
            session.free()


def _case(
    session: Session,
    target: Decoder,
    draft: Decoder,
    grid: LiveGrid,
    batch: int,
    context: int,
    rng: np.random.Generator,
    until_s: float,
) -> None:
    capacity = context + (grid.rounds + 3) * (max(grid.ks) + 1)
    models: list[Model] = [Transformer(target), Transformer(draft)]
    if session.cuda:
        models = [Captured(model) for model in models if isinstance(model, Transformer)]
    where = {"target": target.shape.name, "drafter": draft.shape.name, "batch": batch, "context": context}
    prompts = rng.integers(0, target.vocab, size=(batch, context))

    def live(k: int, repeat: int) -> None:
        survival = [grid.rate ** (i + 1) for i in range(k)]
        how = {"k": k, "rounds": grid.rounds + 2, "rng": rng, "prefill": "assume", "capacity": capacity}
        run = decode(models[0], models[1], prompts, imposed=survival, **how)
        session.add("live", **where, k=k, repeat=repeat, **_live_row(run, drop=2))

    def host(k: int, repeat: int) -> None:
        idle = [Idle(model.vocab, 64 << 20, session.device) for model in (target, draft)]
        run = decode(idle[0], idle[1], prompts[:, -32:], k=k, rounds=grid.rounds + 2, rng=rng)
        session.add("parts", **where, repeat=repeat, part="host", k=k, **_live_row(run, drop=2))

    def a_pass(part: str, model: Model, queries: int, rows: str, repeat: int) -> None:
        model.allocate(batch, capacity)
        tokens = torch.ones(batch, queries, dtype=torch.long, device=session.device)
        start = torch.full((batch,), context, device=session.device)

        def run(_: int) -> Tensor:
            return model.laws(tokens, start, span=context + queries, rows=rows)  # type: ignore[arg-type]

        (timing,) = session.time([Prepared(run, eager=True)])  # the model replays its own graph
        row = {"queries": queries, "span": capacity if session.cuda else context + queries}
        median = round(float(np.median(timing.wall_s)) * 1e6, 3)
        session.add("parts", **where, repeat=repeat, part=part, **row, latency_us=median)

    def launches(k: int, repeat: int) -> None:
        law = torch.full((batch, k + 1, target.vocab), 1.0 / target.vocab, device=session.device)
        drafted = torch.zeros(batch, k, dtype=torch.long, device=session.device)
        coins = Coins.of(rng, session.device)
        work: dict[str, Callable[[], object]] = {"sample": lambda: sample(law[:, 0], coins.device)}
        if k:
            work["reject"] = lambda: reject(law, law[:, :k], drafted, coins)
        for part, call in work.items():
            host_s, device_s = launched(call)
            row = {"k": k, "host_us": round(host_s * 1e6, 3), "latency_us": round(device_s * 1e6, 3)}
            session.add("parts", **where, repeat=repeat, part=part, **row)

    for model in models:  # room for all before anything is timed, so that memory runs out here or nowhere
        model.allocate(batch, capacity)
    for repeat in range(grid.repeats):
        jobs: list[Callable[[], None]] = []
        for k in grid.ks:
            jobs.append(partial(live, k, repeat))
            jobs.append(partial(host, k, repeat))
            if session.cuda:
                jobs.append(partial(launches, k, repeat))
            jobs.append(partial(a_pass, "verify" if k else "decode", models[0], k + 1, "all", repeat))
        jobs.append(partial(a_pass, "draft_first", models[1], 2, "last", repeat))
        jobs.append(partial(a_pass, "draft", models[1], 1, "last", repeat))
        for index in rng.permutation(len(jobs)):
            if session.elapsed_s > until_s:
                return
            jobs[index]()


def _live_row(run: LiveRun, drop: int) -> dict[str, object]:
    """Totals of a run without its first rounds, in which graphs are captured and clocks rise."""
    wall, tokens = run.wall_s[drop:], run.emitted[drop:]
    phases = {f"{name}_s": round(float(seconds[drop:].mean()), 9) for name, seconds in run.phases_s.items()}
    return {
        "rounds": len(wall),
        "tokens": int(tokens.sum()),
        "tokens_per_s": round(float(tokens.sum() / wall.sum()), 3),
        "round_s": round(float(wall.mean()), 9),
        "round_median_s": round(float(np.median(wall)), 9),
        **phases,
    }
