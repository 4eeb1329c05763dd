"""The planner's closed parts against brute force and conservation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.cost.shapes import Segment, StepShape, StepTime, Term
from specsim.planning.estimate import estimate
from specsim.planning.grid import best_lengths, grid, off_above
from specsim.planning.why import explain, round_parts
from specsim.simulation.program import Batch, Pass, RoundProgram


def program(k: int, *, draft_s: float = 1e-3, per_token_s: float = 2e-5) -> RoundProgram:
    """A round whose cost is affine in the tokens it verifies, so that every answer can be worked out by hand."""

    def verify_shape(batch: Batch) -> StepShape:
        size = np.asarray(batch.sequences, dtype=float)
        kv = np.asarray(batch.kv_tokens, dtype=float)
        return StepShape((Segment("verify", size, size * (k + 1), kv, size * (k + 1)),))

    def cost(shape: StepShape) -> StepTime:
        segment = shape.segments[0]
        zero = np.zeros((), dtype=np.int8)
        return StepTime(
            {
                "gemm": Term(6e-3 + per_token_s * np.asarray(segment.query_tokens), "gemm", zero),
                "attention": Term(1e-9 * np.asarray(segment.kv_tokens), "attention", zero),
            }
        )

    def draft(shape: StepShape) -> StepTime:
        return StepTime({"gemm": Term(np.full(np.shape(shape.segments[0].kv_tokens), draft_s), "gemm", np.int8(0))})

    def host(batch: Batch) -> StepTime:
        return StepTime({"schedule": Term(np.asarray(5e-4), "host", np.zeros((), dtype=np.int8))})

    passes = [Pass("verify", "target", verify_shape, cost)]
    if k:
        passes.append(Pass("draft", "drafter", verify_shape, draft, repeats=k, after=("verify",)))
    return RoundProgram(f"k{k}", k, tuple(passes), host)


def plane(lengths: tuple[int, ...] = (0, 1, 2, 4), *, tokens: float | None = 0.7) -> object:
    return grid(
        {k: program(k) for k in lengths},
        batches=np.array([1.0, 8.0, 64.0, 512.0]),
        contexts=np.array([128.0, 4096.0]),
        sample=lambda time: np.repeat(np.asarray(time.total_s)[..., None], 3, axis=-1),
        tokens=None if tokens is None else {k: sum(tokens**i for i in range(k + 1)) for k in lengths},
        token_draws=None if tokens is None else {k: np.full(3, sum(tokens**i for i in range(k + 1))) for k in lengths},
        draws=3,
    )


def test_the_grid_prices_what_the_programs_price() -> None:
    result = plane()
    for i, k in enumerate(result.lengths):
        for j, size in enumerate(result.batches):
            for m, context in enumerate(result.contexts):
                expected = program(int(k)).seconds(Batch(size, size * context))
                assert result.round_s[i, j, m] == pytest.approx(float(expected), rel=1e-12)


def test_speedup_equals_tokens_over_break_even() -> None:
    result = plane()
    np.testing.assert_allclose(result.speedup, result.tokens[:, None, None] / result.break_even)
    np.testing.assert_allclose(result.speedup[0], 1.0)


def test_break_even_needs_no_evidence() -> None:
    result = plane(tokens=None)
    np.testing.assert_allclose(result.break_even, plane().break_even)
    assert np.isnan(result.speedup[1:]).all()


@given(st.lists(st.lists(st.floats(0.5, 2.0), min_size=3, max_size=3), min_size=1, max_size=12))
def test_a_chosen_length_is_always_within_its_worth_of_the_fastest(speeds: list[list[float]]) -> None:
    speed = np.array([[1.0, *row] for row in speeds]).T
    lengths = np.array([0, 1, 2, 4])
    chosen = best_lengths(speed, lengths, worth=0.02)
    for point, k in enumerate(chosen):
        mine, best = speed[list(lengths).index(k), point], speed[:, point].max()
        assert mine == 1.0 == best if k == 0 else mine >= best * 0.98
        assert (k == 0) == (best <= 1.0)


def test_a_schedule_does_not_follow_ripples() -> None:
    ripple = np.array([[1.0] * 6, [1.5] * 6, [1.49, 1.51, 1.49, 1.51, 1.49, 1.51]])
    assert best_lengths(ripple, np.array([0, 1, 2])).tolist() == [1] * 6
    assert best_lengths(ripple, np.array([0, 1, 2]), worth=0.0).tolist() == [1, 2, 1, 2, 1, 2]


@pytest.mark.parametrize(
    ("lengths", "where"), [([3, 3, 0, 0], 30.0), ([3, 3, 3, 3], None), ([0, 0, 0, 0], 10.0), ([3, 0, 2, 0], 40.0)]
)
def test_off_above_is_the_point_after_the_last_gain(lengths: list[int], where: float | None) -> None:
    assert off_above(np.array(lengths), np.array([10.0, 20.0, 30.0, 40.0])) == where


def test_parts_add_up_to_the_round() -> None:
    batch = Batch(16.0, 16 * 1024.0)
    parts = round_parts(program(3), batch)
    assert sum(parts.values()) == pytest.approx(float(program(3).seconds(batch)), rel=1e-12)
    assert parts["drafting"] == pytest.approx(3e-3)


def test_what_is_dearest_is_never_more_than_what_a_round_adds_where_nothing_gets_cheaper() -> None:
    """Terms of plain and speculative passes land in the same parts, whatever the passes call them."""
    from specsim.planning.deployment import deploy
    from specsim.scenario import load_scenario

    deployment = deploy(load_scenario(None).scenario)
    batch = Batch(64.0, 64 * 1024.0)
    plain = round_parts(deployment.program(None, 0), batch)
    assert set(plain) == {"attention", "linear", "host"}
    for candidate in deployment.candidates:
        after = round_parts(deployment.program(candidate, 3), batch)
        grown = {part: seconds - plain.get(part, 0.0) for part, seconds in after.items()}
        assert min(grown.values()) >= 0.0
        assert set(after) <= set(plain) | {"drafting"}


def test_the_explanation_names_the_largest_extra_and_can_be_checked() -> None:
    batch = Batch(1.0, 1024.0)
    text = explain(program(0), program(3), batch, tokens_per_round=2.0)
    assert "draft passes" in text
    heavy = explain(program(0), program(3, draft_s=1e-6, per_token_s=3e-3), batch, tokens_per_round=2.0)
    assert "linear layers" in heavy
    assert "slower" in heavy


def test_an_estimate_contains_its_value() -> None:
    draws = np.linspace(1.0, 2.0, 101)
    inside, outside = estimate(1.5, draws), estimate(3.0, draws)
    assert (inside.low, inside.high) == (pytest.approx(1.05), pytest.approx(1.95))
    assert (outside.low, outside.high) == (pytest.approx(1.05), 3.0)
