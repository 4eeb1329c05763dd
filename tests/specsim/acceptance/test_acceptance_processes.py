"""Every process does, in the long run, what its survival says."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance.chains import ByDraftLength, Iid, LengthOnly, MeasuredLength, PerPosition, Survival
from specsim.acceptance.conversions import survival_from_histogram
from specsim.acceptance.heterogeneous import Heterogeneous
from specsim.acceptance.modulated import MarkovModulated
from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.recorded import Recorded, RecordedHistograms
from specsim.errors import InputError

BASE = PerPosition((0.62, 0.61, 0.66))
BY_LENGTH = ByDraftLength((MeasuredLength((0.7,)), MeasuredLength((0.6, 0.65, 0.7)), MeasuredLength((0.5,) * 5)))
MODULATED = MarkovModulated((0.95, 0.2), ((0.9, 0.1), (0.25, 0.75)))
RECORDED = Recorded(((3, 0, 1, 2), (0, 0, 3), (1, 1, 1, 1, 1, 0, 2)), recorded_k=3)
HISTOGRAMS = RecordedHistograms(((10, 5, 5, 20), (30, 10, 0, 2)))
INDEPENDENT = [Iid(0.7), Iid(0.0), Iid(1.0), BASE, Survival((0.6, 0.4, 0.4)), LengthOnly(2.38, 3), BY_LENGTH]
EVERY = [*INDEPENDENT, MODULATED, Heterogeneous(BASE, 0.6), RECORDED, HISTOGRAMS]


def ids(process: AcceptanceProcess) -> str:
    return type(process).__name__


def by_rounds_to_length(process: AcceptanceProcess, k: int, tokens: int, n: int, rng: np.random.Generator):
    """Survival counted as a server counts it: every request runs until it has emitted ``tokens``."""
    latent, left, counts = process.start(n, rng), np.full(n, tokens), np.zeros(k + 1)
    while (going := left > 0).any():
        accepted, after = process.verify(latent[going], k, rng)
        latent[going] = after
        left[going] -= accepted[:, 0] + 1
        counts += np.bincount(accepted[:, 0], minlength=k + 1)
    return survival_from_histogram(counts)


@pytest.mark.parametrize("process", EVERY, ids=ids)
def test_keeps_the_interface(process: AcceptanceProcess) -> None:
    assert isinstance(process, AcceptanceProcess)
    assert "\n" not in process.name
    rng = np.random.default_rng(1)
    for k in (0, 1, 3):
        survival = process.survival(k)
        assert survival.shape == (k,)
        assert np.all(np.diff(survival, prepend=1.0) <= 1e-12)
        assert np.all(survival >= 0)
        accepted, latent = process.verify(process.start(5, rng), k, rng, rounds=7)
        assert accepted.shape == (5, 7)
        assert accepted.dtype == np.int64
        assert accepted.min() >= 0
        assert accepted.max() <= k
        assert len(latent) == 5


@pytest.mark.parametrize("process", EVERY, ids=ids)
def test_one_seed_one_result(process: AcceptanceProcess) -> None:
    def run() -> np.ndarray:
        rng = np.random.default_rng(4)
        return process.verify(process.start(20, rng), 3, rng, rounds=9)[0]

    np.testing.assert_array_equal(run(), run())


@pytest.mark.parametrize("k", [1, 3, 4])
@pytest.mark.parametrize("process", INDEPENDENT, ids=ids)
def test_independent_rounds_survive_as_said(process: AcceptanceProcess, k: int) -> None:
    n = 200_000
    accepted, _ = process.verify(
        process.start(n // 10, np.random.default_rng(2)), k, np.random.default_rng(3), rounds=10
    )
    counted = survival_from_histogram(np.bincount(accepted.ravel(), minlength=k + 1))
    s = process.survival(k)
    assert np.all(np.abs(counted - s) <= 5 * np.sqrt(s * (1 - s) / n) + 1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_modulated_law_holds_where_rounds_start(k: int) -> None:
    rng = np.random.default_rng(5)
    _, latent = MODULATED.verify(MODULATED.start(4000, rng), k, rng, rounds=60)
    accepted, _ = MODULATED.verify(latent, k, rng, rounds=100)
    own = (accepted[..., None] > np.arange(k)).mean(axis=1)
    error = own.std(axis=0) / np.sqrt(len(own))
    assert np.all(np.abs(own.mean(axis=0) - MODULATED.survival(k)) <= 4.5 * error)


def test_longer_drafts_start_in_harder_places() -> None:
    first = [float(MODULATED.survival(k)[0]) for k in (1, 2, 4, 8)]
    assert all(a > b for a, b in itertools.pairwise(first))


def test_modulation_with_equal_rates_is_iid() -> None:
    even = MarkovModulated((0.7, 0.7), ((0.9, 0.1), (0.5, 0.5)))
    np.testing.assert_allclose(even.survival(6), Iid(0.7).survival(6), rtol=1e-13)


def test_spread_keeps_the_mean_over_rounds_of_a_server() -> None:
    process = Heterogeneous(BASE, 0.8)
    counted = by_rounds_to_length(process, 3, tokens=600, n=6000, rng=np.random.default_rng(7))
    # Between-request error: length sd / sqrt(requests) is 0.008; a position's part of it is below 0.004.
    np.testing.assert_allclose(counted, process.survival(3), atol=0.012)
    even, _ = process.verify(process.start(6000, np.random.default_rng(8)), 3, np.random.default_rng(9), rounds=100)
    assert even.mean() + 1 > 1 + process.survival(3).sum() + 0.1  # counting requests alike reads visibly higher


@given(
    st.lists(st.floats(0.0, 1.0), min_size=1, max_size=8),
    st.floats(0.0, 2.0),
    st.sampled_from(["rounds", "requests"]),
)
@settings(max_examples=25, deadline=None)
def test_spread_keeps_the_mean_exactly(rates: list[float], sd: float, weight: str) -> None:
    """By quadrature of its own law, independently of the solver's: a fine Riemann sum over the normal shift."""
    process = Heterogeneous(PerPosition(tuple(rates)), sd, weight=weight)
    k = len(rates)
    z = np.linspace(-9, 9, 4001)
    p = np.exp(-0.5 * z * z)
    own = np.cumprod(1 / (1 + np.exp(-np.clip(process.centres(k) + sd * z[:, None], -700, 700))), axis=1)
    share = p / (1 + own.sum(axis=1)) if weight == "rounds" else p
    np.testing.assert_allclose(share @ own / share.sum(), process.survival(k), atol=1e-7)


