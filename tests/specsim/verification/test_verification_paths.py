"""Greedy multi-path: lossless, its law and tokens in closed form, below the program's optimum, on arrays the same."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification import (
    Case,
    distortion,
    exact_law,
    expected_tokens,
    is_lossless,
    optimal_acceptance,
    random_case,
    statistics,
)
from specsim.verification.chains import block, block_law, chain_law
from specsim.verification.paths import (
    most_expected_tokens,
    multipath_expected_tokens,
    multipath_law,
    picked_case,
    verify_paths,
)

SHAPES = [(2, 1, 2), (3, 1, 2), (3, 1, 3), (2, 2, 2), (2, 2, 3), (3, 2, 2)]


def random_cases(vocab: int, gamma: int, n: int = 4) -> list[Case]:
    rng = np.random.default_rng(vocab * 10 + gamma)
    return [random_case(rng, vocab=vocab, gamma=gamma, zeros=0.3 * (i % 2)) for i in range(n)]


@pytest.mark.parametrize(("vocab", "gamma", "paths"), SHAPES)
def test_law_and_tokens_are_those_of_a_block_on_the_law_of_the_pick(vocab: int, gamma: int, paths: int) -> None:
    for case in random_cases(vocab, gamma):
        law = multipath_law(case, paths)
        assert sum(law.values()) == 1
        assert is_lossless(law, case)
        assert law == block_law(picked_case(case, paths)) == exact_law("greedy_multipath", case, paths=paths)
        assert expected_tokens(law) == multipath_expected_tokens(case, paths)


@pytest.mark.parametrize(("vocab", "gamma", "paths"), SHAPES)
def test_no_pick_is_above_the_program(vocab: int, gamma: int, paths: int) -> None:
    for case in random_cases(vocab, gamma):
        most = most_expected_tokens(case, paths)
        assert float(multipath_expected_tokens(case, paths)) <= most + 1e-9
        assert float(expected_tokens(block_law(case))) <= most + 1e-9
        if gamma == 1:
            assert most - 1 == pytest.approx(
                float(optimal_acceptance(case.target[()], case.draft[()], paths)), abs=1e-8
            )


def test_one_path_is_block_verification_and_its_optimum() -> None:
    for case in [*random_cases(2, 2), *random_cases(3, 1)]:
        assert exact_law("greedy_multipath", case, paths=1) == block_law(case)
        assert most_expected_tokens(case, 1) == pytest.approx(float(expected_tokens(block_law(case))), abs=1e-8)


def test_more_paths_gain_on_average_and_may_lose_for_a_perfect_drafter() -> None:
    cases = [case for vocab, gamma in ((2, 2), (3, 2)) for case in random_cases(vocab, gamma, 12)]
    gains = [multipath_expected_tokens(case, 2) - expected_tokens(block_law(case)) for case in cases]
    most = [most_expected_tokens(case, 2) - float(expected_tokens(block_law(case))) for case in cases]
    assert 0.6 < float(sum(gains)) / sum(most) < 0.8  # of what the program would gain: about seven tenths
    assert any(gain < 0 for gain in gains)
    perfect = Case({(): (Fraction(1, 2),) * 2, (0,): (1, 0), (1,): (0, 1)}, {(): (Fraction(1, 2),) * 2}, 1)
    assert multipath_expected_tokens(perfect, 1) == 2
    assert multipath_expected_tokens(perfect, 2) == Fraction(7, 4)


def test_the_pick_judged_as_a_plain_draft_is_not_lossless() -> None:
    wrong = 0
    for case in random_cases(3, 2, 8):

        def plain(p, q, d, coins, case=case):
            return block(p, [case.draft[d[:i]] for i in range(len(d))], d, coins)

        wrong += distortion(chain_law(plain, picked_case(case, 2)), case) > Fraction(1, 100)
    assert wrong >= 6


@pytest.mark.parametrize(("vocab", "gamma", "paths"), [(3, 1, 2), (2, 2, 3), (3, 2, 2)])
def test_arrays_have_the_law(vocab: int, gamma: int, paths: int) -> None:
    rng, rows = np.random.default_rng(5), 40_000
    for case in random_cases(vocab, gamma, 2):
        tokens = np.zeros((rows, paths, gamma), dtype=np.int64)
        target = np.zeros((rows, paths, gamma + 1, vocab))
        draft = np.zeros((rows, paths, gamma, vocab))
        table = {s: np.array([float(x) for x in row]) for s, row in case.draft.items()}
        for i in range(gamma + 1):
            prefixes = [tuple(map(int, path[:i])) for path in tokens.reshape(-1, gamma)]
            target[:, :, i] = np.array([[float(x) for x in case.target[s]] for s in prefixes]).reshape(rows, paths, -1)
            if i < gamma:
                draft[:, :, i] = np.array([table[s] for s in prefixes]).reshape(rows, paths, -1)
                u = rng.random((rows, paths, 1))
                tokens[:, :, i] = (draft[:, :, i].cumsum(axis=2) <= u).sum(axis=2)
        strings, counts = verify_paths(target, draft, tokens, rng)
        seen: dict[tuple[int, ...], int] = {}
        for row, n in zip(strings, counts, strict=True):
            key = tuple(map(int, row[:n]))
            seen[key] = seen.get(key, 0) + 1
        assert statistics.fit(seen, exact_law("greedy_multipath", case, paths=paths)).p_value > 1e-6


@pytest.mark.parametrize("options", [{}, {"paths": 0}, {"paths": 1.5}, {"path": 2}])
def test_wrong_numbers_of_paths_are_refused(options: dict) -> None:
    with pytest.raises(InputError, match="path"):
        exact_law("greedy_multipath", random_cases(2, 1)[0], **options)
