"""Rules of one chain: exact laws, equalities between rules, formulas, golden values."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from specsim.errors import InputError
from specsim.verification import (
    Case,
    chains,
    complete,
    distortion,
    exact_law,
    expected_tokens,
    is_lossless,
    random_case,
    target_law,
    tv,
)
from specsim.verification.case import innovations
from specsim.verification.exact import LOSSLESS_CHAINS
from specsim.verification.strategies import cases, pairs

F = Fraction


def random_cases(n: int, *, seed: int = 0, vocab: int = 3, gamma: int = 2) -> list[Case]:
    rng = np.random.default_rng(seed)
    return [
        random_case(
            rng, vocab=int(rng.integers(2, vocab + 1)), gamma=int(rng.integers(0, gamma + 1)), zeros=0.35 * (i % 2)
        )
        for i in range(n)
    ]


CASES = random_cases(40)


@pytest.mark.parametrize("rule", LOSSLESS_CHAINS)
def test_completed_law_is_the_targets(rule: str) -> None:
    for case in CASES:
        law = exact_law(rule, case)
        assert sum(law.values()) == 1
        assert is_lossless(law, case)
        for length in range(1, case.gamma + 2):
            assert complete(law, case, length) == target_law(case, length)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_token_and_block_are_lossless_on_every_family(case: Case) -> None:
    for rule in ("token", "block"):
        assert is_lossless(exact_law(rule, case), case)


@settings(max_examples=60, deadline=None)
@given(cases())
def test_innovations_vanish_exactly_when_the_completed_law_is_right(case: Case) -> None:
    """The theorem, both ways, on right rules and on a wrong one."""

    def wrong(p, q, d, coins):
        stop = chains.token(p, q, d, coins)
        return chains.Stop(stop.tokens, p[len(stop.tokens)])

    for rule in ("token", wrong):
        law = exact_law(rule, case)
        same = all(complete(law, case, length) == target_law(case, length) for length in range(1, case.gamma + 2))
        assert same == all(excess == 0 for _, excess in innovations(law, case))


def test_direct_laws_are_the_enumerated_ones() -> None:
    for case in CASES:
        assert chains.token_law(case) == chains.chain_law(chains.token, case)
        assert chains.block_law(case) == chains.chain_law(chains.block, case)


def prefixes_of_drafts(case: Case):
    return (s for length in range(case.gamma + 1) for s in itertools.product(range(case.vocab), repeat=length))


def path(case: Case, string: tuple[int, ...], weigh) -> F:
    mass = F(1)
    for i, x in enumerate(string):
        mass *= weigh(case.target[string[:i]][x], case.draft[string[:i]][x])
    return mass


def test_expected_tokens_of_token_verification() -> None:
    for case in CASES:
        formula = sum(path(case, s, min) for s in prefixes_of_drafts(case))
        assert expected_tokens(exact_law("token", case)) == formula


def test_expected_tokens_of_block_verification() -> None:
    for case in CASES:
        total = F(1)
        for string in prefixes_of_drafts(case):
            drawn = path(case, string, lambda p, q: q)
            if string and drawn:
                rows = case.rows(string)
                total += drawn * chains.survival_weights(*rows, string)[-1]
        assert expected_tokens(exact_law("block", case)) == total


def test_expected_tokens_of_matching_and_of_certain_drafts() -> None:
    for case in CASES:
        formula = sum(path(case, s, lambda p, q: p * q) for s in prefixes_of_drafts(case))
        assert expected_tokens(exact_law("sample_and_match", case)) == formula
        assert exact_law("sample_and_match", case) == exact_law("point_mass", case)


def test_block_never_accepts_less_than_token() -> None:
    for case in CASES:
        block, token = exact_law("block", case), exact_law("token", case)
        assert expected_tokens(block) >= expected_tokens(token)
        if case.gamma <= 1:
            assert block == token


def test_block_verification_of_the_papers_toy() -> None:
    p, q = (F(1, 3), F(2, 3)), (F(2, 3), F(1, 3))
    strings = [s for n in range(3) for s in itertools.product(range(2), repeat=n)]
    toy = Case(dict.fromkeys(strings, p), dict.fromkeys(strings, q), 2)
    assert expected_tokens(exact_law("token", toy)) - 1 == F(10, 9)
    assert expected_tokens(exact_law("block", toy)) - 1 == F(11, 9)
    bound = sum(
        sum(
            min(path(toy, s, lambda a, b: a), path(toy, s, lambda a, b: b))
            for s in itertools.product(range(2), repeat=n)
        )
        for n in (1, 2)
    )
    assert bound == F(12, 9)


def test_greedy_emits_the_targets_argmax_path() -> None:
    for case in CASES:
        best: tuple[int, ...] = ()
        for _ in range(case.gamma + 1):
            best = (*best, chains.argmax(case.target[best]))
        for string in exact_law("greedy", case):
            assert string == best[: len(string)]


@settings(max_examples=80, deadline=None)
@given(pairs())
def test_coupled_race_has_the_right_margins_and_meeting_probability(pair) -> None:
    p, q = pair
    joint = chains.coupled_pair(p, q)
    assert tuple(sum(row) for row in joint) == p
    assert tuple(sum(column) for column in zip(*joint, strict=True)) == q
    meet = sum(joint[x][x] for x in range(len(p)))
    apart = sum(max(a - b, 0) for a, b in zip(p, q, strict=True))
    assert (1 - apart) / (1 + apart) <= meet <= 1 - apart


def test_coupled_text_does_not_depend_on_the_drafter() -> None:
    rng = np.random.default_rng(3)
    p = random_case(rng, vocab=3, gamma=0).target[()]
    noise = rng.exponential(size=(200_000, 3))
    for _ in range(2):
        q = random_case(rng, vocab=3, gamma=0).draft[()]
        y = (noise / np.array([float(x) for x in p])).argmin(axis=1)
        d = (noise / np.array([float(x) for x in q])).argmin(axis=1)
        for a, b in itertools.product(range(3), repeat=2):
            chance = float(chains.coupled_pair(p, q)[a][b])
            assert abs(np.mean((y == a) & (d == b)) - chance) < 6 * np.sqrt(max(chance, 1e-4) / 200_000)


def test_an_end_of_text_ends_a_round() -> None:
    strings = [s for n in range(3) for s in itertools.product(range(3), repeat=n) if 2 not in s]
    rng = np.random.default_rng(0)
    made = random_case(rng, vocab=3, gamma=2)
    case = Case({s: made.target[s] for s in strings}, {s: made.draft[s] for s in strings}, 2, eos=2)
    for rule in ("token", "block", "point_mass", "sample_and_match"):
        law = exact_law(rule, case)
        assert all(2 not in string[:-1] for string in law)
        assert sum(law.values()) == 1
        assert complete(law, case) == target_law(case, 3)
    assert chains.token_law(case) == chains.chain_law(chains.token, case)
    assert chains.block_law(case) == chains.chain_law(chains.block, case)


def test_drafts_that_end_early_shorten_the_round() -> None:
    case = random_case(np.random.default_rng(1), vocab=3, gamma=3)
    p, q = case.rows((0, 1, 2))
    for rule in (chains.token, chains.block, chains.point_mass, chains.sample_and_match):
        cut = chains.law_given_drafts(rule, p, q, (0, -1, -1), unit=F(1))
        assert cut == chains.law_given_drafts(rule, p[:2], q[:1], (0,), unit=F(1))


def test_any_coin_injected_function_has_an_exact_law() -> None:
    def always_reject(p, q, d, coins):
        return chains.Stop((), p[0])

    for case in CASES[:10]:
        law = exact_law(always_reject, case)
        assert is_lossless(law, case)
        assert expected_tokens(law) == 1
        assert distortion(law, case) == 0


def test_more_than_a_hundred_different_drafts_are_enumerated_at_once() -> None:
    case = random_case(np.random.default_rng(0), vocab=4, gamma=4)
    assert is_lossless(exact_law("token", case), case)
    assert is_lossless(exact_law("block", case), case)


def test_total_variation_is_a_distance_between_laws() -> None:
    one, other = {(0,): F(1, 2), (1,): F(1, 2)}, {(0,): F(1, 4), (2,): F(3, 4)}
    assert tv(one, other) == tv(other, one) == F(3, 4)
    assert tv(one, one) == 0


@pytest.mark.parametrize(
    ("target", "draft", "gamma", "said"),
    [
        ({(): (F(1, 2), F(1, 3))}, {}, 0, "sums to 5/6"),
        ({(): (F(3, 2), F(-1, 2))}, {}, 0, "0 or more"),
        ({(): (float("nan"), 1.0)}, {}, 0, "0 or more"),
        ({(): (1.0, 0.1)}, {}, 0, "sums to 1.1"),
        ({(): (F(1), F(0))}, {}, 1, "no law for prefix (0,)"),
        ({(0,): (F(1),)}, {}, 0, "empty prefix"),
        ({(): (F(1),), (0,): (F(1), F(0))}, {}, 1, "has 2 probabilities"),
        ({(): (F(1),)}, {}, -1, "gamma=-1"),
    ],
)
def test_wrong_cases_are_refused_with_their_place(target, draft, gamma, said) -> None:
    with pytest.raises(InputError) as refused:
        Case(target, draft, gamma, name="mine")
    assert said in str(refused.value)
    assert "mine" in str(refused.value)


def test_unknown_rules_are_refused_with_the_nearest() -> None:
    with pytest.raises(InputError, match="did you mean 'block'"):
        exact_law("blok", CASES[0])