def test_spread_within_requests_keeps_the_mean_and_remembers() -> None:
    process = Heterogeneous(BASE, 0.0, within_requests_sd=1.0, round_correlation=0.9)
    rng = np.random.default_rng(10)
    accepted, _ = process.verify(process.start(5000, rng), 3, rng, rounds=120)
    own = (accepted[..., None] > np.arange(3)).mean(axis=1)
    assert np.all(np.abs(own.mean(axis=0) - process.survival(3)) <= 4.5 * own.std(axis=0) / np.sqrt(len(own)))
    x = accepted - accepted.mean()
    lag = [float((x[:, : -d or None] * x[:, d:]).mean() / (x * x).mean()) for d in (1, 5)]
    assert lag[0] > lag[1] > 0.02


def test_memory_does_not_depend_on_how_rounds_are_called() -> None:
    process = Heterogeneous(BASE, 0.0, within_requests_sd=1.0, round_correlation=0.9)
    rng = np.random.default_rng(11)
    latent, parts = process.start(5000, rng), []
    for _ in range(40):
        accepted, latent = process.verify(latent, 3, rng)
        parts.append(accepted)
    one_by_one = np.hstack(parts)
    # Exactly: the covariance of two rounds' expected counts, over the bivariate normal of their shifts.
    x, p = np.polynomial.hermite_e.hermegauss(40)
    p = p / p.sum()
    mean = lambda w: np.cumprod(1 / (1 + np.exp(-(process.centres(3) + w[..., None]))), axis=-1).sum(-1)  # noqa: E731
    second = 0.9 * x[:, None] + np.sqrt(1 - 0.81) * x[None, :]
    covariance = float(p @ (mean(x)[:, None] * mean(second)) @ p - (p @ mean(x)) ** 2)
    s = process.survival(3)
    exact = covariance / float(s @ [1, 3, 5] - s.sum() ** 2)
    together, _ = process.verify(process.start(5000, rng), 3, rng, rounds=40)
    for x in (one_by_one, together):
        x = x - x.mean()
        assert float((x[:, :-1] * x[:, 1:]).mean() / (x * x).mean()) == pytest.approx(exact, abs=0.02)


