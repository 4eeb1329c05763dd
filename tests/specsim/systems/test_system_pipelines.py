"""Pipelines: within a model, across nodes, and branches that share a verifier."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.systems import decentralized, seed, speed
from specsim.theory.tokens import expected_tokens_iid


@settings(max_examples=12, deadline=None)
@given(right=st.floats(0, 1), depth=st.integers(1, 8), guess=st.integers(1, 8), seed_=st.integers(0, 99))
def test_speed_takes_the_ticks_of_its_formula(right, depth, guess, seed_):
    guess = min(guess, depth)
    tokens = 4000
    made = speed.simulate(np.random.default_rng(seed_), right=right, depth=depth, guess_at=guess, tokens=tokens)
    law = speed.ticks_per_token(right, depth, guess)
    sigma = (depth - guess) * np.sqrt(right * (1 - right) / tokens)
    assert 1 / made.tokens_per_s == pytest.approx(law, abs=5 * sigma + depth / tokens)
    (use,) = made.servers
    assert use.batches == pytest.approx(made.result.duration_s)


@pytest.mark.parametrize(("right", "ticks"), [(1.0, 3), (0.0, 12)])
def test_speed_at_its_ends(right, ticks):
    made = speed.simulate(np.random.default_rng(0), right=right, depth=12, guess_at=3, tokens=500)
    assert made.result.duration_s == 12 + 499 * ticks


def test_speed_refuses_a_guess_after_the_end():
    with pytest.raises(InputError, match=r"guess_at: 5 must lie in 1..depth = 4"):
        speed.simulate(np.random.default_rng(0), guess_at=5)


@settings(max_examples=10, deadline=None)
@given(nodes=st.integers(1, 8), link=st.floats(0, 10), alpha=st.floats(0.3, 0.9))
def test_a_traversal_pays_every_hop_once(nodes, link, alpha):
    made = decentralized.simulate(
        np.random.default_rng(1), alpha=alpha, nodes=nodes, link_s=link, gamma=4, draft_s=0.1, tokens=2000
    )
    round_s = 4 * 0.1 + 1.0 + (nodes - 1) * link
    assert made.result.duration_s == pytest.approx(made.result.rounds.sum() * round_s)


@pytest.mark.parametrize(("nodes", "link"), [(3, 3.0), (4, 5.0), (8, 10.0)])
def test_the_idealised_speedup(nodes, link):
    k = float(expected_tokens_iid(0.7, 8))
    case = {"nodes": nodes, "link_s": link}
    fast = decentralized.simulate(np.random.default_rng(2), alpha=0.7, verify_s=k, draft_s=0.0, tokens=60_000, **case)
    plain = decentralized.simulate(np.random.default_rng(2), gamma=0, tokens=100, **case)
    law = decentralized.speedup(k, (nodes - 1) * link)
    assert fast.tokens_per_s / plain.tokens_per_s == pytest.approx(law, rel=0.01)


def test_the_gain_rises_in_nodes_and_links():
    grid = [[decentralized.speedup(3.0, (n - 1) * link) for link in (0.1, 1, 10)] for n in (2, 4, 8)]
    assert np.all(np.diff(grid, axis=0) > 0)
    assert np.all(np.diff(grid, axis=1) > 0)
    assert decentralized.speedup(3.0, 1e9) == pytest.approx(3.0)


@settings(max_examples=10, deadline=None)
@given(branches=st.integers(1, 6), draft_s=st.floats(0.05, 2.0), k=st.integers(1, 4))
def test_seed_never_beats_its_bound_and_joins_after_each_phase(branches, draft_s, k):
    made = seed.simulate(
        np.random.default_rng(3), branches=branches, draft_s=draft_s, k=k, tokens=300, depth=2, alpha=0.6
    )
    rounds_per_s = made.result.rounds.sum() / made.result.duration_s
    assert rounds_per_s <= seed.rounds_per_s_bound(branches, draft_s=k * draft_s, verify_s=1.0) * (1 + 1e-9)
    started = made.result.arrival_s.reshape(4, branches)
    ended = made.result.finish_s.reshape(4, branches)
    np.testing.assert_array_equal(started, np.repeat(started[:, :1], branches, axis=1))
    np.testing.assert_allclose(started[1:, 0], ended[:-1].max(axis=1))


def test_seed_reaches_its_bound_when_saturated():
    made = seed.simulate(np.random.default_rng(3), branches=3, draft_s=0.1, tokens=4000)
    assert made.servers[-1].busy_s == pytest.approx(made.result.duration_s, rel=0.02)
