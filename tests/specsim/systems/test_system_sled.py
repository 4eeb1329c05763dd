"""Devices and one batched server: capacity by its law, deadlines that change its sign, replies lost and late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.systems import sled


def run(seed=0, **changes):
    return sled.simulate(np.random.default_rng(seed), **{"duration_s": 20.0} | changes)


@pytest.mark.parametrize("mode", ["static", "eager"])
def test_saturated_capacity_is_its_law(mode):
    plain, made = run(devices=128, speculative=False), run(devices=128, mode=mode)
    law = made.tokens_a_round * plain.batch_s / made.batch_s
    assert made.tokens_per_s / plain.tokens_per_s == pytest.approx(law, rel=0.02)
    assert made.mean_batch == pytest.approx(16, rel=0.02)


def test_deadlines_turn_the_gain_over_and_batching_by_deadline_turns_it_back():
    case = {"devices": 24, "deadline_s": 0.07}
    central = run(speculative=False, mode="eager", **case).tokens_per_s
    assert run(mode="static", **case).tokens_per_s < 0.9 * central
    assert run(mode="deadline", **case).tokens_per_s > 1.1 * central


@settings(max_examples=8, deadline=None)
@given(
    loss=st.floats(0.01, 0.3), deadline_s=st.floats(0.03, 0.2), mode=st.sampled_from(["static", "eager", "deadline"])
)
def test_late_and_lost_replies_are_survived(loss, deadline_s, mode):
    made = run(devices=32, loss=loss, deadline_s=deadline_s, mode=mode, duration_s=10.0)
    assert made.lost > 0
    assert made.replies > 100
    assert 0 <= made.late_share <= 1


def test_a_looser_deadline_is_never_worse():
    late = [run(devices=24, mode="eager", deadline_s=d).late_share for d in (0.04, 0.06, 0.08, 0.2, np.inf)]
    assert np.all(np.diff(late) <= 0.01)
    assert late[-1] == 0


def test_one_device_alone_takes_the_sum_of_its_parts():
    law = sled.VerifyLaw()
    made = run(devices=1, mode="eager", speculative=False, duration_s=50.0)
    assert made.replies == pytest.approx(50.0 / (law.seconds(1, 0) + 2 * 5e-3 + sled.WINDOW_S), rel=0.01)


@pytest.mark.parametrize("changes", [{"devices": 0}, {"deadline_s": 0.0}, {"mode": "fast"}])
def test_refuses(changes):
    with pytest.raises(InputError, match="devices, mode"):
        run(**changes)
