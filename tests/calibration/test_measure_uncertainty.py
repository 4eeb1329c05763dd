from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from calibration.measure.field import conformal_quantiles, fit_field, jump
from calibration.measure.points import TINY, Grid, Point, bytes_needed, candidates, roofline_s, stepped
from calibration.measure.prior import SEEN_SD, cautious_law
from calibration.measure.uncertainty import FEWEST, MOST_VISITS, PRIOR_SD, Unknown
from specsim.cost.law import Law, gemm_work
from specsim.cost.model import load_model
from specsim.cost.model_shape import ModelShape

SMALL = ModelShape("small", 2, 128, heads=4, kv_heads=2, head_dim=32, vocab=512, intermediate=256)


def test_candidates_hold_what_the_issue_of_a_verification_asks() -> None:
    points = candidates([load_model("meta-llama/Llama-3.1-8B")], dtype="bf16", grid=Grid())
    assert len(set(points)) == len(points)
    products = {(p["n"], p["k"]) for p in points if p.kind == "gemm"}
    assert products == {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)}
    assert {p["m"] for p in points if p.kind == "gemm"} >= {*range(1, 18), 32, 33, 64, 65, 128, 129, 256, 257, 1024}
    cached = [p for p in points if p.kind == "attention"]
    assert {p["queries"] for p in cached} == {1, 2, 3, 4, 5, 6, 8, 9, 12, 16}
    assert {p["batch"] for p in cached} == {1, 2, 4, 8, 16, 32, 64, 128}
    assert {p["cached"] for p in cached} == {512, 1024, 2048, 4096, 8192, 16384, 32768}
    kinds = {"gemm", "attention", "prefill", "around_layer", "around_pass", "host", "drawing", "softmax", "stack"}
    assert {p.kind for p in points} == kinds


def test_a_point_needs_at_least_its_weights_and_no_less_time_than_the_peaks() -> None:
    point = Point.of("gemm", m=1, n=4096, k=4096)
    assert bytes_needed(point, 2) >= 2 * 4096 * 4096
    assert roofline_s(point, 2, bandwidth=1e12, peak=1e30) == pytest.approx(bytes_needed(point, 2) / 1e12)
    for kind in candidates([SMALL], dtype="fp32", grid=TINY):
        assert bytes_needed(kind, 4) > 0.0


def test_steps_lie_between_one_and_two_and_at_tiles() -> None:
    places = [stepped(m) for m in (1, 2, 3, 64, 65, 66)]
    gaps = np.diff(places)
    assert (gaps > 0).all()
    assert gaps[0] > 0.7 + gaps[1] - 0.01
    assert gaps[3] > 10 * gaps[4]


def test_measuring_a_point_makes_it_and_its_neighbours_better_known() -> None:
    points = [Point.of("gemm", m=m, n=512, k=512) for m in (1, 2, 4, 8, 16, 1024)]
    unknown = Unknown(points)
    before = unknown.variance.copy()
    assert before == pytest.approx(PRIOR_SD["gemm"] ** 2)
    unknown.observe(points[3], 0.03)
    assert (unknown.variance <= before).all()
    assert unknown.variance[3] == pytest.approx(1.0 / (1.0 / before[3] + 1.0 / 0.03**2))
    assert unknown.variance[2] < unknown.variance[5]


def test_variances_equal_those_of_the_gaussian_process_in_closed_form() -> None:
    points = [Point.of("gemm", m=m, n=n, k=512) for m in (1, 2, 8, 64) for n in (256, 1024)]
    unknown, seen, noise = Unknown(points), [1, 4, 6], 0.05
    for i in seen:
        unknown.observe(points[i], noise)
    places = np.array([p.place for p in points])
    kernel = PRIOR_SD["gemm"] ** 2 * np.exp(-np.linalg.norm(places[:, None] - places[None], axis=2))
    inverse = np.linalg.inv(kernel[np.ix_(seen, seen)] + noise**2 * np.eye(3))
    expected = np.diag(kernel - kernel[:, seen] @ inverse @ kernel[seen])
    np.testing.assert_allclose(unknown.variance, expected, atol=1e-12)


def test_the_least_known_point_comes_first_and_visits_end() -> None:
    points = [Point.of("gemm", m=m, n=512, k=512) for m in (1, 2, 1024)]
    unknown = Unknown(points)
    unknown.observe(points[0], 0.03)
    first = unknown.worst()
    assert first is not None
    assert first[0] == points[2]
    second = unknown.worst([points[2]])
    assert second is not None
    assert second[0] == points[1]
    for _ in range(MOST_VISITS):
        for point in points:
            unknown.observe(point, 0.03)
    assert unknown.worst() is None
    assert unknown.open_points() == []


