import itertools

import numpy as np
import pytest

from specsim.acceptance.signals import CopulaSignals, Signals
from specsim.drafting.adaptive import BackOff, Goodput, MeanRejectedEntropy, ShareWindow, SurvivalWindow
from specsim.drafting.learned_window import LearnedWindow, shipped
from specsim.drafting.stopping import (
    AccumulateUntil,
    ConfidenceThreshold,
    EntropyThreshold,
    FixedLength,
    SurvivalThreshold,
    optimal_stopping,
)
from specsim.errors import InputError
from specsim.simulation.signal_rounds import RoundSeconds, run_rounds
from specsim.theory.stopping import best_fixed_rate

RNG = np.random.default_rng
POLICIES = [
    FixedLength(4),
    ConfidenceThreshold(0.3, 8),
    ConfidenceThreshold(0.3, 8, unsure="drop"),
    EntropyThreshold(1.2, 8),
    SurvivalThreshold(0.4, 8),
    SurvivalThreshold(0.4, 8, least=2, unsure="verify"),
]


def _shown(n=400, k=8, seed=0):
    process = CopulaSignals((0.8,), 0.7, 0.5)
    return process.draft(process.start(n, RNG(seed)), k, RNG(seed)).signals


@pytest.mark.parametrize("policy", POLICIES, ids=repr)
def test_no_policy_reads_beyond_where_it_stops(policy):
    shown, other = _shown(), _shown(seed=1)
    lengths = policy.lengths(shown)
    assert lengths.min() >= 0
    assert lengths.max() <= policy.most
    decided = np.arange(8) <= lengths[:, None]
    mixed = Signals(
        *(np.where(decided, getattr(shown, f), getattr(other, f)) for f in ("confidence", "entropy_nats", "acceptance"))
    )
    assert np.array_equal(policy.lengths(mixed), lengths)


def test_dropping_the_unsure_token_is_one_shorter_than_verifying_it():
    shown = _shown()
    kept = ConfidenceThreshold(0.3, 8).lengths(shown)
    dropped = ConfidenceThreshold(0.3, 8, unsure="drop").lengths(shown)
    stopped = (shown.confidence < 0.3).any(axis=1)
    assert np.array_equal(kept[stopped] - 1, dropped[stopped])
    assert np.array_equal(kept[~stopped], dropped[~stopped])


def _best_by_value_iteration(rates, kernel, start, round_s, marginal_s, most):
    """Best rate of any policy that sees the acceptance of each next token before drafting it: bisection on rho."""

    def worth(rho, survival, state, left):
        if left == 0:
            return 0.0
        s = survival * rates[state]
        ahead = sum(kernel[state, n] * worth(rho, s, n, left - 1) for n in range(len(rates)) if kernel[state, n] > 0)
        return max(0.0, s - rho * marginal_s + ahead)

    low, high = 0.0, 50.0
    for _ in range(45):
        rho = 0.5 * (low + high)
        value = 1.0 - rho * round_s + sum(start[s] * worth(rho, 1.0, s, most) for s in range(len(rates)))
        low, high = (rho, high) if value > 0 else (low, rho)
    return low


def test_optimal_stopping_equals_the_dynamic_programme():
    rates, most = np.array([0.95, 0.7, 0.2]), 6
    kernel = np.array([[0.7, 0.2, 0.1], [0.3, 0.4, 0.3], [0.4, 0.3, 0.3]])
    start = np.array([0.4, 0.3, 0.3])
    states = [(s,) for s in range(3)]
    for _ in range(most - 1):
        states = [(*path, n) for path in states for n in range(3)]
    weight = np.array([start[p[0]] * np.prod([kernel[a, b] for a, b in itertools.pairwise(p)]) for p in states])
    repeats = np.maximum(np.round(weight * 4e5).astype(int), 0)
    paths = np.repeat(np.cumprod(rates[np.array(states)], axis=1), repeats, axis=0)
    policy, rate = optimal_stopping(paths, round_s=1.1, marginal_s=0.12, most=most)
    exact = _best_by_value_iteration(rates, kernel, start, 1.1, 0.12, most)
    assert rate == pytest.approx(exact, rel=1e-4)
    assert rate > best_fixed_rate(paths, round_s=1.1, marginal_s=0.12)[1] * 1.01
    assert policy.threshold == pytest.approx(rate * 0.12)


def test_simulated_optimal_stopping_earns_its_predicted_rate():
    process, cost = CopulaSignals((0.8,), 0.8, 0.6), RoundSeconds(0.1, lambda n: 1.0 + 0.02 * n)
    rng = RNG(3)
    paths = process.draft(process.start(40_000, rng), 12, rng).signals.survival
    policy, rate = optimal_stopping(paths, round_s=1.0, marginal_s=0.12, most=12)
    ran = run_rounds(process, policy, cost, requests=40_000, rounds=2, rng=rng)
    assert ran.tokens_per_s == pytest.approx(rate, rel=0.01)


def test_accumulating_overshoots_exactly_to_the_first_sum_that_suffices():
    held, blocks = AccumulateUntil(5).held(np.array([[2, 2, 3, 1], [5, 9, 9, 9], [1, 1, 1, 2]]))
    assert held.tolist() == [7, 5, 5]
    assert blocks.tolist() == [3, 1, 4]
    with pytest.raises(InputError, match="don't reach 5"):
        AccumulateUntil(5).held(np.ones((1, 3), dtype=np.int64))


