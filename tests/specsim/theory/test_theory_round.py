"""Closed forms of a round equal enumeration, brute force, or Monte Carlo with its error stated."""

from __future__ import annotations

import functools
from fractions import Fraction
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance.modulated import MarkovModulated
from specsim.errors import InputError
from specsim.theory import iid, speedup, stopping, tokens


@given(st.fractions(0, 1), st.integers(0, 12))
def test_iid_tokens_are_the_geometric_sum_in_fractions(rate: Fraction, k: int) -> None:
    exact = sum((rate**i for i in range(k + 1)), Fraction(0))
    assert float(tokens.expected_tokens_iid(float(rate), k)) == pytest.approx(float(exact), rel=1e-12)


@pytest.mark.parametrize("rate", [1 - 1e-9, 1 - 1e-15, 1.0, 0.0, 1e-300])
def test_iid_tokens_at_the_edges(rate: float) -> None:
    assert float(tokens.expected_tokens_iid(rate, 5)) == pytest.approx(sum(rate**i for i in range(6)), rel=1e-12)


@given(st.fractions(0, 1), st.integers(0, 5), st.integers(1, 12))
def test_iid_rounds_by_conditioning_on_the_first_one(rate: Fraction, k: int, wanted: int) -> None:
    @functools.cache
    def rounds(left: int) -> Fraction:
        if left <= 0:
            return Fraction(0)
        failing = sum(((1 - rate) * rate**i * rounds(left - i - 1) for i in range(k)), Fraction(0))
        return 1 + failing + rate**k * rounds(left - k - 1)

    assert tokens.expected_rounds_iid(float(rate), k, wanted) == pytest.approx(float(rounds(wanted)), rel=1e-12)


def test_chain_tokens_by_k_accumulate() -> None:
    survival = np.array([[0.7, 0.4, 0.1], [0.5, 0.5, 0.5]])
    by_k = tokens.expected_tokens_by_k(survival)
    for k in range(4):
        np.testing.assert_allclose(by_k[:, k], tokens.expected_tokens(survival[:, :k]))


def test_beta_requests_by_fractions_and_numbers_quoted_in_the_literature() -> None:
    a, b = Fraction(7, 5), Fraction(3, 5)
    moments = [Fraction(1)]
    for j in range(5):
        moments.append(moments[-1] * (a + j) / (a + b + j))
    assert tokens.expected_tokens_beta(1.4, 0.6, 5) == pytest.approx(float(sum(moments)), rel=1e-14)
    assert tokens.expected_tokens_beta(1.4, 0.6, 5) > float(tokens.expected_tokens_iid(0.7, 5))


def test_modulated_tokens_by_enumerating_hidden_paths() -> None:
    """Two states, K = 2: walk every accept/reject and state path in fractions, and find the fixed law by iteration."""
    rate = (Fraction(9, 10), Fraction(3, 10))
    move = ((Fraction(4, 5), Fraction(1, 5)), (Fraction(1, 2), Fraction(1, 2)))
    k = 2

    def round_from(state: int) -> tuple[Fraction, list[Fraction]]:
        mean, after = Fraction(0), [Fraction(0)] * 2

        def walk(s: int, weight: Fraction, accepted: int) -> None:
            nonlocal mean
            if accepted < k:
                for nxt in (0, 1):
                    walk(nxt, weight * rate[s] * move[s][nxt], accepted + 1)
                ends = 1 - rate[s]
            else:
                ends = Fraction(1)
            mean += weight * ends * (accepted + 1)
            for nxt in (0, 1):
                after[nxt] += weight * ends * move[s][nxt]

        walk(state, Fraction(1), 0)
        return mean, after

    (mean0, after0), (mean1, after1) = round_from(0), round_from(1)
    pi0 = after1[0] / (after0[1] + after1[0])
    exact = pi0 * mean0 + (1 - pi0) * mean1
    rates, matrix = [float(x) for x in rate], [[float(x) for x in row] for row in move]
    assert tokens.expected_tokens_modulated(rates, matrix, k) == pytest.approx(float(exact), rel=1e-13)
    process = MarkovModulated(tuple(rates), tuple(tuple(row) for row in matrix))
    assert 1 + process.survival(k).sum() == pytest.approx(float(exact), rel=1e-13)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=3), st.integers(1, 3))
