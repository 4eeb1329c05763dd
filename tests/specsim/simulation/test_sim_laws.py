"""Laws of the simulated engine: conservation, closed forms under idealisation, scaling, and order."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from affine_engine import ROOMY, Survives, program, requests, run

from specsim.simulation.engine import simulate
from specsim.simulation.pricing import Pricer
from specsim.simulation.serving import Serving
from specsim.simulation.workload import ClosedLoop, Fixed, Lognormal, Poisson, Workload

# Closed forms


def test_one_request_is_prefill_and_rounds():
    r = run(requests([1.5], [5000], [101]), k=3, step_s=0.01, per_new_s=1e-5)
    chunks = 2  # 5,000 tokens through a budget of 4,096
    assert r.first_token_s[0] == pytest.approx(1.5 + chunks * 0.01 + 5000e-5)
    assert r.finish_s[0] == pytest.approx(r.first_token_s[0] + r.rounds[0] * 0.01)
    assert r.iterations == chunks + r.rounds[0]


def test_one_request_pays_for_its_growing_cache():
    """Without drafts, token j attends to prompt + j tokens: an arithmetic series."""
    cost = {"step_s": 0.01, "per_kv_s": 1e-6}
    r = run(requests([0.0], [100], [51]), **cost)
    series = sum(0.01 + 1e-6 * (100 + j) for j in range(50))
    assert r.finish_s[0] - r.first_token_s[0] == pytest.approx(series, rel=1e-9)


@pytest.mark.parametrize("k", [1, 4])
def test_closed_loop_throughput(k):
    """A full batch emits batch x tokens a round every step; the last block of an output is cut by at most k tokens."""
    batch, output, rate = 16, 3000, 0.6
    r = run(Workload(ClosedLoop(batch), Fixed(1), Fixed(output)), k=k, rate=rate, n=64)
    tokens = 1 + sum(rate ** np.arange(1, k + 1))
    measured = 1 + r.accepted.sum() / r.rounds.sum()
    assert measured == pytest.approx(tokens, rel=0.01)
    per_s = r.output_tokens.sum() / r.duration_s
    assert per_s == pytest.approx(batch * tokens / 0.01, rel=0.03)
    assert r.batch_s / 0.01 == pytest.approx(r.rounds.sum())


@pytest.mark.parametrize("load", [0.5, 0.8])
def test_one_server_with_equal_services_is_m_d_1(load):
    step = 0.01
    r = run(Workload(Poisson(load / step), Fixed(10), Fixed(1)), serving=Serving(1, 64, 64), n=60_000, step_s=step)
    wait = (r.scheduled_s - r.arrival_s).mean()
    assert wait == pytest.approx(load * step / (2 * (1 - load)), rel=0.06)
    assert r.busy_s / r.duration_s == pytest.approx(load, rel=0.02)


def test_decode_prices_add_up_to_busy_time():
    """With one request at a time, busy time is the sum of the table's prices along its cache."""
    made = program(2, step_s=0.01, per_kv_s=1e-6)
    r = run(requests([0.0], [200], [80]), k=2, costs=made)
    assert r.busy_s == pytest.approx(r.finish_s[0])
    slower = Pricer(made, 10_000).decode(1, 280.0)
    assert r.rounds[0] * 0.01 < r.finish_s[0] - r.first_token_s[0] < r.rounds[0] * slower


# Conservation and order


def crowded(**change):
    serving = dataclasses.replace(Serving(32, 600, 150), **change)
    return run(Workload(Poisson(50.0), Lognormal(200, 0.6), Lognormal(120, 0.7)), k=4, serving=serving, n=250)


@pytest.mark.parametrize("lag", [False, True])
def test_every_token_is_accounted_for(lag):
    """First token and one more for every recomputation by prefill, the rest by rounds, cut by at most k at the end."""
    r = crowded(async_scheduling=lag)
    assert r.preemptions.sum() > 10
    emitted = 1 + r.accepted + r.rounds
    assert ((emitted <= r.output_tokens + 4) & (emitted + r.preemptions >= r.output_tokens)).all()
    calm = r.preemptions == 0
    assert (emitted[calm] >= r.output_tokens[calm]).all()
    assert r.itl_count.sum() >= r.rounds.sum()
    assert (r.drafted == 4 * r.rounds).all()
    assert (r.finish_s >= r.first_token_s).all()
    assert (r.first_token_s > r.scheduled_s).all()
    assert (r.scheduled_s >= r.arrival_s).all()


def test_first_come_first_served():
    assert (np.diff(crowded().scheduled_s) >= 0).all()