def test_every_family_gets_its_turn_however_many_points_another_has() -> None:
    points = candidates([SMALL], dtype="fp32", grid=Grid())
    unknown, chosen = Unknown(points), []
    for _ in range(60):
        worst = unknown.worst()
        assert worst is not None
        unknown.observe(worst[0], 0.05)
        chosen.append(worst[0].kind)
    assert set(chosen) >= {"gemm", "attention", "prefill", "host", "drawing", "softmax", "around_layer"}
    assert chosen.count("attention") < 45


def test_what_a_profile_cannot_do_without_comes_first() -> None:
    points = candidates([SMALL], dtype="fp32", grid=Grid())
    unknown, chosen = Unknown(points), Counter[str]()
    kinds = {point.kind for point in points}
    for _ in range(FEWEST * len(kinds)):
        worst = unknown.worst()
        assert worst is not None
        unknown.observe(worst[0], 0.05)
        chosen[worst[0].kind] += 1
    assert dict(chosen) == dict.fromkeys(kinds, FEWEST)


def test_a_dropped_point_is_not_chosen() -> None:
    points = [Point.of("gemm", m=m, n=512, k=512) for m in (1, 1024)]
    unknown = Unknown(points)
    unknown.drop(points[0])
    assert unknown.worst() == (points[1], pytest.approx(PRIOR_SD["gemm"]))


def test_leaving_points_out_in_closed_form_equals_fitting_without_them() -> None:
    rng = np.random.default_rng(1)
    places, residuals = rng.random((12, 2)) * 3.0, rng.normal(size=12)
    field = fit_field(places, residuals)
    for i in (0, 7):
        rest = np.arange(12) != i
        distance = np.linalg.norm(places[:, None] - places[None], axis=2)
        covariance = (1 - field.nugget) * np.exp(-distance / field.length)
        covariance[np.diag_indices_from(covariance)] = 1.0
        expected = covariance[i, rest] @ np.linalg.solve(covariance[np.ix_(rest, rest)], residuals[rest])
        assert field.left_out[i] == pytest.approx(residuals[i] - expected)
    groups = np.repeat([0.0, 1.0, 2.0], 4)
    apart = fit_field(places, residuals, groups=groups)
    rest = groups != 1.0
    covariance = (1 - apart.nugget) * np.exp(-np.linalg.norm(places[:, None] - places[None], axis=2) / apart.length)
    covariance[np.diag_indices_from(covariance)] = 1.0
    expected = covariance[np.ix_(~rest, rest)] @ np.linalg.solve(covariance[np.ix_(rest, rest)], residuals[rest])
    np.testing.assert_allclose(apart.left_out[~rest], residuals[~rest] - expected)


def test_far_from_everything_measured_the_law_stands_alone() -> None:
    field = fit_field(np.array([[0.0], [0.5], [1.0]]), np.array([0.3, 0.3, 0.3]))
    assert abs(float(field.at(np.array([[1e6]]))[0])) < 1e-9


def test_conformal_quantiles_are_wider_than_empirical_ones_and_cover() -> None:
    rng, p = np.random.default_rng(0), np.array([0.05, 0.5, 0.95])
    seen = rng.normal(size=19)
    low, _, high = conformal_quantiles(seen, p)
    assert low <= round(float(np.quantile(seen, 0.05)), 4)
    assert high >= round(float(np.quantile(seen, 0.95)), 4)
    hits = []
    for _ in range(400):
        low, _, high = conformal_quantiles(rng.normal(size=39), p)
        hits.append(low <= rng.normal() <= high)
    assert np.mean(hits) > 0.86
    assert conformal_quantiles(np.zeros(0), p) == [0.0, 0.0, 0.0]


def test_a_jump_is_the_distance_of_medians() -> None:
    residuals = np.array([1.0, 1.1, 0.9, 0.0, 0.1, -0.1])
    assert jump(residuals, np.array([True] * 3 + [False] * 3)) == pytest.approx(1.0)
    assert jump(residuals, np.array([True] * 2 + [False] * 4)) == 0.0


def test_few_points_keep_near_the_prior_and_many_find_the_law() -> None:
    law = Law(5e-6, 1.0e12, 2.0e14, 2.0)
    rng = np.random.default_rng(0)
    m, n, k = (rng.choice([1, 16, 256, 1024], 200), rng.choice([1024, 8192], 200), rng.choice([1024, 8192], 200))
    moved, flops = gemm_work(m, n, k, "bf16")
    seconds = law.seconds(moved, flops)
    many = cautious_law(moved, flops, seconds, bandwidth=2e12, peak=3e14, sd=SEEN_SD)
    assert many.bandwidth_bytes_per_s == pytest.approx(1.0e12, rel=0.05)
    assert many.flops_per_s == pytest.approx(2.0e14, rel=0.05)
    few = cautious_law(moved[:2], flops[:2], seconds[:2], bandwidth=2e12, peak=3e14)
    assert 0.5 < few.flops_per_s / 3e14 <= 1.0
