"""Load, goodput, trees, cascades and overlap: against brute force and direct simulation."""

from __future__ import annotations

import functools
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.theory import serving, structures
from specsim.theory.tokens import expected_tokens, expected_tokens_iid

LOAD = {"tokens_per_round": 2.2, "output_tokens": 200.0, "prefill_s": 0.03, "max_batch": 128}


def round_s(batch):
    return 0.008 + 1e-4 * batch


@given(st.floats(0.1, 60.0))
def test_steady_load_is_littles_law_and_ends_at_the_sustainable_rate(rate: float) -> None:
    limit = serving.sustainable_rate(round_s=round_s, **LOAD)
    load = serving.steady_load(rate, round_s=round_s, **LOAD)
    if rate > limit * 1.0001:
        assert not load.stable
    elif rate < limit * 0.9999:
        assert load.stable
        seconds = round_s(max(load.concurrency, 1.0)) / (1 - rate * 0.03)
        assert load.concurrency == pytest.approx(rate * 199 / 2.2 * seconds, rel=1e-3)
        assert load.seconds_per_token == pytest.approx(seconds / 2.2, rel=1e-3)


def test_a_bound_on_seconds_per_token_costs_rate() -> None:
    free = serving.sustainable_rate(round_s=round_s, **LOAD)
    bound = serving.sustainable_rate(round_s=round_s, **LOAD, max_seconds_per_token=0.01)
    assert 0 < bound < free
    assert serving.steady_load(bound * 0.999, round_s=round_s, **LOAD).seconds_per_token <= 0.0101
    assert serving.sustainable_rate(round_s=round_s, **LOAD, max_seconds_per_token=1e-4) == 0.0


def test_steady_load_equals_a_simulated_batch() -> None:
    """Poisson arrivals, geometric stays, no prefill: a small event loop, error of the mean about 3 %."""
    rng = np.random.default_rng(1)
    rate, rounds = 12.0, 90.0
    clock, active, area, due = 0.0, 0, 0.0, rng.exponential(1 / rate)
    for _ in range(300_000):
        if active == 0:
            clock, active, due = due, 1, due + rng.exponential(1 / rate)
        step = round_s(active)
        area += active * step
        clock += step
        active -= rng.binomial(active, 1 / rounds)
        while due <= clock:
            active, due = active + 1, due + rng.exponential(1 / rate)
    load = serving.steady_load(
        rate, round_s=round_s, tokens_per_round=1.0, output_tokens=rounds + 1, prefill_s=0.0, max_batch=500
    )
    assert load.concurrency == pytest.approx(area / clock, rel=0.05)


def test_pollaczek_khinchine_knows_mm1_and_md1() -> None:
    assert serving.pollaczek_khinchine_wait(0.9, 1.0, 1.0) == pytest.approx(9.0)
    assert serving.pollaczek_khinchine_wait(0.9, 1.0, 0.0) == pytest.approx(4.5)
    assert serving.pollaczek_khinchine_wait(1.0, 1.0, 0.0) == np.inf


@given(st.lists(st.lists(st.floats(0, 1), min_size=3, max_size=3), min_size=1, max_size=3), st.floats(0.01, 0.5))
@settings(max_examples=30, deadline=None)
def test_goodput_choice_is_brute_force(conditional: list[list[float]], cost: float) -> None:
    survival = np.cumprod(conditional, axis=1)

    def batch_s(drafted: int, longest: int) -> float:
        return 1.0 + cost * drafted + 0.2 * longest

    def value(lengths: tuple[int, ...]) -> float:
        total = [float(expected_tokens(row[:k])) for row, k in zip(survival, lengths, strict=True)]
        return float(serving.goodput(total, batch_s(sum(lengths), max(lengths))))

    best = max(value(lengths) for lengths in product(range(4), repeat=len(survival)))
    chosen, reached = serving.best_k_by_goodput(survival, batch_s, max_k=3)
    assert reached == pytest.approx(best, rel=1e-12)
    assert value(tuple(int(k) for k in chosen)) == pytest.approx(best, rel=1e-12)


