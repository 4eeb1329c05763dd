"""Lossy rules: the law each one emits, and what it costs in total variation."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from specsim.verification import drafting as draw
from specsim.verification import exact_law, random_case, tv
from specsim.verification.coins import law_of
from specsim.verification.lossy import (
    beam_layer_law,
    cactus_law,
    cascade_law,
    divergences,
    least_distortion,
    one_token,
    reward_law,
    superset_distortion,
)
from specsim.verification.strategies import pairs

F = Fraction


def first(rule, p, q, **options):
    """Law of the first token, and the probability that the draft was accepted."""
    out = [F(0)] * len(p)
    accepted = F(0)
    for string, mass in exact_law(rule, one_token(p, q), **options).items():
        out[string[0]] += mass
        accepted += mass * (len(string) == 2)
    return out, accepted


def off(p, out):
    return sum(max(a - b, 0) for a, b in zip(out, p, strict=True))


def shared(p, q):
    return sum(min(a, b) for a, b in zip(p, q, strict=True))


@settings(max_examples=60, deadline=None)
@given(pairs(vocab=3))
def test_prices_are_exact(pair) -> None:
    p, q = pair
    apart = 1 - shared(p, q)
    factor, weight = F(3, 4), F(2, 3)
    out, _ = first("lenience", p, q, factor=factor)
    assert off(p, out) == sum(min(b, a / factor) for a, b in zip(p, q, strict=True)) - shared(p, q)
    assert all(o <= a / factor for o, a in zip(out, p, strict=True))
    out, accepted = first("ensemble", p, q, weight=weight)
    assert off(p, out) == (1 - weight) * apart
    assert accepted == 1 - weight * apart
    out, _ = first("fuzzy", p, q, threshold=0.25)
    assert off(p, out) == (apart if apart <= F(1, 4) else 0)
    good = [True, False, True]
    out, _ = first("judge", p, q, good=good)
    assert off(p, out) == sum(max(b - a, 0) for a, b, g in zip(p, q, good, strict=True) if g)


@settings(max_examples=60, deadline=None)
@given(pairs(vocab=3), pairs(vocab=3))
def test_superset_lemma(pair, other) -> None:
    """Any acceptance above the standard one with the standard residual costs exactly what it accepts more."""
    p, q = pair
    least = [min(1, a / b) if b else 1 for a, b in zip(p, q, strict=True)]
    accept = [low + (1 - low) * more for low, more in zip(least, other[0], strict=True)]

    def rule(p, q, d, coins):
        from specsim.verification.chains import Stop, excess

        if not coins.accept(0).below(accept[d[0]]):
            return Stop((), excess(p[0], q[0]))
        return Stop(d, p[1])

    out, accepted = first(rule, p, q)
    assert off(p, out) == superset_distortion(p, q, accept) == accepted - shared(p, q)


@settings(max_examples=60, deadline=None)
@given(pairs(vocab=3))
def test_no_rule_is_below_the_line(pair) -> None:
    p, q = pair
    settings_of = {
        "lenience": {"factor": F(1, 2)},
        "ensemble": {"weight": F(1, 3)},
        "judge": {"good": [True, False, False]},
        "cactus": {"delta": 0.1},
        "fuzzy": {"threshold": 0.4},
        "token": {},
    }
    for rule, options in settings_of.items():
        out, accepted = first(rule, p, q, **options)
        assert off(p, out) >= least_distortion(p, q, 1 - accepted), rule


def test_cactus_and_reward_have_the_laws_they_say() -> None:
    rng = np.random.default_rng(0)
    for _ in range(30):
        case = random_case(rng, vocab=3, gamma=0)
        p, q = case.target[()], case.draft[()]
        assert first("cactus", p, q, delta=0.05)[0] == cactus_law(p, q, 0.05)
        keep = [F(int(x), 4) for x in rng.integers(0, 5, 3)]
        out, _ = first("reward", p, q, keep=keep)
        assert out == reward_law(p, q, keep)
        assert off(p, out) <= sum(a * b for a, b in zip(q, keep, strict=True))


def test_typical_acceptance_is_lossy_even_for_a_perfect_drafter() -> None:
    p = (F(1, 2), F(3, 10), F(1, 5))
    out, _ = first("typical", p, p, epsilon=0.25, delta=1.0)
    assert out == [F(7, 10), F(3, 10), 0]


def test_adaptive_stops_drafting_where_the_drafter_is_unsure() -> None:
    p, q = (F(1, 2), F(1, 2)), (F(1, 2), F(1, 2))
    law = exact_law("adaptive", one_token(p, q), stop_entropy=0.5, accept_distance=0.5)
    assert {len(string) for string in law} == {1}
    law = exact_law("adaptive", one_token(p, q), stop_entropy=0.7, accept_distance=0.5)
    assert {len(string) for string in law} == {2}


def test_adaptive_costs_the_whole_distance_where_it_trusts_the_draft() -> None:
    rng = np.random.default_rng(1)
    for _ in range(30):
        case = random_case(rng, vocab=3, gamma=0)
        p, q = case.target[()], case.draft[()]
        near = divergences(p, q)["js"] <= 0.3**2
        out, _ = first("adaptive", p, q, stop_entropy=9.0, accept_distance=0.3)
        assert off(p, out) == (1 - shared(p, q) if near else 0)


def test_big_little_falls_back_and_rolls_back() -> None:
    p, q = (F(1, 10), F(9, 10)), (F(3, 5), F(2, 5))
    assert exact_law("big_little", one_token(p, q), fallback=0.7, rollback=1.0) == {(0,): p[0], (1,): p[1]}
    law = exact_law("big_little", one_token(p, q), fallback=0.5, rollback=1.0)
    assert law[(0,)] == q[0] * p[0]  # token 0 has -log p = 2.3 > 1: rolled back, and drawn from p
    assert sum(mass for string, mass in law.items() if len(string) == 2) == q[1]


def test_biased_argmax_without_bias_is_greedy_and_with_much_bias_keeps_the_draft() -> None:
    rng = np.random.default_rng(2)
    for _ in range(20):
        case = random_case(rng, vocab=3, gamma=2, denominator=97)
        assert exact_law("biased_argmax", case, bias=F(0)) == exact_law("greedy", case)
        assert {len(s) for s in exact_law("biased_argmax", case, bias=F(99, 100))} == {3}


def test_overruled_rejections_reduce_to_the_token_rule() -> None:
    rng = np.random.default_rng(3)
    for _ in range(10):
        case = random_case(rng, vocab=3, gamma=2)
        assert exact_law("fly", case, entropy_above=9.0, window=1) == exact_law("token", case)
        assert exact_law("fly", case, entropy_above=0.0, window=5) == exact_law("token", case)
    assert exact_law("fly", case, entropy_above=0.0, window=1) != exact_law("token", case)


def test_cascades_of_lossless_rules_are_lossless() -> None:
    rng = np.random.default_rng(4)
    for _ in range(20):
        p, middle, drafts = (random_case(rng, vocab=3, gamma=0, zeros=0.2).target[()] for _ in range(3))
        assert tuple(cascade_law(p, middle, drafts)) == p


@pytest.mark.parametrize(("beams", "candidates"), [(1, 1), (1, 3), (2, 1), (2, 2), (2, 3), (3, 4)])
def test_beams_of_a_layer_are_drawn_from_the_target_without_replacement(beams: int, candidates: int) -> None:
    rng = np.random.default_rng(5)
    for zeros in (0.0, 0.3):
        case = random_case(rng, vocab=4, gamma=0, zeros=zeros)
        p, q = case.target[()], case.draft[()]
        law = beam_layer_law(p, q, beams=beams, candidates=candidates)
        assert law == law_of(lambda coins, p=p: draw.without_replacement(p, beams, coins))


def test_two_stacked_fuzzy_levels_are_bounded_by_their_thresholds() -> None:
    rng = np.random.default_rng(6)
    for _ in range(30):
        p, middle, drafts = (random_case(rng, vocab=3, gamma=0).target[()] for _ in range(3))
        lower, _ = first("fuzzy", middle, drafts, threshold=0.2)
        upper, _ = first("fuzzy", p, lower, threshold=0.3)
        assert tv(dict(enumerate(upper)), dict(enumerate(p))) <= F(1, 2)
