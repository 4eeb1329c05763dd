"""Rounds in series, and drafting while the target verifies: against closed forms, and what is thrown away counted."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.systems import chen, dsi, leviathan, pearl
from specsim.theory.iid import leviathan_speedup
from specsim.theory.structures import dsi_expected_seconds


@settings(max_examples=12, deadline=None)
@given(alpha=st.floats(0.1, 0.95), gamma=st.integers(1, 8), c=st.floats(0.01, 0.5), seed=st.integers(0, 99))
def test_leviathan_is_its_closed_form(alpha, gamma, c, seed):
    made = leviathan.simulate(np.random.default_rng(seed), alpha=alpha, gamma=gamma, draft_s=c, tokens=30_000)
    assert made.tokens_per_s == pytest.approx(float(leviathan_speedup(alpha, gamma, c)), rel=0.03)
    assert made.wasted_tokens == (made.result.drafted - made.result.accepted).sum()


def test_chen_runs_sequences_one_after_the_other():
    made = chen.simulate(np.random.default_rng(0), k=4, tokens=128, requests=50)
    rounds_s = 4 * chen.DRAFT_S + chen.TARGET_S
    assert made.result.duration_s == pytest.approx(made.result.rounds.sum() * rounds_s)
    assert np.all(np.diff(made.result.finish_s) > 0)


@pytest.mark.parametrize("alpha", [0.5, 0.8, 0.95])
@pytest.mark.parametrize("gamma", [1, 3, 10])
def test_pearl_is_its_closed_form(alpha, gamma):
    made = pearl.simulate(np.random.default_rng(3), alpha=alpha, gamma=gamma, draft_s=1.0 / gamma, tokens=100_000)
    steps = made.result.rounds.sum()
    assert made.result.duration_s == pytest.approx(steps)
    law = float(pearl.tokens_per_step(alpha, gamma))
    # Post-verify steps come in runs of 1 / (1 - a^gamma); the error of a mean over correlated steps.
    run = 1.0 / (1.0 - alpha**gamma)
    sigma = gamma * np.sqrt(run / steps)
    assert made.tokens_per_s == pytest.approx(law, abs=max(4 * sigma, 0.01 * law))
    drafter, target = made.servers
    assert drafter.jobs == target.jobs == steps


def test_pearl_never_waits_where_all_is_accepted():
    made = pearl.simulate(np.random.default_rng(0), alpha=1.0, gamma=5, draft_s=0.2, tokens=5001)
    assert made.result.duration_s == pytest.approx(1 + 1000)  # one step to begin with, then the window a step
    assert made.wasted_tokens == 4  # all but one of the first block are put to the test a step later


def test_pearl_waits_for_the_slower_side():
    slow = pearl.simulate(np.random.default_rng(1), alpha=0.8, gamma=5, draft_s=0.4, tokens=5000)
    assert slow.result.duration_s == pytest.approx(slow.result.rounds.sum() * 2.0)


@pytest.mark.parametrize("compares", [True, False])
@pytest.mark.parametrize(("alpha", "c", "k"), [(0.8, 0.1, 5), (0.5, 0.3, 2), (0.93, 0.33, 1), (0.9, 0.05, 8)])
def test_dsi_is_its_closed_form(alpha, c, k, compares):
    tokens = 40_000
    made = dsi.simulate(
        np.random.default_rng(5),
        alpha=alpha,
        lookahead=k,
        draft_s=c,
        targets=24,
        tokens=tokens,
        compares_bonus=compares,
    )
    law = dsi.seconds_per_token(alpha, k, draft_s=c, target_s=1.0, compares_bonus=compares)
    assert made.result.duration_s / tokens == pytest.approx(law, rel=0.01)


def test_dsi_at_lookahead_one_is_the_theorem():
    theorem = dsi_expected_seconds(0.7, 100_000, draft_s=0.2, target_s=1.0) / 100_000
    assert dsi.seconds_per_token(0.7, 1, draft_s=0.2, target_s=1.0) == pytest.approx(theorem, rel=1e-4)


@settings(max_examples=20, deadline=None)
@given(
    alpha=st.floats(0, 1), c=st.floats(0.02, 1), k=st.integers(1, 8), targets=st.integers(1, 9), seed=st.integers(0, 99)
)
def test_dsi_is_never_slower_than_plain_decoding_nor_faster_than_its_drafter(alpha, c, k, targets, seed):
    tokens = 400
    made = dsi.simulate(
        np.random.default_rng(seed), alpha=alpha, lookahead=k, draft_s=c, targets=targets, tokens=tokens
    )
    enough = targets > dsi.servers_needed(k, draft_s=c, target_s=1.0) + k
    if enough:
        assert made.result.duration_s <= tokens + 1e-9
    assert made.result.duration_s >= c * (tokens - 1) / 2  # a target yields a token of its own beside each draft
    assert made.result.accepted.sum() <= made.result.drafted.sum()


def test_dsi_counts_what_it_throws_away():
    made = dsi.simulate(np.random.default_rng(0), alpha=0.5, lookahead=2, draft_s=0.1, targets=12, tokens=5000)
    drafter, *targets = made.servers
    assert made.wasted_tokens > 0
    assert sum(use.wasted_s for use in targets) > 0
    assert drafter.busy_s <= made.result.duration_s + 1e-9
    assert all(use.busy_s <= made.result.duration_s + 1e-9 for use in targets)
    perfect = dsi.simulate(np.random.default_rng(0), alpha=1.0, lookahead=2, draft_s=0.1, targets=12, tokens=5000)
    assert sum(use.wasted_s for use in perfect.servers) < 10


@pytest.mark.parametrize(
    ("changes", "message"), [({"draft_s": 1.5}, "no slower than its target"), ({"targets": 0}, "at least one target")]
)
def test_dsi_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        dsi.simulate(np.random.default_rng(0), **changes)
