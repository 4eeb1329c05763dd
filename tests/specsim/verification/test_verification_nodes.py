"""Several drafts at a node and trees of them: losslessness, acceptance formulas, the optimum, mismatched drafting."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings

from specsim.verification import drafting as draw
from specsim.verification import exact_law, expected_tokens, is_lossless, optimal_acceptance, random_case, tv
from specsim.verification.chains import block_law
from specsim.verification.coins import law_of
from specsim.verification.node_mutants import NODE_MUTANTS
from specsim.verification.nodes import (
    MATCHING,
    acceptance,
    certain,
    emitted,
    k_sequential,
    node_law,
    recursive,
    recursive_without_replacement,
    target_only,
)
from specsim.verification.optimal import couple, hybrid_acceptance, program_acceptance
from specsim.verification.strategies import pairs
from specsim.verification.trees import traversal_law, tree_expected_tokens, tree_law

F = Fraction


def random_pairs(n: int, *, seed: int = 0, vocab: int = 4, zeros: float = 0.3):
    rng = np.random.default_rng(seed)
    for i in range(n):
        case = random_case(rng, vocab=int(rng.integers(2, vocab + 1)), gamma=0, zeros=zeros * (i % 2))
        yield case.target[()], case.draft[()], int(rng.integers(1, 4))


def as_law(row) -> dict[int, F]:
    return {x: mass for x, mass in enumerate(row) if mass}


@pytest.mark.parametrize("name", MATCHING)
def test_every_rule_emits_the_target_for_the_drafts_it_is_made_for(name: str) -> None:
    rule, drafting = MATCHING[name]
    for p, q, k in random_pairs(25):
        law = node_law(rule, drafting, p, q, 2 if name == "hub_transport" else k)
        assert emitted(law) == as_law(p)


@settings(max_examples=40, deadline=None)
@given(pairs(vocab=3))
def test_every_family_of_pairs(pair) -> None:
    p, q = pair
    for name, (rule, drafting) in MATCHING.items():
        assert emitted(node_law(rule, drafting, p, q, 2)) == as_law(p), name


def test_acceptance_formulas() -> None:
    for p, q, k in random_pairs(25, seed=1):
        left, missed = list(p), F(1)
        for _ in range(k):
            apart = sum(max(b - a, 0) for a, b in zip(left, q, strict=True))
            missed *= apart
            if not apart:
                break
            over = [max(a - b, 0) for a, b in zip(left, q, strict=True)]
            left = [x / sum(over) for x in over]
        assert acceptance(node_law(recursive, draw.independent, p, q, k)) == 1 - missed
        top = draw.most_likely(q, k, None)
        assert acceptance(node_law(certain, draw.most_likely, p, q, k)) == sum(p[x] for x in top)


def test_optimum_in_closed_form_as_a_flow_and_as_a_program() -> None:
    for p, q, k in random_pairs(25, seed=2):
        for drafting, optimum in (
            (draw.independent, optimal_acceptance(p, q, k)),
            (draw.without_replacement, optimal_acceptance(p, q, k, replacement=False)),
            (draw.most_likely_and_one, hybrid_acceptance(p, q, k)),
        ):
            tuples = draw.tuple_law(drafting, q, k, F(1))
            assert sum(couple(p, tuples).values()) == optimum
            assert program_acceptance(p, tuples) == pytest.approx(float(optimum), abs=1e-9)


def test_no_rule_beats_the_optimum_and_k_sequential_comes_near() -> None:
    for p, q, k in random_pairs(25, seed=3):
        best = optimal_acceptance(p, q, k)
        one_by_one = acceptance(node_law(recursive, draw.independent, p, q, k))
        k_seq = acceptance(node_law(k_sequential, draw.independent, p, q, k))
        assert one_by_one <= best
        assert (1 - F(1_000_000, 2_718_281)) * best <= k_seq <= best
        different = acceptance(node_law(recursive_without_replacement, draw.without_replacement, p, q, k))
        assert different <= optimal_acceptance(p, q, k, replacement=False)
        assert best <= optimal_acceptance(p, q, k, replacement=False)


def test_worked_numbers() -> None:
    p = tuple(F(x, 100) for x in (30, 25, 20, 12, 8, 5))
    sharp = tuple(F(x, 100) for x in (5, 60, 5, 15, 10, 5))
    flat = tuple(F(1, 6) for _ in p)
    named = {name: (rule, drafting) for name, (rule, drafting) in MATCHING.items()}

    def accepts(name: str, q, k: int) -> float:
        return round(float(acceptance(node_law(*named[name], p, q, k))), 3)

    assert [accepts(n, sharp, 2) for n in ("recursive", "recursive_without_replacement", "k_sequential")] == [
        0.64,
        0.693,
        0.658,
    ]
    assert accepts("hub_transport", sharp, 2) == 0.75
    assert accepts("certain", sharp, 2) == 0.37
    assert round(float(optimal_acceptance(p, sharp, 2)), 3) == 0.69
    assert round(float(optimal_acceptance(p, sharp, 2, replacement=False)), 3) == 0.784
    assert round(float(optimal_acceptance(p, sharp, 3, replacement=False)), 3) == 0.983
    assert round(float(hybrid_acceptance(p, sharp, 3)), 3) == 0.9
    assert optimal_acceptance(p, flat, 2) == 1


def test_target_only_is_certain_at_thresholds_of_one_and_its_price_otherwise() -> None:
    for p, q, k in random_pairs(25, seed=4):
        law = node_law(target_only, draw.most_likely, p, q, k)
        assert emitted(law) == as_law(p)
        assert acceptance(law) == acceptance(node_law(certain, draw.most_likely, p, q, k))
        threshold = F(4, 5)
        covered = sum(p[x] for x in draw.most_likely(q, k, None))

        def lenient(p, q, drafts, coins, threshold=threshold):
            return target_only(p, q, drafts, coins, accept_all=threshold)

        price = tv(emitted(node_law(lenient, draw.most_likely, p, q, k)), as_law(p))
        if covered <= threshold:
            assert price == covered * (1 / threshold - 1)


@pytest.mark.parametrize("mutant", NODE_MUTANTS, ids=lambda mutant: mutant.name)
def test_every_wrong_rule_is_wrong_somewhere(mutant) -> None:
    off = [
        tv(emitted(node_law(mutant.rule, mutant.drafting, p, q, 2)), as_law(p)) for p, q, _ in random_pairs(40, vocab=4)
    ]
    assert max(off) > F(1, 100)


TREES = [(2,), (1, 1), (2, 1), (1, 2), (2, 2)]


@pytest.mark.parametrize("shape", TREES)
def test_trees_are_lossless_from_the_root_down(shape) -> None:
    rng = np.random.default_rng(5)
    for i in range(3):
        case = random_case(rng, vocab=3, gamma=len(shape), zeros=0.2 * i)
        for name, (rule, drafting) in MATCHING.items():
            if name.startswith("optimal") or (name == "hub_transport" and 1 in shape):
                continue
            law = tree_law(rule, drafting, case, shape)
            assert is_lossless(law, case), name
            assert expected_tokens(law) == tree_expected_tokens(rule, drafting, case, shape, node_law)


@pytest.mark.parametrize("shape", TREES)
def test_traversal_is_lossless(shape) -> None:
    rng = np.random.default_rng(6)
    for i in range(5):
        case = random_case(rng, vocab=3, gamma=len(shape), zeros=0.2 * (i % 2))
        assert is_lossless(traversal_law(case, shape), case)


def test_traversal_of_a_chain_is_block_verification() -> None:
    rng = np.random.default_rng(7)
    for i in range(10):
        case = random_case(rng, vocab=3, gamma=2, zeros=0.3 * (i % 2))
        assert traversal_law(case, (1, 1)) == block_law(case)


def test_a_tree_of_one_child_each_is_the_chain() -> None:
    case = random_case(np.random.default_rng(8), vocab=3, gamma=2)
    for name in ("recursive", "recursive_without_replacement"):
        assert exact_law(name, case, shape=(1, 1)) == exact_law("token", case)
    assert exact_law("traversal", case) == exact_law("block", case)


def test_drafts_are_drawn_as_they_say() -> None:
    q = (F(1, 2), F(1, 3), F(1, 6))
    assert law_of(lambda coins: draw.without_replacement(q, 2, coins))[(0, 2)] == F(1, 2) * F(1, 3)
    assert law_of(lambda coins: draw.independent(q, 2, coins))[(1, 1)] == F(1, 9)
    hub = law_of(lambda coins: draw.hub(q, 2, coins))
    assert hub[(1, 0)] == F(1, 3)
    assert hub[(0, 1)] == F(1, 2) * F(1, 3) / (1 - F(1, 2))
    assert sum(hub.values()) == 1
