"""Two stations: the plan is optimal in its class, its events are its recurrence, its shares beat equal ones."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.systems import edge_network as edge
from specsim.theory.uplink import shares_for_sum, shares_until_last, upload_s

PLACE = edge.Stations()


@settings(max_examples=50, deadline=None)
@given(load=st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12))
def test_both_allocations_beat_equal_shares(load):
    equal = upload_s(load, np.full(len(load), 1 / len(load)), 5.0)
    last, total = upload_s(load, shares_until_last(load), 5.0), upload_s(load, shares_for_sum(load), 5.0)
    assert last.max() <= equal.max() * (1 + 1e-12)
    np.testing.assert_allclose(last, sum(load) / 5.0)
    assert total.sum() <= equal.sum() * (1 + 1e-12)
    assert total.sum() == pytest.approx(np.sqrt(load).sum() ** 2 / 5.0)
    assert total.sum() <= last.sum() * (1 + 1e-12)


@settings(max_examples=8, deadline=None)
@given(n=st.integers(1, 14), alpha=st.floats(0.2, 0.95), seed=st.integers(0, 999), most=st.integers(1, 6))
def test_the_plan_is_never_worse_than_simpler_ones_and_its_events_agree(n, alpha, seed, most):
    prompts, efficiency = edge.random_tasks(n, np.random.default_rng(seed))
    case = {"output_tokens": 20, "alpha": alpha, "place": PLACE}
    plan = edge.plan_batches(prompts, efficiency, max_batch=most, **case)
    assert sum(plan.sizes) == n
    assert max(plan.sizes) <= most
    for changes in ({"fixed_size": most}, {"fixed_size": 1}, {"uniform": True}, {"lengths": (4,)}):
        other = edge.plan_batches(prompts, efficiency, max_batch=most, **case, **changes)
        assert plan.seconds <= other.seconds * (1 + 1e-12), changes
    made = edge.run_plan(plan, prompts, efficiency, **case)
    assert made.result.duration_s == pytest.approx(plan.seconds, rel=1e-9)


def test_the_programme_finds_what_all_cuts_contain():
    """Brute force over every way to cut six tasks into pairs of batches."""
    prompts, efficiency = edge.random_tasks(6, np.random.default_rng(4))
    case = {"output_tokens": 12, "alpha": 0.6, "place": PLACE, "lengths": (3,)}
    plan = edge.plan_batches(prompts, efficiency, max_batch=3, **case)
    tokens = np.sort(prompts).astype(float)
    load = (prompts * PLACE.bits_per_token / efficiency)[np.argsort(prompts, kind="stable")]
    steps = int(np.ceil(12 / ((1 - 0.6**4) / 0.4)))

    def best(i):
        if i == 6:
            return 0.0
        options = []
        for a in range(1, min(3, 6 - i) + 1):
            for b in range(min(3, 6 - i - a) + 1):
                first = edge.phase_of(np.array(float(a)), np.array(tokens[i + a - 1]), 3, PLACE)
                second = edge.phase_of(np.array(float(b)), np.array(tokens[i + a + b - 1]), 3, PLACE)
                seconds = edge.upload_of(load[i : i + a + b], PLACE) + float(edge.pair_s(first, second, steps))
                options.append(seconds + best(i + a + b))
        return min(options)

    assert plan.seconds == pytest.approx(best(0), rel=1e-12)


def test_small_batches_are_bound_by_memory():
    one = float(edge.phase_of(np.array(1.0), np.array(100.0), 1, PLACE).verify_s)
    five = float(edge.phase_of(np.array(1.0), np.array(100.0), 5, PLACE).verify_s)
    many = float(edge.phase_of(np.array(64.0), np.array(100.0), 5, PLACE).verify_s)
    assert one == five == PLACE.verify.weight_bytes / PLACE.macro.bytes_per_s
    assert many > five
