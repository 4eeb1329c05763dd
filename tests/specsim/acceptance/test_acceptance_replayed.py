"""Conversations drawn token by token: the law of their process, and no window that changes another's coins."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance.modulated import MarkovModulated
from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.replayed import Replayed, replayed
from specsim.errors import InputError

RNG = np.random.default_rng
PROCESS = MarkovModulated((0.4, 0.9), ((0.9, 0.1), (0.2, 0.8)))


@pytest.mark.parametrize("k", [1, 3, 8])
def test_rounds_have_the_law_of_the_process(k):
    talks = replayed(PROCESS, 4000, 400, RNG(0))
    assert isinstance(talks, AcceptanceProcess)
    counts, _ = talks.verify(talks.start(4000, RNG(0)), k, RNG(0), rounds=30)
    law = PROCESS.survival(k)
    seen = np.array([(counts[:, 5:] >= i).mean() for i in range(1, k + 1)])
    np.testing.assert_allclose(seen, law, atol=0.01)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 1000), windows=st.lists(st.integers(0, 6), min_size=1, max_size=8))
def test_any_windows_read_the_same_coins(seed, windows):
    """Walked by hand: accept while the place's coin says so, then one corrected or bonus token."""
    talks = replayed(PROCESS, 1, 200, RNG(seed))
    latent, place = talks.start(1, RNG(0)), 0
    for k in windows:
        counts, latent = talks.verify(latent, k, RNG(0))
        accepted = 0
        while accepted < k and talks.accepts[0, place + accepted]:
            accepted += 1
        place += accepted + 1
        assert counts[0, 0] == accepted
        assert latent[0].tolist() == [0, place]


def test_survival_counts_places_and_falls():
    talks = Replayed(np.array([[True, True, False, True]]), np.zeros((1, 4), dtype=np.int64))
    assert talks.runs.tolist() == [[2, 1, 0, 1]]
    np.testing.assert_allclose(talks.survival(3), [0.75, 0.25, 0.0])


def test_refuses():
    talks = replayed(PROCESS, 2, 10, RNG(0))
    with pytest.raises(InputError, match="conversations: 3 conversations, 2 are drawn"):
        talks.start(3, RNG(0))
    with pytest.raises(InputError, match="conversations: 0 conversations of 5 tokens"):
        replayed(PROCESS, 0, 5, RNG(0))
    with pytest.raises(InputError, match="accepts, states"):
        Replayed(np.ones((2, 3), dtype=bool), np.zeros((3, 2), dtype=np.int64))