def test_back_off_and_threshold_windows_stay_in_bounds_and_move_the_right_way():
    shown = _shown(2)
    back = BackOff(most=6, first=5)
    state = back.learn(back.start(2), shown, np.array([5, 5]), np.array([5, 3]))
    assert back.lengths(state, shown).tolist() == [6, 4]
    window = ShareWindow(least=2, first=4, most=8, shrink=0.25, grow=0.6)
    state = window.start(3)
    assert window.lengths(state, shown).tolist() == [4, 4, 4]
    state = window.learn(state, shown, np.array([4, 4, 4]), np.array([1, 2, 3]))
    assert window.lengths(state, shown).tolist() == [2, 4, 8]


def test_a_survival_window_is_the_longest_that_keeps_its_risk():
    shown = _shown(1)
    for rate in (0.05, 0.5, 0.74, 0.8, 0.9, 0.999):
        policy = SurvivalWindow(most=8, risk=0.7, prior=rate)
        (k,) = policy.lengths(policy.start(1), shown)
        assert k == max([n for n in range(1, 9) if 1 - rate**n <= 0.7], default=1)


class Rounded:
    """A published-looking window that rounds at every step: 4 x 1.1 is 4 again, so it never leaves 4 upwards."""

    most = 12

    def start(self, n):
        return np.tile([4.0, 0.5], (n, 1))

    def lengths(self, state, signals):
        return state[:, 0].astype(np.int64)

    def learn(self, state, signals, drafted, accepted):
        share = 0.7 * state[:, 1] + 0.3 * accepted / np.maximum(drafted, 1)
        return np.column_stack([np.clip(np.rint(state[:, 0] * (1 + 0.2 * (share - 0.5))), 2, 12), share])


def _window_after(controller, *, all_accepted, rounds=60):
    state, shown = controller.start(1), _shown(1)
    for _ in range(rounds):
        k = controller.lengths(state, shown)
        state = controller.learn(state, shown, k, k if all_accepted else 0 * k)
    return int(controller.lengths(state, shown)[0])


CHEAP = lambda k, n=1: 1.0 + 0.02 * np.asarray(k)  # noqa: E731
CONTROLLERS = [
    BackOff(most=12, first=4),
    BackOff(most=12, first=4, up=2),
    ShareWindow(least=2, first=4, most=12, shrink=0.25, grow=0.6),
    SurvivalWindow(most=12, risk=0.7),
    LearnedWindow(shipped(), CHEAP, 12),
    Goodput(12, CHEAP, decay=0.9, prior=0.5, probe_every=5),
]


@pytest.mark.parametrize("controller", CONTROLLERS, ids=lambda c: type(c).__name__)
def test_no_rounding_keeps_a_window_where_it_is(controller):
    assert _window_after(controller, all_accepted=True) == 12
    assert _window_after(controller, all_accepted=False) <= 2


def test_the_rounded_formula_is_stuck():
    assert _window_after(Rounded(), all_accepted=True) == 4


def test_back_off_has_the_mean_window_of_its_markov_chain():
    rate, back = 0.8, BackOff(most=6, first=3, up=2, down=1)
    ran = run_rounds(
        CopulaSignals((rate,), 0.0),
        back,
        RoundSeconds(0.1, 1.0),
        requests=3000,
        rounds=80,
        rng=RNG(5),
    )
    chain = np.zeros((7, 7))
    for w in range(1, 7):
        chain[w, min(w + 2, 6)] += rate**w
        chain[w, max(w - 1, 1)] += 1 - rate**w
    law = np.full(6, 1 / 6)
    for _ in range(500):
        law = law @ chain[1:, 1:]
    assert ran.after(20).drafted.mean() == pytest.approx(law @ np.arange(1, 7), rel=0.01)


def test_goodput_picks_zero_when_drafting_cannot_pay_and_more_for_higher_rates():
    controller = Goodput(8, lambda k, n: 1.0 + (0.05 + 0.01 * n) * k, decay=0.95, prior=0.5)
    picks = [controller.best(np.full(4, a)) for a in (0.02, 0.3, 0.6, 0.8, 0.95)]
    assert picks == sorted(picks)
    assert picks[0] == 0
    assert picks[-1] == 8
    loads = [controller.best(np.full(n, 0.7)) for n in (1, 8, 32, 128)]
    assert loads == sorted(loads, reverse=True)
    assert loads[-1] == 0


def test_goodput_learns_the_rate_it_is_shown():
    controller = Goodput(4, lambda k, n: 1.0 + 0.05 * k, decay=0.99, prior=0.5)
    process, rng = CopulaSignals((0.8,), 0.0), RNG(6)
    state, latent = controller.start(500), process.start(500, rng)
    for _ in range(200):
        shown = process.draft(latent, 4, rng)
        lengths = controller.lengths(state, shown.signals)
        accepted, latent = process.settle(shown, lengths, rng)
        state = controller.learn(state, shown.signals, lengths, accepted)
    assert controller.rates(state).mean() == pytest.approx(0.8, abs=0.01)


def test_mean_rejected_entropy_is_the_mean_and_is_frozen_without_rejections():
    policy, shown = MeanRejectedEntropy(8), _shown(3)
    state = policy.start(3)
    assert policy.threshold_nats(state).tolist() == [0.5] * 3
    state = policy.learn(state, shown, np.array([4, 4, 4]), np.array([4, 1, 0]))
    expected = [0.5, shown.entropy_nats[1, 1], shown.entropy_nats[2, 0]]
    assert np.allclose(policy.threshold_nats(state), expected)


@pytest.mark.parametrize("make", [lambda: FixedLength(-1), lambda: SurvivalThreshold(0.5, 4, least=5)])
def test_impossible_policies_are_refused(make):
    with pytest.raises(InputError):
        make()