@settings(max_examples=20, deadline=None)
def test_lockstep_by_enumerating_every_row(conditional: list[float], batch: int) -> None:
    survival = np.cumprod(conditional)
    p = -np.diff(np.concatenate([[1.0], survival, [0.0]]))
    shortest = longest = 0.0
    for counts in product(range(len(p)), repeat=batch):
        weight = float(np.prod([p[c] for c in counts]))
        shortest += weight * (1 + min(counts))
        longest += weight * (1 + max(counts))
    low, high = tokens.expected_tokens_lockstep(survival, batch)
    assert low == pytest.approx(shortest, abs=1e-12)
    assert high == pytest.approx(longest, abs=1e-12)


def test_best_k_takes_the_smaller_of_equals_and_zero_where_nothing_pays() -> None:
    assert speedup.best_k([1.0, 2.0, 3.0], [1.0, 2.0, 3.0]) == 0
    assert speedup.best_k([1.0, 2.0, 3.0], [1.0, 1.5, 2.0]) == 2
    grid = speedup.best_k(np.array([1.0, 1.8])[:, None, None], np.stack([np.ones((64, 16)), np.full((64, 16), 1.5)]))
    assert grid.shape == (64, 16)
    assert np.all(grid == 1)


@given(st.floats(0.01, 0.99), st.integers(1, 12), st.floats(0.1, 1.0), st.floats(1.0, 6.0))
def test_break_even_is_where_speedup_is_one(rate: float, k: int, plain_s: float, ratio: float) -> None:
    length = float(speedup.break_even_length(ratio * plain_s, plain_s, k=k))
    needed = float(speedup.break_even_rate(ratio * plain_s, plain_s, k=k))
    if ratio > k + 1:
        assert np.isinf(length)
        assert np.isinf(needed)
        return
    assert float(speedup.speedup(length, ratio * plain_s, plain_s)) == pytest.approx(1.0)
    assert float(tokens.expected_tokens_iid(needed, k)) == pytest.approx(length, rel=1e-9)
    gain = float(speedup.speedup(tokens.expected_tokens_iid(rate, k), ratio * plain_s, plain_s))
    if abs(rate - needed) > 1e-6:
        assert (gain > 1) == (rate > needed)


def test_a_round_cheaper_than_a_step_pays_at_any_rate() -> None:
    np.testing.assert_array_equal(speedup.break_even_rate([0.9, 1.0], 1.0, k=3), [0.0, 0.0])


@given(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=10), st.floats(0.01, 1.0), st.floats(0.5, 2.0))
def test_the_marginal_rule_finds_the_best_length(conditional: list[float], extra: float, start: float) -> None:
    survival = np.cumprod(conditional)
    seconds = start + extra * np.arange(len(survival) + 1)
    rates = tokens.expected_tokens_by_k(survival) / seconds
    stop = stopping.marginal_k(survival, lambda k: float(seconds[k]))
    assert rates[stop] == pytest.approx(rates.max(), rel=1e-12)
    total = tokens.expected_tokens_by_k(survival)
    for k in range(len(survival)):
        if rates[k + 1] > rates[k] * (1 + 1e-12):
            assert speedup.extension_pays(survival[k], extra, total[k], seconds[k])


@given(st.floats(0.02, 0.99), st.floats(0.005, 1.5), st.floats(0.6, 3.0))
@settings(max_examples=200)
def test_best_k_by_lambert_is_brute_force(rate: float, marginal: float, fixed: float) -> None:
    k = np.arange(1, 400)
    speeds = np.concatenate([[1.0], tokens.expected_tokens_iid(rate, k) / (fixed + marginal * k)])
    best = iid.best_k_iid(rate, marginal, fixed_cost=fixed, max_k=399)
    assert speeds[best] >= speeds.max() * (1 - 1e-12)


