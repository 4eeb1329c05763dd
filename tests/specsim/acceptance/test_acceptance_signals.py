import itertools

import numpy as np
import pytest

from specsim.acceptance.language_pair import LanguagePair, random_pair
from specsim.acceptance.laws import stationary_law
from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.signals import CopulaSignals, RecordedSignals, SignalProcess, Signals, accepted_prefix
from specsim.errors import InputError


def test_the_processes_keep_both_interfaces():
    pair = random_pair(6, acceptance=0.8, rng=np.random.default_rng(0))
    for process in (CopulaSignals((0.8,), 0.5), pair):
        assert isinstance(process, SignalProcess)
        assert isinstance(process, AcceptanceProcess)


@pytest.mark.parametrize(
    ("rate", "correlation", "memory"), [(0.8, 0.0, 0.0), (0.8, 0.7, 0.0), (0.3, 0.9, 0.9), (0.95, 0.5, 0.8)]
)
def test_copula_survival_is_that_of_its_rounds_and_signals_are_calibrated(rate, correlation, memory):
    process, n, k = CopulaSignals((rate, min(rate + 0.02, 0.97)), correlation, memory), 60_000, 5
    rng = np.random.default_rng(7)
    drafted = process.draft(process.start(n, rng), k, rng)
    survived = np.logical_and.accumulate(drafted.accepts, axis=1)
    exact = process.survival(k)
    error = np.sqrt(exact * (1 - exact) / n)
    assert np.all(np.abs(survived.mean(axis=0) - exact) < 5 * error + 1e-4)
    # Calibration: among drafts whose survival is predicted in a band, that share survives.
    predicted = drafted.signals.survival[:, -1]
    band = predicted >= np.median(predicted)
    share, claimed = survived[band, -1].mean(), predicted[band].mean()
    assert abs(share - claimed) < 5 * np.sqrt(claimed * (1 - claimed) / band.sum()) + 1e-4


def test_copula_without_correlation_says_nothing_and_with_it_orders_the_tokens():
    rng = np.random.default_rng(1)
    mute = CopulaSignals((0.7,), 0.0).draft(np.zeros((100, 0)), 4, rng)
    assert np.allclose(mute.signals.acceptance, 0.7)
    told = CopulaSignals((0.7,), 0.8).draft(np.zeros((4000, 0)), 1, rng)
    sure = told.signals.confidence > 0.5
    assert told.accepts[sure].mean() > told.accepts[~sure].mean() + 0.2
    assert told.signals.entropy_nats[sure].mean() < told.signals.entropy_nats[~sure].mean()


def test_pair_is_lossless_its_survival_exact_and_its_mean_acceptance_as_asked():
    rng = np.random.default_rng(2)
    pair = random_pair(5, acceptance=0.75, rng=rng)
    law = stationary_law(pair.target)
    assert law @ pair.acceptance == pytest.approx(0.75, abs=1e-12)
    k, n, rounds = 3, 4000, 25
    latent = pair.start(n, rng)
    counts, _ = pair.verify(latent, k, rng, rounds=rounds)
    kept = counts[:, 5:]
    observed = np.array([(kept > i).mean() for i in range(k)])
    assert np.all(np.abs(observed - pair.survival(k)) < 5 * np.sqrt(0.25 / kept.size) + 1e-4)
    # The token after each accepted prefix has the target's law: count (context, token) of first emitted tokens.
    start = np.full(60_000, 1)
    drafted = pair.draft(start, 2, rng)
    accepted, after = pair.settle(drafted, np.full(len(start), 2), rng)
    first = np.where(accepted > 0, drafted.contexts[:, 1], after)
    share = np.bincount(first, minlength=5) / len(start)
    assert np.all(np.abs(share - pair.target[1]) < 5 * np.sqrt(pair.target[1] / len(start)) + 1e-4)


def test_pair_survival_equals_enumeration_from_the_round_start_law():
    pair = random_pair(4, acceptance=0.6, rng=np.random.default_rng(3))
    law, k = pair.round_start_law(3), 3
    expected = np.zeros(k)
    for start in range(4):
        for path in itertools.product(range(4), repeat=k):
            mass, at = law[start], start
            for i, x in enumerate(path):
                mass *= min(pair.target[at, x], pair.drafter[at, x])
                at = x
                if i == k - 1:
                    expected[i] += mass
    assert pair.survival(k)[-1] == pytest.approx(expected[-1], rel=1e-12)


def test_js_distance_is_0_for_equal_laws_and_1_for_disjoint_ones():
    p, q = np.array([[1.0, 0.0], [0.5, 0.5]]), np.array([[0.0, 1.0], [0.5, 0.5]])
    assert np.allclose(LanguagePair(p, q).js_distance, [1.0, 0.0])


def test_recorded_rounds_come_again():
    shown = Signals(*(np.arange(8.0).reshape(4, 2) / 8 for _ in range(3)))
    recorded = RecordedSignals(shown, np.array([0, 1, 2, 2]))
    rng = np.random.default_rng(4)
    drafted = recorded.draft(recorded.start(20_000, rng), 2, rng)
    accepted, _ = recorded.settle(drafted, np.full(20_000, 2), rng)
    assert set(zip(drafted.signals.confidence[:, 0], accepted, strict=True)) == {(0, 0), (0.25, 1), (0.5, 2), (0.75, 2)}
    assert accepted.mean() == pytest.approx(recorded.survival(2).sum(), abs=0.03)
    with pytest.raises(InputError, match="exceeds the 2 positions"):
        recorded.draft(recorded.start(1, rng), 3, rng)


@pytest.mark.parametrize("length", [-1, 3])
def test_a_length_outside_the_draft_is_an_error_that_names_it(length):
    with pytest.raises(InputError, match=f"lengths: {length} is no length of a draft of 2"):
        accepted_prefix(np.ones((2, 2), dtype=bool), np.array([1, length]))


def test_an_unreachable_acceptance_is_refused():
    with pytest.raises(InputError, match="unrelated drafter"):
        random_pair(8, acceptance=0.01, rng=np.random.default_rng(0))