def test_a_chain_is_a_tree_and_a_tree_is_enumerated() -> None:
    assert structures.tree_expected_tokens([-1, 0, 1], [0.7, 0.6, 0.5]) == pytest.approx(1 + 0.7 + 0.42 + 0.21)
    # Two children of the root, two of the first: the accepted path is one of five.
    tokens = 1 * (1 - 0.5 - 0.3) + 2 * (0.5 * (1 - 0.4 - 0.2) + 0.3) + 3 * 0.5 * 0.6
    assert structures.tree_expected_tokens([-1, -1, 0, 0], [0.5, 0.3, 0.4, 0.2]) == pytest.approx(tokens)


@pytest.mark.parametrize(("nodes", "depth"), [(1, 3), (4, 2), (7, 3), (12, 4)])
def test_the_best_tree_equals_sequoias_recursion(nodes: int, depth: int) -> None:
    """T[m, l]: best tokens of a subtree of m nodes and l levels; forests of children by rank, exhaustively."""

    rank = (0.5, 0.25, 0.1)

    @functools.cache
    def subtree(m: int, levels: int) -> float:
        return 1.0 + forest(m - 1, levels - 1, 0)

    @functools.cache
    def forest(m: int, levels: int, first: int) -> float:
        if m == 0 or levels == 0 or first == len(rank):
            return 0.0
        skip = forest(m, levels, first + 1)
        return max(
            [skip, *(rank[first] * subtree(y, levels) + forest(m - y, levels, first + 1) for y in range(1, m + 1))]
        )

    assert structures.best_tree_tokens(rank, nodes, depth) == pytest.approx(subtree(nodes + 1, depth + 1), rel=1e-12)


def test_cascade_of_two_is_speculation_and_its_lengths_are_brute_force() -> None:
    times, rates = (0.1, 1.0, 6.0), (0.8, 0.7)
    two = structures.cascade_seconds_per_token(times[:2], rates[:1], (4,))
    assert two[-1] == pytest.approx((4 * 0.1 + 1.0) / float(expected_tokens_iid(0.8, 4)))
    best = min(
        float(structures.cascade_seconds_per_token(times, rates, (a, b))[-1]) for a in range(13) for b in range(13)
    )
    lengths, seconds = structures.best_cascade(times, rates, max_k=12)
    assert seconds == pytest.approx(best, rel=1e-12)
    assert structures.cascade_seconds_per_token(times, rates, lengths)[-1] == pytest.approx(seconds)


def test_dsi_counts_a_draft_step_for_each_accepted_token() -> None:
    rng = np.random.default_rng(2)
    accepted = rng.random((100_000, 19)) < 0.7
    seconds = np.where(accepted, 0.1, 1.0).sum(axis=1) + 1.0
    exact = structures.dsi_expected_seconds(0.7, 20, draft_s=0.1, target_s=1.0)
    assert exact == pytest.approx(seconds.mean(), abs=5 * seconds.std() / np.sqrt(len(seconds)))
    assert exact < 20.0


@pytest.mark.parametrize(("rate", "window", "draft_s"), [(0.8, 4, 0.2), (0.5, 3, 0.5), (1.0, 5, 0.1), (0.0, 2, 0.1)])
def test_overlap_equals_its_renewal_simulation(rate: float, window: int, draft_s: float) -> None:
    rng = np.random.default_rng(3)
    tokens, clock, rounds = 0.0, 0.0, 100_000
    run = (rng.random((rounds, window)) < rate).cumprod(axis=1).sum(axis=1)
    for accepted in run:
        clock += max(window * draft_s, 1.0)
        if accepted == window:
            tokens += window
        else:
            tokens += accepted + 1
            clock += window * draft_s
    exact = structures.overlapped_tokens_per_s(rate, window, draft_s=draft_s, target_s=1.0)
    assert exact == pytest.approx(tokens / clock, rel=0.01)


@pytest.mark.parametrize(
    "call",
    [
        lambda: structures.tree_expected_tokens([0], [0.5]),
        lambda: structures.tree_expected_tokens([-1, -1], [0.6, 0.6]),
        lambda: structures.cascade_seconds_per_token([1.0], [0.5], [1]),
        lambda: structures.dsi_expected_seconds(0.5, 0, draft_s=0.1, target_s=1.0),
        lambda: serving.steady_load(1.0, round_s=round_s, **{**LOAD, "tokens_per_round": 0.0}),
        lambda: serving.best_k_by_goodput([[0.2, 0.4]], lambda d, k: 1.0, max_k=2),
    ],
)
def test_impossible_structures_are_refused(call) -> None:
    with pytest.raises(InputError):
        call()
