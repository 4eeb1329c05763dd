from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

pytest.importorskip("aiconfigurator_core")

from specsim.cost.hardware import load_hardware
from studies.fidelity_profiles import (
    FEW_TARGET,
    GPUS,
    RATIO_TARGETS,
    SHAPE_TARGETS,
    between_tiles,
    by_shape,
    coverage,
    few_points,
    held_out_shapes,
    products,
    ratios,
)
from studies.product_predictors import roofline


@pytest.mark.slow
@pytest.mark.parametrize("gpu", GPUS)
def test_products_of_shapes_never_seen_are_within_the_target(gpu: str) -> None:
    errors, (median, p95) = held_out_shapes(gpu), SHAPE_TARGETS[gpu]
    fit = errors["profile's fit"]
    assert fit.median_pct <= median
    assert fit.p95_pct <= p95
    assert fit.median_pct < 0.2 * errors["pure roofline"].median_pct


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.parametrize("gpu", sorted(RATIO_TARGETS))
def test_growth_with_tokens_of_a_model_never_seen_is_within_the_target(gpu: str, shared_data: Path) -> None:
    errors, models = ratios(shared_data / "kernels" / "vidur_layer_us.csv.gz", gpu)
    median, p95 = RATIO_TARGETS[gpu]
    fit = errors["profile's fit"]
    assert fit.median_pct <= median
    assert fit.p95_pct <= p95
    assert len(models) >= 6
    assert sum(error.logs.size for error in models.values()) == fit.logs.size


@pytest.mark.slow
@pytest.mark.parametrize("gpu", GPUS)
def test_intervals_cover_what_they_say(gpu: str) -> None:
    shares = coverage(gpu)
    assert 0.85 <= shares["all"] <= 0.95
    assert min(shares.values()) >= 0.8


@pytest.mark.slow
@pytest.mark.parametrize("gpu", GPUS)
def test_sixteen_points_of_a_gpu_never_seen_are_enough(gpu: str) -> None:
    errors = few_points(gpu)
    assert errors["law and field"].median_pct <= FEW_TARGET
    assert errors["law and field"].median_pct < errors["pure roofline"].median_pct / 3.0


def test_a_row_count_that_no_newer_table_has_is_nearer_where_the_filled_tile_weighs_more() -> None:
    ours, alike = between_tiles("fp8").values()
    assert ours.logs.size == alike.logs.size > 100
    assert ours.median_pct < 17.0 < 25.0 < alike.median_pct
    assert ours.p95_pct < alike.p95_pct
    ours, alike = between_tiles("bfloat16").values()
    assert ours.median_pct < 7.0
    assert ours.p95_pct < alike.p95_pct


def test_a_shape_is_never_fitted_and_judged_at_once() -> None:
    rows = products("a100_sxm")
    judged = []
    for known, wanted in by_shape(rows, 5, 0):
        shapes = [set(map(tuple, part[["n", "k"]].to_numpy())) for part in (known, wanted)]
        assert not shapes[0] & shapes[1]
        judged.append(wanted)
    assert len(pd.concat(judged)) == len(rows)


def test_the_roofline_is_a_bound_of_every_row_that_is_kept() -> None:
    rows = products("h100_sxm")
    assert (rows["seconds"] >= roofline(load_hardware("h100_sxm"))(rows)).all()
    assert np.isfinite(rows["seconds"]).all()
