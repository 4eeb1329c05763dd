"""Arrival processes and length laws: the mean that a law knows is the mean that it samples."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.simulation.workload import ClosedLoop, Empirical, Fixed, Gamma, Lognormal, Poisson, Trace, Workload

N = 200_000
LAWS = [
    Fixed(17),
    Lognormal(1024, 1.0),
    Lognormal(2.0, 1.5),
    Lognormal(300.0, 0.0),
    Empirical((5.0, 9.0, 9.0, 400.0)),
    Empirical((1.0, 50.0, 300.0, 4000.0), (0.0, 0.5, 0.9, 1.0)),
    Empirical((3.0, 3.0, 8.0), (0.0, 0.7, 1.0)),
]


@pytest.mark.parametrize("law", LAWS, ids=str)
def test_law_knows_its_mean(law):
    drawn = law.sample(N, np.random.default_rng(0))
    assert drawn.dtype == np.int64
    assert drawn.min() >= 1
    assert drawn.mean() == pytest.approx(law.mean, abs=4.5 * drawn.std() / np.sqrt(N) + 1e-9)


def test_lognormal_has_the_asked_spread():
    drawn = Lognormal(1000.0, 0.8).sample(N, np.random.default_rng(1))
    assert drawn.std() / drawn.mean() == pytest.approx(0.8, rel=0.03)


def test_quantile_law_has_the_asked_quantiles():
    drawn = Empirical((1.0, 50.0, 300.0, 4000.0), (0.0, 0.5, 0.9, 1.0)).sample(N, np.random.default_rng(1))
    assert np.quantile(drawn, 0.5) == pytest.approx(50, abs=1)
    assert np.quantile(drawn, 0.9) == pytest.approx(300, rel=0.02)
    assert drawn.max() <= 4000


@pytest.mark.parametrize(("arrivals", "cv"), [(Poisson(5.0), 1.0), (Gamma(5.0, 0.25), 2.0), (Gamma(5.0, 4.0), 0.5)])
def test_gaps_have_rate_and_burstiness(arrivals, cv):
    """The squared coefficient of variation of gamma gaps is one over burstiness."""
    made = Workload(arrivals, Fixed(1), Fixed(1)).sample(N, np.random.default_rng(2))
    gaps = np.diff(made.arrival_s)
    assert gaps.mean() == pytest.approx(0.2, rel=0.02)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.03)


def test_rate_only_stretches_time():
    a, b = (
        Workload(Gamma(r, 0.5), Lognormal(9, 1), Lognormal(9, 1)).sample(50, np.random.default_rng(3)) for r in (1, 8)
    )
    np.testing.assert_allclose(a.arrival_s, 8 * b.arrival_s)
    np.testing.assert_array_equal(a.prompt_tokens, b.prompt_tokens)


def test_trace_replays_then_repeats():
    trace = Trace((10.0, 11.0, 14.0), (1, 2, 3), (4, 5, 6))
    made = Workload(trace).sample(5, np.random.default_rng(0))
    np.testing.assert_allclose(made.arrival_s, [0, 1, 4, 6, 7])  # a mean gap of 2 after the end
    assert made.prompt_tokens.tolist() == [1, 2, 3, 1, 2]
    stretched = Workload(Trace((10.0, 11.0, 14.0), (1, 2, 3), (4, 5, 6), rate_per_s=5.0)).sample(
        3000, np.random.default_rng(0)
    )
    assert 2999 / stretched.arrival_s[-1] == pytest.approx(5.0, rel=1e-3)
    assert Workload(trace).mean_output_tokens == 5.0
    replaced = Workload(trace, output_tokens=Fixed(9)).sample(2, np.random.default_rng(0))
    assert replaced.output_tokens.tolist() == [9, 9]


def test_closed_loop_carries_its_concurrency():
    assert Workload(ClosedLoop(7), Fixed(1), Fixed(1)).sample(9, np.random.default_rng(0)).concurrency == 7


@pytest.mark.parametrize(
    "make",
    [
        lambda: Poisson(0.0),
        lambda: Poisson(float("nan")),
        lambda: Gamma(1.0, -1.0),
        lambda: ClosedLoop(0),
        lambda: Lognormal(0.5, 1.0),
        lambda: Lognormal(float("inf"), 1.0),
        lambda: Empirical(()),
        lambda: Empirical((1.0, 2.0), (0.1, 1.0)),
        lambda: Empirical((2.0, 1.0), (0.0, 1.0)),
        lambda: Workload(Poisson(1.0), Fixed(1)),
        lambda: Workload(Poisson(1.0), Fixed(1), Fixed(1)).sample(0, np.random.default_rng(0)),
        lambda: Workload(Trace((1.0, 1.0), (1, 1), (1, 1), rate_per_s=2.0)).sample(2, np.random.default_rng(0)),
    ],
)
def test_impossible_workloads_are_refused(make):
    with pytest.raises(InputError):
        make()
