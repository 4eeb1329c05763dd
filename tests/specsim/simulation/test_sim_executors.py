"""The macro-step executor against the reference: the same requests must meet the same events."""

from __future__ import annotations

import numpy as np
import pytest
from affine_engine import Survives
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.cost.shapes import StepTime, Term
from specsim.simulation.engine import Result, simulate
from specsim.simulation.program import Batch, RoundProgram
from specsim.simulation.serving import Serving
from specsim.simulation.workload import ClosedLoop, Gamma, Lognormal, Poisson, Workload


def program(k: int, *, scale: float = 1.0) -> RoundProgram:
    """A synthetic cost: weights, tokens, cache reads and prefill attention, all in one host term."""

    def host(batch: Batch) -> StepTime:
        b = np.asarray(batch.sequences, dtype=np.float64)
        kv = np.asarray(batch.kv_tokens, dtype=np.float64)
        new = sum(c.tokens for c in batch.prefill)
        pairs = sum(c.tokens * (c.past + c.tokens / 2) for c in batch.prefill)
        tokens = b * (k + 1) + new
        s = 6e-3 * (1 + 0.1 * k) + 2e-5 * np.maximum(tokens, 64) + 4e-8 * kv**0.97 + 1e-9 * pairs
        seconds = scale * (s + 0 * b)
        return StepTime({"all": Term(seconds, "synthetic", np.zeros(np.shape(seconds), dtype=np.int8))})

    return RoundProgram(f"synthetic k={k}", k, (), host)


def assert_same(a: Result, b: Result) -> None:
    for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-12, err_msg=name)
    for name in ("rounds", "drafted", "accepted", "preemptions", "prompt_tokens", "output_tokens"):
        np.testing.assert_array_equal(getattr(a, name), getattr(b, name), err_msg=name)
    assert a.iterations == b.iterations
    assert a.mixed_iterations == b.mixed_iterations
    for name in ("busy_s", "batch_s", "cache_s", "cache_max"):
        assert getattr(a, name) == pytest.approx(getattr(b, name), rel=1e-9), name
    seen = [np.repeat(r.itl_s, r.itl_count) for r in (a, b)]
    np.testing.assert_allclose(np.sort(seen[0]), np.sort(seen[1]), rtol=1e-9)


def both(k, load, serving, *, n=120, seed=0, rate=0.7):
    process = Survives(rate) if k else None
    runs = [
        simulate(program(k), process, load, serving, np.random.default_rng(seed), num_requests=n, executor=which)
        for which in ("macro", "stepwise")
    ]
    assert_same(*runs)
    return runs[0]


LENGTHS = {"prompt_tokens": Lognormal(300, 1.0), "output_tokens": Lognormal(60, 0.8)}


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize("k", [0, 3])
@pytest.mark.parametrize("arrivals", [Poisson(3.0), Poisson(60.0), Gamma(20.0, 0.2), ClosedLoop(7), ClosedLoop(64)])
def test_same_events_with_room_to_spare(k, arrivals, lag):
    serving = Serving(48, 1024, 4000, async_scheduling=lag)
    made = both(k, Workload(arrivals, **LENGTHS), serving)
    assert made.preemptions.sum() == 0


@pytest.mark.parametrize("lag", [False, True])
@pytest.mark.parametrize("caching", [False, True])
@pytest.mark.parametrize("reserve", [False, True])
def test_same_events_when_blocks_run_out(lag, reserve, caching):
    serving = Serving(48, 512, 160, async_scheduling=lag, reserve_full_prompt=reserve, prefix_caching=caching)
    load = Workload(Poisson(80.0), Lognormal(200, 0.5), Lognormal(150, 0.8))
    made = both(3, load, serving, n=150)
    assert made.preemptions.sum() > 20
    assert made.cache_max > 0.95


@settings(max_examples=40, deadline=None)
@given(
    k=st.integers(0, 6),
    rate=st.floats(0.05, 0.95),
    seats=st.integers(1, 20),
    budget=st.integers(140, 600),
    blocks=st.integers(120, 400),
    block_size=st.sampled_from([8, 16]),
    per_s=st.floats(0.5, 200),
    seed=st.integers(0, 10_000),
    lag=st.booleans(),
    reserve=st.booleans(),
    caching=st.booleans(),
)
def test_same_events_anywhere(k, rate, seats, budget, blocks, block_size, per_s, seed, lag, reserve, caching):
    serving = Serving(seats, budget, blocks, block_size, lag, reserve, caching)
    load = Workload(Poisson(per_s), Lognormal(120, 0.7), Lognormal(40, 1.0))
    rng = np.random.default_rng(seed)
    requests = load.sample(60, rng)
    capped = type(requests)(
        requests.arrival_s, np.minimum(requests.prompt_tokens, 500), np.minimum(requests.output_tokens, 300)
    )
    both(k, capped, serving, n=None, seed=seed, rate=rate)
