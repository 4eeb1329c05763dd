import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.drafting.reuse import PreviousOutput, PromptLookup
from specsim.drafting.trees import OptimalTrees, Tree, chain, full_branching, grown_tree, sequences
from specsim.errors import InputError
from specsim.theory.structures import best_tree_tokens
from specsim.theory.tokens import expected_tokens_iid

EXAMPLE = (0.634, 0.108, 0.057, 0.0225, 0.0195, 0.015, 0.0045, 0.003, 0.012, 0.0045)
"""Acceptance by child rank that Sequoia's repository ships (pair not stated)."""


def _all_trees(nodes):
    """Every ordered tree of ``nodes`` nodes whose children have ranks 0, 1, ...: each parent list once."""
    for parents in itertools.product(*(range(i) for i in range(1, nodes))):
        if list(parents) == sorted(parents):
            ranks, seen = [0], {}
            for parent in parents:
                ranks.append(seen.get(parent, 0))
                seen[parent] = seen.get(parent, 0) + 1
            yield Tree((-1, *parents), tuple(ranks))


@settings(max_examples=15, deadline=None)
@given(weights=st.lists(st.floats(0.0, 1.0), min_size=1, max_size=5), depth=st.integers(1, 4))
def test_the_programme_equals_brute_force(weights, depth):
    p = np.array(weights) / max(sum(weights), 1.0)
    solved = OptimalTrees.of(p, nodes=7, depth=depth)
    for nodes in range(1, 8):
        fits = [t.expected_tokens(p) for t in _all_trees(nodes) if t.depth <= depth and max(t.ranks) < len(p)]
        if fits:
            assert solved.expected_tokens(nodes, depth) == pytest.approx(max(fits), abs=1e-12)
            tree = solved.tree(nodes, depth)
            assert tree.size == nodes
            assert tree.depth <= depth
            assert tree.expected_tokens(p) == pytest.approx(max(fits), abs=1e-12)
        else:
            assert solved.expected_tokens(nodes, depth) == -np.inf


def test_eight_nodes_by_brute_force_on_the_shipped_vector():
    best = max(t.expected_tokens(EXAMPLE) for t in _all_trees(8))
    assert OptimalTrees.of(EXAMPLE, nodes=8, depth=7).expected_tokens(8, 7) == pytest.approx(best, abs=1e-12)


def test_worth_rises_with_nodes_and_depth_and_equals_the_greedy_tree_for_falling_probabilities():
    falling = 0.6 * 0.4 ** np.arange(12)
    solved = OptimalTrees.of(falling, nodes=128, depth=10)
    sizes = solved.best[2:, 1:]
    assert np.all(np.diff(sizes, axis=1) >= -1e-12)
    assert np.all(np.diff(solved.best[1:, 10]) > 0)
    assert solved.expected_tokens(128, 10) == pytest.approx(best_tree_tokens(falling, 127, 10), rel=1e-12)


def test_grown_tree_is_the_optimal_tree_when_probabilities_go_by_rank():
    falling = 0.5 * 0.45 ** np.arange(6)
    tree, worth = grown_tree(lambda path: falling, nodes=40, depth=6)
    solved = OptimalTrees.of(falling, nodes=40, depth=6)
    assert worth.sum() == pytest.approx(solved.expected_tokens(40, 6), rel=1e-12)
    assert tree.expected_tokens(falling) == pytest.approx(worth.sum(), rel=1e-12)
    with pytest.raises(InputError, match="falling order"):
        grown_tree(lambda path: (0.1, 0.5), nodes=3, depth=2)


def test_shapes():
    assert chain(4).expected_tokens([0.7]) == pytest.approx(float(expected_tokens_iid(0.7, 4)))
    tree = sequences(width=5, depth=8)
    assert (tree.size, tree.depth) == (41, 8)
    p = [0.6, 0.2, 0.1, 0.03, 0.02]
    tail = float(expected_tokens_iid(0.6, 7))
    assert tree.expected_tokens(p) == pytest.approx(1 + sum(p) * tail)
    assert (full_branching([3, 2]).size, full_branching([3, 2]).levels.tolist().count(2)) == (10, 6)


def test_hardware_picks_the_plain_step_when_drafting_costs_too_much_and_a_tree_when_it_is_cheap():
    solved = OptimalTrees.of(EXAMPLE, nodes=64, depth=8)
    assert solved.best_shape(lambda n: 1.0 + 0.001 * n, 2.0)[:2] == (1, 0)
    nodes, depth, speedup = solved.best_shape(lambda n: 1.0 + 0.001 * n, 0.02)
    every = [solved.expected_tokens(n, d) / (1.0 + 0.001 * n + 0.02 * d) for n in range(1, 65) for d in range(9)]
    assert speedup == pytest.approx(max(every))
    assert nodes > 8
    assert depth > 2


def test_a_flatter_curve_of_verification_never_makes_the_tree_smaller():
    solved = OptimalTrees.of(EXAMPLE, nodes=64, depth=8)
    sizes = [solved.best_shape(lambda n, slope=slope: 1.0 + slope * n, 0.02)[0] for slope in (0.05, 0.01, 0.002, 0.0)]
    assert sizes == sorted(sizes)


def test_prompt_lookup_takes_the_latest_longest_match():
    lookup = PromptLookup(3, longest=2)
    assert lookup.propose([1, 2, 3, 9, 1, 2, 4, 5, 6, 1, 2]) == (4, 5, 6)
    assert lookup.propose([1, 2, 3]) == ()
    assert lookup.propose([7, 1, 7]) == (1, 7)
    with pytest.raises(InputError):
        PromptLookup(0)


def test_previous_output_is_reused_until_the_first_divergence():
    previous = PreviousOutput((4, 5, 6))
    assert previous.propose(()) == (4, 5, 6)
    assert previous.propose((4,)) == (5, 6)
    assert previous.propose((4, 9)) == ()


@pytest.mark.parametrize("parents", [(0,), (-1, 1), (-1, 0, 5)])
def test_trees_that_are_none_are_refused(parents):
    with pytest.raises(InputError):
        Tree(parents, (0,) * len(parents))
