"""Many drafters over many targets: rounds add up, routers and windows differ where they should, mistakes are named."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.systems import dsd_rounds, dsd_serving, dsd_windows
from studies.papers.dsd import (
    ALONE,
    CASES,
    UNEQUAL,
    apart_seconds,
    conversations,
    flat_s,
    linear_s,
    saturated,
    speeds,
    states_seconds,
)

RNG = np.random.default_rng
QUIET = {"think_s": 0.0, "jitter": 0.0, "batch_window_s": 0.0}


def small(seed=0, **changes):
    case = {"drafters": 6, "targets": 2, "conversations": 18, "mean_output": 40.0} | changes
    return dsd_serving.simulate(RNG(seed), **case)


def test_a_drafter_alone_takes_the_sum_of_its_parts():
    costs = dsd_rounds.Costs()
    made = small(drafters=1, targets=1, conversations=3, gamma=4, **QUIET)
    message_s = (2 * 4 + 128 + 256) / 1.25e7
    one = float(costs.round_s(np.array(4), 2 * 8.35e-3)) + message_s
    assert (made.result.finish_s - made.result.first_token_s).sum() == pytest.approx(made.result.rounds.sum() * one)


def test_fused_rounds_cross_no_link():
    costs = dsd_rounds.Costs(cloud_draft_s=3e-3)
    made = small(drafters=1, targets=1, conversations=3, mode="fused", costs=costs, **QUIET)
    assert made.links == ()
    one = 4 * 3e-3 + costs.verify_s(1, 4)
    assert (made.result.finish_s - made.result.first_token_s).sum() == pytest.approx(made.result.rounds.sum() * one)


@pytest.mark.parametrize("window", ["static", "back-off", "threshold", "learned"])
@pytest.mark.parametrize("mode", ["distributed", "fused"])
def test_every_window_and_mode_answers_everyone(window, mode):
    made = small(window=window, mode=mode)
    assert np.isfinite(made.result.finish_s).all()
    assert np.all(made.result.accepted <= made.result.drafted)
    mean = made.result.drafted.sum() / made.result.rounds.sum()
    assert mean == 4 if window == "static" else 1 <= mean <= dsd_windows.MOST


def test_conversations_pause_between_questions():
    made = small(drafters=1, conversations=6, think_s=3.0, think_cv=0.0)
    pauses = made.result.arrival_s[1:] - made.result.finish_s[:-1]
    np.testing.assert_allclose(pauses, 3.0)
    shortest = small(drafters=1, conversations=6, think_s=0.1, think_cv=0.0, think_min_s=0.5)
    np.testing.assert_allclose(shortest.result.arrival_s[1:] - shortest.result.finish_s[:-1], 0.5)


def test_a_conversation_keeps_its_target():
    """Under round-robin every other conversation is the slow target's: its rounds take its seconds, all of them."""
    made = small(drafters=2, router="round-robin", time_factor=(1.0, 50.0), conversations=8, **QUIET)
    per_round = (made.result.finish_s - made.result.first_token_s) / np.maximum(made.result.rounds, 1)
    slow = per_round > 1.0
    assert slow.sum() == 4
    assert per_round[slow].min() > 10 * per_round[~slow].max()


@pytest.mark.slow
def test_equal_targets_make_routers_equal():
    from scipy.stats import f_oneway

    groups = [[saturated(name, (), i, run) for run in range(3)] for i, name in enumerate(dsd_serving.ROUTERS)]
    assert f_oneway(*groups).pvalue > 1e-3


def test_unequal_targets_need_the_queue():
    queue, blind = (saturated(name, UNEQUAL, 0, 0) for name in ("jsq", "round-robin"))
    assert queue >= 1.5 * blind


@pytest.mark.slow
def test_the_learned_window_lies_between_static_and_oracle_whose_gain_grows():
    talks = conversations()
    near, far = (speeds(apart_seconds(times, talks, states_seconds(times))) for times in (1.0, 20.0))
    for gains in (near, far):
        assert 1 < gains["learned"] < gains["oracle"]
    assert near["oracle"] + 0.03 < far["oracle"]


def test_an_oracle_takes_longer_windows_where_more_survives():
    seconds = dsd_serving.replayed_seconds((0.3, 0.95), conversations=8, seed=0, mean_output=60.0, **ALONE)
    windows = dsd_windows.oracle_windows(seconds)
    assert windows[0] < windows[1] == dsd_windows.MOST


def test_length_aware_batches_of_one_window_are_first_come_first_served():
    full = {"drafters": 10, "targets": 1, "max_batch": 3, "think_s": 0.0, "conversations": 20}
    one, other = (small(batching=b, **full).result for b in dsd_serving.BATCHINGS)
    assert one.finish_s.tolist() == other.finish_s.tolist()


def test_length_aware_batches_answer_everyone_in_shorter_batches():
    full = {"drafters": 16, "targets": 1, "max_batch": 4, "think_s": 0.0, "conversations": 32, "window": "learned"}
    made = [small(batching=b, process=conversations(), **full) for b in dsd_serving.BATCHINGS]
    busy = [next(use for use in one.servers if use.name == "cloud") for one in made]
    assert all(np.isfinite(one.result.finish_s).all() for one in made)
    assert busy[1].busy_s / busy[1].batches < busy[0].busy_s / busy[0].batches


@pytest.mark.parametrize(("alpha", "best", "flat"), CASES)
def test_a_controller_that_takes_a_linear_cost_for_flat(alpha, best, flat):
    from specsim.drafting.adaptive import Goodput

    picks = [Goodput(16, law, decay=1.0, prior=0.5).best(np.array([alpha])) for law in (linear_s, flat_s)]
    assert picks == [best, flat]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"router": "jsq3"}, "router: 'jsq3'; use one of random, round-robin"),
        ({"window": "clever"}, "window: 'clever'; use static"),
        ({"mode": "split"}, "mode: 'split'"),
        ({"batching": "lifo"}, "batching: 'lifo'; use fifo or length-aware"),
        ({"targets": 0}, "drafters, targets: 6 drafters, 0 targets"),
        ({"time_factor": (1.0, 2.0, 3.0)}, "server cloud: time_factor: 3 factors for 2 instances"),
        ({"time_factor": (1.0, 0.0)}, "server cloud: time_factor: 0.0"),
        ({"bytes_per_s": 0.0}, "link edge -> cloud: bytes_per_s: 0 bytes/s carry nothing"),
        ({"gamma": 0}, "gamma: 0; give at least 1"),
        ({"think_s": -1.0}, "think_s, think_min_s: -1.0"),
        ({"window": (1, 4)}, "window: windows for states need conversations"),
        ({"max_batch": 0}, "server cloud: max_batch: 0"),
        ({"conversations": 0}, "requests"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        small(**changes)


def test_a_rate_needs_a_few_conversations():
    with pytest.raises(InputError, match="conversations: 4 conversations; give 5 or more"):
        dsd_serving.conversations_per_s(small(conversations=4))


def test_too_few_windows_for_the_states():
    with pytest.raises(InputError, match="window: 2 windows for 4 states"):
        small(window=(1, 4), process=conversations())


def test_acceptance_is_what_the_process_says():
    made = small(drafters=4, conversations=60, mean_output=150.0, process=Iid(0.6), gamma=3)
    assert made.result.accepted.sum() / made.result.rounds.sum() == pytest.approx(0.6 + 0.36 + 0.216, rel=0.05)