def test_gaps_of_a_request_span_its_decoding():
    r = run(requests([0.0, 0.3], [100, 3000], [40, 60]), k=3, per_new_s=1e-5)
    spans = (r.finish_s - r.first_token_s).sum()
    assert (r.itl_s * r.itl_count).sum() == pytest.approx(spans)
    assert r.itl_count.sum() == r.rounds.sum()


def test_busy_time_is_all_of_a_saturated_run():
    r = run(Workload(ClosedLoop(8), Fixed(100), Fixed(50)), n=40)
    assert r.busy_s == pytest.approx(r.duration_s)


# Metamorphic and monotone


def test_slower_by_two_is_time_stretched_by_two():
    load = Workload(Poisson(30.0), Lognormal(200, 1.0), Lognormal(60, 1.0))
    slow = Workload(Poisson(15.0), load.prompt_tokens, load.output_tokens)
    cost = {"step_s": 0.008, "per_kv_s": 1e-7, "per_new_s": 1e-5}
    a = run(load, k=3, n=200, **cost)
    b = run(slow, k=3, n=200, scale=2.0, **cost)
    np.testing.assert_allclose(b.finish_s, 2 * a.finish_s, rtol=1e-9)
    np.testing.assert_array_equal(a.rounds, b.rounds)


def test_drafts_that_never_survive_change_nothing_at_equal_cost():
    load = Workload(Poisson(20.0), Lognormal(200, 1.0), Lognormal(60, 1.0))
    plain = run(load, n=150)
    drafted = run(load, k=3, rate=0.0, n=150)
    np.testing.assert_allclose(drafted.finish_s, plain.finish_s)
    assert drafted.accepted.sum() == 0


def test_draws_do_not_depend_on_the_rate():
    """Common random numbers: another rate moves arrivals, and neither lengths nor what survives."""
    slow, fast = (run(Workload(Poisson(r), Lognormal(100, 1.0), Lognormal(40, 1.0)), k=3, n=600) for r in (1.0, 40.0))
    np.testing.assert_array_equal(slow.output_tokens, fast.output_tokens)
    np.testing.assert_array_equal(slow.rounds, fast.rounds)
    np.testing.assert_allclose(slow.arrival_s, 40 * fast.arrival_s)


def test_more_load_means_more_waiting_and_better_drafts_less():
    lengths = (Lognormal(300, 1.0), Lognormal(80, 0.8))
    cost = {"step_s": 0.01, "per_new_s": 2e-5}
    ttft = [run(Workload(Poisson(r), *lengths), n=800, **cost).ttft_s.mean() for r in (1.0, 30.0, 90.0)]
    assert ttft[0] < ttft[1] < ttft[2]
    e2e = [run(Workload(Poisson(5.0), *lengths), k=4, rate=q, n=800, **cost).e2e_s.mean() for q in (0.2, 0.5, 0.9)]
    assert e2e[0] > e2e[1] > e2e[2]


def test_async_scheduling_sees_an_arrival_one_iteration_later():
    load = requests([0.0, 0.055], [10, 10], [50, 5])
    prompt = run(load, serving=Serving(8, 512, 100))
    later = run(load, serving=Serving(8, 512, 100, async_scheduling=True))
    assert prompt.first_token_s[1] == pytest.approx(0.07)
    assert later.first_token_s[1] == pytest.approx(0.08)


def test_preempted_cache_that_nobody_took_is_found_again():
    again = crowded(prefix_caching=False)
    found = crowded(prefix_caching=True)
    assert again.preemptions.sum() > 10
    assert found.finish_s.max() < again.finish_s.max() or found.busy_s != again.busy_s


# Policies


def by_length(ks):
    return {k: program(k, step_s=0.01 + 0.001 * k) for k in ks}


def test_policy_that_never_drafts_is_plain_decoding():
    load = Workload(Poisson(20.0), Lognormal(200, 1.0), Lognormal(60, 1.0))
    rng = np.random.default_rng
    plain = simulate(by_length([0])[0], None, load, ROOMY, rng(3), num_requests=100)
    never = simulate(by_length([0, 4]), Survives(0.7), load, ROOMY, rng(3), num_requests=100, policy=lambda n, c: 0)
    np.testing.assert_allclose(never.finish_s, plain.finish_s)


def test_policy_sees_the_batch_and_its_context():
    seen = []

    def policy(decoding, context):
        seen.append((decoding, context))
        return 4 if decoding < 5 else 0

    load = Workload(ClosedLoop(8), Fixed(100), Lognormal(40, 0.5))
    r = simulate(
        by_length([0, 4]), Survives(0.7), load, ROOMY, np.random.default_rng(0), num_requests=24, policy=policy
    )
    assert 0 < r.drafted.sum() < 4 * r.rounds.sum()
    assert max(n for n, _ in seen) == 8
    assert all(100 <= c < 100 + r.output_tokens.max() + 5 for n, c in seen if n)
