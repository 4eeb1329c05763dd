"""Prediction against a real draft/verify loop on this machine, and which part of the round explains the error."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from calibration.live.price import PARTS, EnginePass, priced_round, round_parts
from calibration.measure.device import Device, detect, pinned, torch_or_error
from calibration.measure.points import Point
from calibration.measure.timers import time_kernels
from specsim.cost.model import load_model
from specsim.cost.model_shape import ModelShape
from specsim.cost.profile import Profile
from specsim.errors import InputError

UNSURE = 0.2
"""Difference between repeated runs above which an error of the prediction says nothing."""
SURVIVAL = 0.7
"""Imposed share of drafted tokens that survive each position; the work done does not depend on it."""


@dataclass(frozen=True)
class Case:
    """One configuration: seconds of a round by part, predicted and measured, and tokens a sequence and round."""

    batch: int
    k: int
    context: int
    predicted_s: dict[str, float]
    measured_s: dict[str, float]
    spread: float
    tokens: float

    @property
    def error(self) -> float:
        """Predicted over measured seconds of a round, less 1."""
        return sum(self.predicted_s.values()) / sum(self.measured_s.values()) - 1.0


@dataclass(frozen=True)
class Checked:
    """All cases of one pair of models."""

    target: str
    draft: str
    cases: tuple[Case, ...]

    def speedup(self, case: Case, which: str) -> float:
        """Tokens a second over those of K = 0 at the same batch, ``predicted_s`` or ``measured_s``."""
        plain = next(c for c in self.cases if (c.batch, c.k) == (case.batch, 0))
        return case.tokens * sum(getattr(plain, which).values()) / sum(getattr(case, which).values())

    @property
    def verdict(self) -> str:
        """One sentence: how far off, and which part explains most of it."""
        errors = np.array([case.error for case in self.cases])
        gaps = {
            part: float(
                np.mean([(c.predicted_s[part] - c.measured_s[part]) / sum(c.measured_s.values()) for c in self.cases])
            )
            for part in PARTS
        }
        worst = max(gaps, key=lambda part: abs(gaps[part]))
        spread = float(np.median([case.spread for case in self.cases]))
        size = float(np.median(np.abs(errors)))
        if spread > UNSURE and size > 0.05:
            return (
                f"nothing can be told: repeated runs differ by {spread:.0%}, predictions by {size:.0%} (medians); "
                "something else uses the device"
            )
        if size <= max(0.05, 1.5 * spread):
            return (
                f"the profile holds: rounds are predicted within {size:.1%} (median);"
                f" repeated runs differ by {spread:.1%}"
            )
        way = "short" if np.median(errors) < 0 else "long"
        others = ", ".join(f"{part} {gaps[part]:+.0%}" for part in PARTS if part != worst)
        return (
            f"predicted rounds are {size:.0%} too {way} (median; repeated runs differ by {spread:.1%}); "
            f"most of it is {worst}: {gaps[worst]:+.0%} of a round ({others})"
        )


def check(
    profile: Profile,
    *,
    file: str,
    target: str | None = None,
    draft: str | None = None,
    batches: Sequence[int] = (1, 4),
    ks: Sequence[int] = (0, 1, 2, 4),
    context: int = 512,
    rounds: int = 8,
    repeats: int = 3,
    device: str = "auto",
    report: Callable[[int, int], None] = lambda _d, _t: None,
) -> Checked:
    """Run target and drafter with random weights here, acceptance imposed, runs interleaved; predict from ``profile``.

    target: default the first model of the profile; draft: default one layer of the target. Raises InputError for a
    profile that was not measured by ``specsim calibrate``, or on another machine.
    """
    torch = torch_or_error()
    from calibration.live.decoder import Decoder
    from calibration.live.engine import decode
    from calibration.live.models import Transformer

    origin = profile.provenance.get("measured_on")
    if profile.host is None or not isinstance(origin, dict):
        raise InputError("was not measured by specsim calibrate, and has no host to check", file=file)
    here = detect(device, threads=origin.get("threads") or None)
    for name in ("kind", "name", "threads"):
        if origin.get(name) != getattr(here, name):
            raise InputError(
                f"was measured on {origin.get('name')}, and this is {here.name}; calibrate here", file=file
            )
    shapes = _shapes(profile, target, draft)
    kind = {"bf16": torch.bfloat16, "fp32": torch.float32}[profile.dtype]
    generator = torch.Generator(device=here.kind).manual_seed(0)
    longest = context + (rounds + 2) * (max(ks) + 2) + 16
    clock = str(profile.provenance.get("clock", "wall"))
    configurations = [(b, k) for b in batches for k in sorted({0, *ks})]
    times: dict[tuple[int, int], list[dict[str, float]]] = {c: [] for c in configurations}
    tokens: dict[tuple[int, int], float] = {}
    rng = np.random.default_rng(0)
    with pinned(here):
        models = [
            Transformer(Decoder.random(shape, generator=generator, dtype=kind, max_positions=longest + 16))
            for shape in shapes
        ]
        done = 0
        for repeat in range(repeats + 1):  # the first warms up
            for b, k in configurations:
                prompts = rng.integers(0, shapes[0].vocab, size=(b, context))
                survival = [SURVIVAL ** (i + 1) for i in range(k)]
                run = decode(
                    models[0],
                    models[1] if k else None,
                    prompts,
                    k=k,
                    rounds=rounds,
                    rng=rng,
                    imposed=survival or None,
                    prefill="assume",
                    capacity=longest,
                )
                scale = float(np.median(run.wall_s) / np.median(run.busy_s)) if clock == "wall" else 1.0
                if repeat:
                    times[b, k].append({p: float(np.median(s)) * scale for p, s in run.phases_s.items()})
                tokens[b, k] = run.tokens_per_round
                done += 1
                report(done, (repeats + 1) * len(configurations))
        prices = [EnginePass(profile, profile.host, shape) for shape in shapes]
        cases = []
        for b, k in configurations:
            reach = context + rounds * tokens[b, k] / 2.0
            own = _attention_s(here, kind, profile, shapes[0], b, k, reach)
            program = priced_round(*prices, k)
            cases.append(_case(round_parts(program, b, reach), b, k, context, times[b, k], tokens[b, k], own))
    return Checked(shapes[0].name, shapes[1].name, tuple(cases))


def _case(
    predicted: dict[str, float],
    b: int,
    k: int,
    context: int,
    runs: list[dict[str, float]],
    tokens: float,
    own_s: float,
) -> Case:
    totals = np.array([sum(run.values()) for run in runs])
    measured = {part: float(np.median([run.get(part, 0.0) for run in runs])) for part in PARTS}
    own_s = min(own_s, measured["verify"])
    measured |= {"attention": own_s, "verify": measured["verify"] - own_s}
    spread = float((totals.max() - totals.min()) / np.median(totals))
    return Case(b, k, context, predicted, measured, spread, tokens)


def _attention_s(
    here: Device, kind: Any, profile: Profile, shape: ModelShape, batch: int, k: int, reach: float
) -> float:
    """Seconds that the target's attention takes now, all layers, timed alone with buffers that rotate."""
    from calibration.measure.company import company
    from calibration.measure.kernels import Workshop

    forward = shape.forward(dtype=profile.dtype, kv_dtype=profile.dtype)
    workshop = Workshop(here, kind, company([forward], most=2.0 * here.cache_bytes))
    total = 0.0
    for a in forward.attention:
        head = {"heads": a.heads, "kv_heads": a.kv_heads, "head_dim": a.head_dim}
        kernels = workshop.prepare(Point.of("attention", queries=k + 1, batch=batch, cached=round(reach), **head))
        timings = time_kernels(list(kernels.values()), here.kind, repeats=5)
        clock = str(profile.provenance.get("clock", "wall"))
        total += a.count * min(float(np.median(t.wall_s if clock == "wall" else t.busy_s)) for t in timings)
    return total


def _shapes(profile: Profile, target: str | None, draft: str | None) -> tuple[ModelShape, ModelShape]:
    named = target or next(iter(profile.provenance.get("models", ())), None)
    if named is None:
        raise InputError("the profile names no model; give --model", field="--model")
    try:
        shape = load_model(named)
    except InputError as error:
        if target is not None:
            raise
        problem = f"the profile's model {named!r} does not ship; give --model PATH of its config.json"
        raise InputError(problem, field="--model") from error
    if draft is not None:
        other = load_model(draft)
        if other.vocab != shape.vocab:
            raise InputError(f"{other.name} has another vocabulary than {shape.name}", field="--draft-model")
        return shape, other
    return shape, replace(shape, name=f"one layer of {shape.name}", layers=1, windowed_layers=0, window=None)
