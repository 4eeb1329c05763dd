from __future__ import annotations

import numpy as np
import pytest

from calibration.host import (
    BATCHES,
    CONTEXTS,
    OVERHEAD_PCT,
    SAMPLING_PCT,
    VERIFICATION_PCT,
    host_law,
    host_s,
    kernels_s,
)
from specsim.cost.engine import load_engine


def test_shares_of_a_step_add_up_to_it() -> None:
    np.testing.assert_allclose(VERIFICATION_PCT + SAMPLING_PCT + OVERHEAD_PCT, 100.0, atol=0.15)
    overhead, sampling = host_s(500.0)
    step = kernels_s(500.0) + overhead + sampling
    np.testing.assert_allclose(overhead / step, OVERHEAD_PCT / 100.0, rtol=0.02)


def test_the_engine_file_quotes_the_fitted_line() -> None:
    constant, slope = host_law(CONTEXTS[1])
    engine = load_engine("vllm")
    assert engine.schedule.step_s == pytest.approx(constant, rel=0.02)
    assert engine.schedule.sequence_s == pytest.approx(slope, rel=0.05)
    sampled = np.concatenate([host_s(context)[1] for context in CONTEXTS])
    assert sampled.min() < engine.sampling.step_s < sampled.max()


def test_the_range_of_contexts_stays_within_the_range_of_the_engine_file() -> None:
    engine = load_engine("vllm")
    for context in CONTEXTS:
        constant, slope = host_law(context)
        ratio = (constant + slope * BATCHES) / (engine.schedule.step_s + engine.schedule.sequence_s * BATCHES)
        assert (engine.schedule.low < ratio).all()
        assert (ratio < engine.schedule.high).all()
