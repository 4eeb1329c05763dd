import numpy as np
import pytest

from specsim.drafting.bandits import Exp3, Pulls, SequentialHalving, Ucb, block_divergence, block_efficiency

MEANS = np.array([0.3, 0.7, 0.5, 0.2])


def _play(bandit, rounds, requests=400, seed=0):
    rng, pulls = np.random.default_rng(seed), Pulls.none(requests, len(MEANS))
    picked = np.empty((requests, rounds), dtype=np.int64)
    for t in range(rounds):
        arms = bandit.pick(pulls, rng)
        bandit.learn(pulls, arms, (rng.random(requests) < MEANS[arms]).astype(float))
        picked[:, t] = arms
    assert np.all(pulls.count.sum(axis=1) == rounds)
    return picked


@pytest.mark.parametrize("bandit", [Ucb(), Ucb(0.5), Exp3(), SequentialHalving(60)], ids=repr)
def test_the_best_arm_is_found(bandit):
    picked = _play(bandit, 600)
    late = (picked[:, -100:] == 1).mean()
    assert late > (0.5 if isinstance(bandit, Exp3) else 0.75)


def test_every_arm_is_tried_once_first():
    assert _play(Ucb(), 4, requests=1)[0].tolist() == [0, 1, 2, 3]


def test_halving_drops_half_after_equal_shares_and_then_stays():
    picked = _play(SequentialHalving(40), 100)
    first = np.stack([(picked[:, :20] == arm).sum(axis=1) for arm in range(4)])
    assert np.all(first == 5)
    second = np.sort(np.stack([(picked[:, 20:30] == arm).sum(axis=1) for arm in range(4)]), axis=0)
    assert np.all(second[:2] == 0)
    assert np.all(picked[:, 40:] == picked[:, 40:41])


def test_exp3_keeps_a_law_that_never_gives_up_an_arm():
    pulls = Pulls.none(3, 4)
    pulls.weights[:, 2] = 500.0
    law = Exp3(0.2).probabilities(pulls)
    assert np.allclose(law.sum(axis=1), 1.0)
    assert law.min() >= 0.2 / 4 - 1e-12
    assert law[0].argmax() == 2


def test_both_rewards_have_the_mean_they_say():
    assert block_efficiency(np.array([0, 5]), 5).tolist() == [0.0, 1.0]
    assert block_divergence(np.array([[0.2, 0.4]])).tolist() == pytest.approx([0.7])
