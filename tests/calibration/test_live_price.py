"""A round priced from a profile: the parts that its kernels add up to, in a world whose kernels are known exactly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from calibration.live.pairs import PAIRS
from calibration.live.price import PARTS, EnginePass, Lookup, engine_forward, priced_round, round_parts
from calibration.measure.device import Device
from calibration.measure.fit import fit_profile
from calibration.measure.points import Grid, Point, candidates
from calibration.measure.samples import Samples, medians
from calibration.measure.timers import Timing
from specsim.cost.model_shape import ModelShape
from specsim.cost.profile import Profile, read_profile
from specsim.cost.shapes import Segment, StepShape, StepTime, Term

TARGET, DRAFT = PAIRS[0].target, PAIRS[0].draft
DEVICE = Device("cpu", "here", 1 << 34, 1 << 25, 1, 1)
GRID = Grid(
    rows=(1, 2, 3, 4, 6, 8, 12),
    queries=(1, 2, 3),
    batches=(1, 2, 4),
    cached=(64, 128, 256),
    prompts=((1, 16), (1, 64), (2, 32), (2, 16)),
    around=((1, 1), (4, 1), (1, 3), (4, 3), (16, 3)),
    ends=((1, 1, 64), (4, 1, 64), (1, 3, 256), (4, 3, 256)),
    host=tuple((b, k) for b in (1, 2, 4) for k in (0, 1, 2, 4)),
    logits=(1, 2, 4, 12),
    stacks=(),
)


def seconds(point: Point) -> float:
    """What a kernel takes in this world: laws of the form that each part is fitted with."""
    p = dict(point.parameters)
    if point.kind == "gemm":
        return 5e-6 + 4.0 * (p["n"] * p["k"] + p["m"] * (p["n"] + p["k"])) / 1e10
    if point.kind in ("attention", "prefill"):
        q, length = (p["queries"], p["cached"] + p["queries"]) if "queries" in p else (p["tokens"], p["tokens"])
        return 4e-6 + 4.0 * p["batch"] * p["head_dim"] * (2.0 * length * p["kv_heads"] + 2.0 * q * p["heads"]) / 1e10
    if point.kind == "around_layer":
        shape = ModelShape("x", 1, p["hidden"], p["heads"], p["kv_heads"], p["head_dim"], 64, p["intermediate"])
        moved = engine_forward(shape, "fp32").elementwise_bytes_per_token * p["batch"] * p["queries"]
        return 5 * 4e-6 + (p["queries"] > 1) * 6e-6 + moved / 5e9
    if point.kind == "around_pass":
        rows = p["batch"] * p["queries"]
        return 1e-4 + 1e-6 * rows + 1e-9 * rows * (p["cached"] + p["queries"]) * (1 + p["group"])
    if point.kind == "host":
        return 4e-5 + 2e-5 * (p["k"] > 0) + 1e-6 * p["k"] + 2e-7 * p["batch"]
    if point.kind == "drawing":
        return 5e-5 + 3e-5 * (p["k"] > 0) + 2e-6 * p["k"] + 1e-9 * p["batch"] * p["vocab"]
    return 6e-6 + 1e-9 * p["rows"] * p["vocab"]  # softmax


@pytest.fixture(scope="module")
def profile() -> Profile:
    return fitted(seconds)


def fitted(world: Callable[[Point], float]) -> Profile:
    assert DRAFT is not None
    samples = Samples(Path("none"), {})
    for point in candidates([TARGET, DRAFT], dtype="fp32", grid=GRID):
        taken = np.full(3, world(point))
        samples.add(point, "x", Timing(taken, taken), status="ok", at_s=1.0)
    document = fit_profile(medians(samples.table()), DEVICE, [TARGET, DRAFT], dtype="fp32", provenance={})
    return read_profile(json.dumps(document).encode(), file="world.json")


def price(profile: Profile, model: ModelShape | None, lookup: Lookup | None = None) -> EnginePass:
    assert profile.host is not None
    return EnginePass(profile, profile.host, model, lookup)


@pytest.mark.parametrize(("kind", "other"), [("prefill", "attention"), ("attention", "prefill")])
def test_errors_of_one_attention_are_not_the_others(profile: Profile, kind: str, other: str) -> None:
    """What disturbs prompts is said of prompts alone, and what disturbs caches of caches."""

    def disturbed(point: Point) -> float:
        twos = point.kind == kind and dict(point.parameters)["batch"] == 2
        return seconds(point) * (1.5 if twos else 1.0)

    residuals = fitted(disturbed).residuals
    for layer, values in profile.residuals[other].items():
        np.testing.assert_array_equal(residuals[other][layer], values)
    assert np.abs(residuals[kind]["PARAMETRIC"] - profile.residuals[kind]["PARAMETRIC"]).max() > 0.02


@pytest.mark.parametrize(("batch", "queries"), [(1, 1), (4, 1), (2, 3), (4, 3)])
def test_a_pass_is_the_sum_of_its_kernels(profile: Profile, batch: int, queries: int) -> None:
    span, rows = 128 + queries, batch * queries
    heads = {"heads": TARGET.heads, "kv_heads": TARGET.kv_heads, "head_dim": TARGET.head_dim}
    expected = sum(
        x.count * seconds(Point.of("gemm", m=rows, n=x.n, k=x.k)) for x in engine_forward(TARGET, "fp32").linears
    )
    of_layer = {"batch": batch, "queries": queries}
    expected += TARGET.layers * seconds(Point.of("attention", **of_layer, cached=128, **heads))
    around = {**of_layer, **heads, "hidden": TARGET.hidden, "intermediate": TARGET.intermediate}
    expected += TARGET.layers * seconds(Point.of("around_layer", **around))
    expected += seconds(Point.of("around_pass", **of_layer, cached=128, group=3))
    expected += seconds(Point.of("softmax", rows=rows, vocab=TARGET.vocab))
    kind = "verify" if queries > 1 else "decode"
    # ``kv_max`` is what the engine attends to, whatever the sequences' own lengths are.
    shape = StepShape((Segment(kind, batch, rows, batch * 50, rows, kv_max=span),), mode="eager")
    assert float(price(profile, TARGET)(shape).total_s) == pytest.approx(expected, rel=0.03)


def test_the_parts_of_a_round_are_all_of_it_and_its_host_is_the_measured_one(profile: Profile) -> None:
    target, draft = price(profile, TARGET), price(profile, DRAFT)
    for k in (0, 1, 4):
        program = priced_round(target, draft, k)
        parts = round_parts(program, 2, 100.0)
        assert set(parts) == set(PARTS)
        assert (parts["draft"] > 0.0) == (k > 0)
        assert parts["host"] == pytest.approx(seconds(Point.of("host", batch=2, k=k)), rel=0.02)
        drawing = Point.of("drawing", batch=2, k=k, vocab=TARGET.vocab)
        assert parts["sampling"] == pytest.approx(seconds(drawing), rel=0.02)


def test_a_drafter_that_is_looked_up_costs_its_lookups(profile: Profile) -> None:
    lookup = Lookup(1e-5, 2e-6)
    draft = price(profile, None, lookup)
    parts = round_parts(priced_round(price(profile, TARGET), draft, 3), 4, 100.0)
    assert parts["draft"] == pytest.approx(3 * (1e-5 + 4 * 2e-6))
    with_laws = price(profile, TARGET, lookup)
    shape = StepShape((Segment("decode", 4, 4, 400, 4, kv_max=101),), mode="eager")
    plain, looked = price(profile, TARGET)(shape).terms, with_laws(shape).terms
    assert set(plain) - set(looked) == {"softmax"}
    assert float(looked["lookup"].seconds) == pytest.approx(1e-5 + 4 * 2e-6)


def test_passes_may_have_other_prices(profile: Profile) -> None:
    def one_second(_: StepShape) -> StepTime:
        return StepTime({"pass": Term(np.asarray(1.0), "pass", np.asarray(0, dtype=np.int8))})

    instead = dict.fromkeys(("decode", "verify", "draft_first", "draft"), one_second)
    parts = round_parts(priced_round(price(profile, TARGET), price(profile, DRAFT), 4, instead), 2, 100.0)
    assert (parts["draft"], parts["verify"], parts["attention"]) == (4.0, 1.0, 0.0)