def test_length_spread_is_what_requests_show() -> None:
    process = Heterogeneous(BASE, 0.5)
    rng = np.random.default_rng(12)
    accepted, _ = process.verify(process.start(4000, rng), 3, rng, rounds=1500)
    own = 1 + accepted.mean(axis=1)
    assert own.std() == pytest.approx(process.length_sd(3), rel=0.05)
    assert own.mean() == pytest.approx(process.request_weighted_length(3), abs=0.02)


def test_no_spread_is_the_base() -> None:
    np.testing.assert_allclose(
        Heterogeneous(BASE, 0.0).centres(3), np.log(np.array(BASE.conditional) / (1 - np.array(BASE.conditional)))
    )


def test_replay_follows_one_request_around_its_end() -> None:
    accepted, latent = RECORDED.verify(np.array([[0, 3], [1, 0]]), 3, np.random.default_rng(0), rounds=5)
    np.testing.assert_array_equal(accepted, [[2, 3, 0, 1, 2], [0, 0, 3, 0, 0]])
    np.testing.assert_array_equal(latent, [[0, 0], [1, 2]])


@pytest.mark.parametrize("process", [RECORDED, HISTOGRAMS], ids=ids)
def test_requests_of_equal_output_show_the_pooled_record(process: AcceptanceProcess) -> None:
    counted = by_rounds_to_length(process, 3, tokens=400, n=4000, rng=np.random.default_rng(13))
    np.testing.assert_allclose(counted, process.survival(3), atol=0.015)


@pytest.mark.parametrize("process", [RECORDED, HISTOGRAMS], ids=ids)
def test_a_record_declines_longer_drafts(process: AcceptanceProcess) -> None:
    with pytest.raises(InputError, match="at most 3"):
        process.survival(4)
    with pytest.raises(InputError, match="at most 3"):
        process.verify(process.start(1, np.random.default_rng(0)), 4, np.random.default_rng(0))


def test_by_draft_length_is_exact_at_measured_lengths_and_between_them_in_between() -> None:
    for row in BY_LENGTH.rows:
        np.testing.assert_allclose(BY_LENGTH.survival(row.k), np.cumprod(row.conditional))
    np.testing.assert_allclose(BY_LENGTH.survival(2), np.cumprod([0.65, 0.65]))
    np.testing.assert_allclose(BY_LENGTH.survival(4), np.cumprod([0.55, 0.575, 0.6, 0.5]))
    np.testing.assert_allclose(BY_LENGTH.survival(7), 0.5 ** np.arange(1, 8))


@given(st.integers(0, 20))
def test_beyond_the_evidence_the_last_rate_is_held(k: int) -> None:
    survival = BASE.survival(k)
    np.testing.assert_allclose(survival, Survival(tuple(BASE.survival(3))).survival(k), rtol=1e-12)
    for i in range(3, k):
        assert survival[i] / survival[i - 1] == pytest.approx(0.66)


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: Iid(1.2), "rate: 1.2 is not a probability"),
        (lambda: PerPosition(()), "per_position: is empty"),
        (lambda: Survival((0.4, 0.5)), "survival: rises"),
        (lambda: LengthOnly(2.0, 0), "at_k: 0"),
        (lambda: LengthOnly(9.0, 3), "length: 9"),
        (lambda: ByDraftLength((MeasuredLength((0.5,)), MeasuredLength((0.6,)))), "must rise without repeats"),
        (lambda: MarkovModulated((0.5, 0.6), ((1.0, 0.0),)), "square matrix"),
        (lambda: MarkovModulated((0.5, 0.6), ((1.0, 0.0), (0.0, 1.0))), "several stationary laws"),
        (lambda: Heterogeneous(BASE, float("nan")), "between_requests_sd: nan"),
        (lambda: Heterogeneous(BASE, 0.5, round_correlation=0.5), "has no effect without within_requests_sd"),
        (lambda: Recorded(((4,),), recorded_k=3), "outside 0..3"),
        (lambda: Iid(0.5).survival(-1), "-1 is not a draft length"),
    ],
)
def test_impossible_processes_are_refused(make, says: str) -> None:
    with pytest.raises(InputError) as wrong:
        make()
    assert says in str(wrong.value)