@pytest.mark.parametrize(
    ("rate", "cost", "continuous", "integer"), [(0.8, 0.05, 7.857, 8), (0.9, 0.1, 9.646, 10), (0.3, 0.5, 0.03, 0)]
)
def test_worked_optima(rate: float, cost: float, continuous: float, integer: int) -> None:
    assert iid.best_k_iid_continuous(rate, cost) == pytest.approx(continuous, abs=6e-3)
    assert iid.best_k_iid(rate, cost) == integer


@pytest.mark.parametrize("cost", [1e-6, 1e-12])
def test_the_optimum_survives_costs_next_to_nothing(cost: float) -> None:
    """Its own equation a^(K+1) (1 + A (K + f/m)) = 1, in logarithms: e^-B underflows here."""
    k = iid.best_k_iid_continuous(0.9, cost)
    a = -np.log(0.9)
    assert -a * (k + 1) + np.log1p(a * (k + 1 / cost)) == pytest.approx(0.0, abs=1e-9)


def test_leviathan_reduces_to_its_parts() -> None:
    assert float(iid.leviathan_speedup(0.8, 5, 0.05)) == pytest.approx((1 - 0.8**6) / (0.2 * 1.25))
    assert float(iid.leviathan_operations(0.8, 5, 0.05)) == pytest.approx(6.25 / ((1 - 0.8**6) / 0.2))
    assert iid.best_k_iid(0.0, 0.1) == 0
    assert iid.best_k_iid(1.0, 0.1, max_k=7) == 7


def test_optimal_stopping_equals_the_dynamic_program() -> None:
    """Markov confidence: a policy-free backward induction on (position, state) must find the threshold's rate."""
    rng = np.random.default_rng(0)
    rates, move, depth, n = np.array([0.95, 0.5]), np.array([[0.9, 0.1], [0.3, 0.7]]), 12, 40_000
    state = rng.integers(0, 2, n)
    paths = np.empty((n, depth))
    alive = np.ones(n)
    for i in range(depth):
        alive = alive * rates[state]
        paths[:, i] = alive
        state = (rng.random(n) < move[state, 1]).astype(int)
    round_s, marginal_s = 1.0, 0.15
    best = stopping.optimal_stopping_rate(paths, round_s=round_s, marginal_s=marginal_s)

    def value(rho: float) -> float:
        """E[tokens - rho time] of the best stop: survival scales linearly, so induct on (position, state, survival)."""

        @functools.cache
        def gain(i: int, survival: float, s: int) -> float:
            if i == depth:
                return 0.0
            reached = survival * float(rates[s])
            go = sum(float(move[s, t]) * gain(i + 1, round(reached, 12), t) for t in (0, 1))
            return max(0.0, reached - rho * marginal_s + go)

        return 1.0 - rho * round_s + 0.5 * (gain(0, 1.0, 0) + gain(0, 1.0, 1))

    low, high = 0.5, 10.0
    for _ in range(40):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if value(middle) > 0 else (low, middle)
    assert best == pytest.approx(low, rel=0.01)  # 40,000 sampled rounds: standard error below 0.4 %
    assert best > stopping.best_fixed_rate(paths, round_s=round_s, marginal_s=marginal_s)[1]
    threshold = stopping.stopping_threshold(best, marginal_s)
    drafted = paths > threshold
    rate = (1 + (paths * drafted).sum(1).mean()) / (round_s + marginal_s * drafted.sum(1).mean())
    assert rate == pytest.approx(best, rel=1e-12)


@pytest.mark.parametrize(
    "call",
    [
        lambda: speedup.speedup(2.0, 0.0, 1.0),
        lambda: speedup.speedup(2.0, 1.0, float("nan")),
        lambda: iid.best_k_iid_continuous(1.0, 0.1),
        lambda: iid.best_k_iid_continuous(0.5, 0.0),
        lambda: tokens.expected_tokens_beta(0.0, 1.0, 3),
        lambda: stopping.optimal_stopping_rate([[0.5, 0.6]], round_s=1.0, marginal_s=0.1),
    ],
)
def test_impossible_inputs_are_refused(call) -> None:
    with pytest.raises(InputError):
        call()
