import json

import numpy as np
import pytest

from specsim.drafting.adaptive import LengthController
from specsim.drafting.learned_window import LearnedWindow, counted, shipped, train
from specsim.errors import InputError
from studies.train_window import compare


def test_it_is_a_controller_with_a_window_in_bounds():
    policy = LearnedWindow(shipped(), lambda k: 1.0 + 0.1 * k, 8)
    assert isinstance(policy, LengthController)
    state = policy.start(3)
    for accepted in (0, 1, 8):
        after = counted(state, np.array([8, 8, 8]), np.array([accepted] * 3))
        lengths = policy.lengths(after, None)
        assert lengths.min() >= 1
        assert lengths.max() <= 8
    with pytest.raises(InputError):
        LearnedWindow(shipped(), lambda k: 1.0 + 0.1 * k, 0)


def test_better_rounds_ask_for_longer_windows():
    policy = LearnedWindow(shipped(), lambda k: 1.0 + 0.05 * k, 12)
    state = {"good": policy.start(1), "bad": policy.start(1)}
    for _ in range(15):
        state["good"] = counted(state["good"], np.array([6]), np.array([6]))
        state["bad"] = counted(state["bad"], np.array([6]), np.array([0]))
    lengths = {name: int(policy.lengths(s, None)[0]) for name, s in state.items()}
    assert lengths["good"] > lengths["bad"] + 3
    assert policy.rates(state["good"])[0] > 0.9
    assert policy.rates(state["bad"])[0] < 0.4


@pytest.mark.parametrize("draft_ratio", [0.05, 0.2])
def test_between_the_best_static_window_and_one_that_knows(draft_ratio):
    made = compare(shipped(), draft_ratio, requests=400, rounds=100)
    assert 1.02 * made["static"] < made["learned"] < made["oracle"]


def test_training_starts_from_its_seed_and_learns():
    def network(steps):
        return train(
            requests=200, rounds=20, low=0.2, high=0.95, switch=0.05, rng=np.random.default_rng(1), steps=steps
        )

    assert json.loads(network(80).as_json()) == json.loads(network(80).as_json())
    assert (
        compare(network(200), 0.1, requests=300, rounds=60)["learned"]
        > compare(network(0), 0.1, requests=300, rounds=60)["learned"]
    )
