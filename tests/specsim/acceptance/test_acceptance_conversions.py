"""Conversions are exact: there and back, and against Fractions and enumeration."""

from __future__ import annotations

from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.acceptance import conversions as c
from specsim.errors import InputError

rates = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=16)
positive = st.lists(st.floats(0.01, 1.0), min_size=1, max_size=16)


@given(positive)
def test_conditional_to_survival_and_back(conditional: list[float]) -> None:
    there = c.survival_from_conditional(conditional)
    np.testing.assert_allclose(c.conditional_from_survival(there), conditional, rtol=1e-12)


@given(rates)
def test_survival_to_conditional_and_back_also_with_dead_positions(conditional: list[float]) -> None:
    survival = c.survival_from_conditional(conditional)
    again = c.survival_from_conditional(c.conditional_from_survival(survival))
    np.testing.assert_allclose(again, survival, rtol=1e-12, atol=1e-300)


@given(rates)
def test_length_rate_and_back(conditional: list[float]) -> None:
    survival, k = c.survival_from_conditional(conditional), len(conditional)
    length = float(c.length_from_survival(survival))
    assert 1.0 <= length <= k + 1
    rate = float(c.accepted_rate_from_survival(survival))
    assert float(c.length_from_accepted_rate(rate, k)) == pytest.approx(length, rel=1e-12)
    assert float(c.accepted_rate_from_length(length, k)) == pytest.approx(rate, rel=1e-9, abs=1e-12)


@given(st.floats(0.0, 1.0), st.integers(1, 32))
def test_iid_rate_to_length_and_back(rate: float, k: int) -> None:
    length = c.length_from_iid_rate(rate, k)
    assert float(length) == pytest.approx(float(c.length_from_survival(np.full(k, rate).cumprod())), rel=1e-12)
    assert float(c.iid_rate_from_length(length, k)) == pytest.approx(rate, abs=2e-12)


def test_iid_rate_broadcasts_over_lengths() -> None:
    lengths = np.linspace(1.0, 4.0, 31)
    np.testing.assert_allclose(c.length_from_iid_rate(c.iid_rate_from_length(lengths, 3), 3), lengths, rtol=1e-13)


def test_expected_count_by_enumerating_every_outcome_in_fractions() -> None:
    """P(accepted = j) and the length, from the 2^K outcomes of independent coins that stop at the first failure."""
    conditional = [Fraction(2, 3), Fraction(1, 2), Fraction(3, 5), Fraction(1, 4)]
    exact = [Fraction(0)] * 5
    for coins in product((False, True), repeat=4):
        weight = Fraction(1)
        for coin, rate in zip(coins, conditional, strict=True):
            weight *= rate if coin else 1 - rate
        exact[next((i for i, coin in enumerate(coins) if not coin), 4)] += weight
    survival = c.survival_from_conditional([float(rate) for rate in conditional])
    np.testing.assert_allclose(c.accepted_probabilities(survival), [float(p) for p in exact], rtol=1e-14)
    length = 1 + sum(j * p for j, p in enumerate(exact))
    assert float(c.length_from_survival(survival)) == pytest.approx(float(length), rel=1e-15)


@given(st.lists(st.integers(0, 1000), min_size=2, max_size=12).filter(lambda h: sum(h) > 0))
def test_histogram_to_survival_and_back(histogram: list[int]) -> None:
    survival = c.survival_from_histogram(histogram)
    np.testing.assert_allclose(c.accepted_probabilities(survival) * sum(histogram), histogram, atol=1e-9)


@given(st.integers(1, 12), st.floats(0.0, 1.0))
def test_synthetic_schedule_has_the_length_and_the_least_variance(k: int, share: float) -> None:
    length = 1.0 + share * k
    schedule = c.minimum_variance_survival(length, k)
    assert float(c.length_from_survival(schedule)) == pytest.approx(length)
    # An integer-valued count with mean m cannot vary less than frac(m) (1 - frac(m)).
    p, j = c.accepted_probabilities(schedule), np.arange(k + 1)
    fraction = (length - 1.0) % 1.0
    assert float(p @ j**2 - (p @ j) ** 2) == pytest.approx(fraction * (1 - fraction), abs=1e-9)


def test_token_weighting_is_the_harmonic_mean_of_request_lengths_by_tokens() -> None:
    emitted, rounds = [300.0, 100.0], [100.0, 80.0]
    assert c.token_weighted_length(emitted, rounds) == pytest.approx(400 / 180)
    assert c.token_weighted_length(emitted, rounds) == pytest.approx(400 / (300 / 3.0 + 100 / 1.25))
    assert c.request_weighted_length(emitted, rounds) == pytest.approx((3.0 + 1.25) / 2)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: c.survival_from_conditional([0.5, 1.5]), "position 2: 1.5 is not a probability"),
        (lambda: c.survival_from_conditional([0.5, float("nan")]), "nan is not a probability"),
        (lambda: c.length_from_survival([0.5, 0.6]), "rises from 0.5 to 0.6 at position 2"),
        (lambda: c.iid_rate_from_length(4.5, 3), "lies in 1..4"),
        (lambda: c.iid_rate_from_length(0.5, 3), "add 1 if yours counts accepted tokens only"),
        (lambda: c.iid_rate_from_length(1.0, 0), "says nothing"),
        (lambda: c.accepted_rate_from_length(1.0, 0), "at least one drafted"),
        (lambda: c.survival_from_histogram([0, 0]), "has no rounds"),
        (lambda: c.token_weighted_length([1.0], [0.0]), "rounds > 0"),
    ],
)
def test_mistakes_name_value_and_remedy(call, says: str) -> None:
    with pytest.raises(InputError) as wrong:
        call()
    assert says in str(wrong.value)
