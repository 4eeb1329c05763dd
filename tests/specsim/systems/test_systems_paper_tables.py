"""Published rows within the tolerances that their systems state, and the laws each system must keep."""

from fractions import Fraction

import numpy as np
import pytest

from specsim.acceptance.chains import Iid
from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.stopping import FixedLength
from specsim.drafting.trees import OptimalTrees
from specsim.errors import InputError
from specsim.simulation.signal_rounds import RoundSeconds, run_rounds
from specsim.systems import hsd, sequoia, specdec_plus, tandem
from specsim.systems.reproduction import Row
from specsim.systems.tree_rounds import run_tree
from specsim.verification import drafting as draw
from specsim.verification import nodes
from specsim.verification.coins import law_of

RNG = np.random.default_rng


def worst(rows: tuple[Row, ...]) -> float:
    return max(abs(row.error) for row in rows)


def _of(cells, quantity):
    return tuple(cell for cell in cells if cell.what.endswith(quantity))


# Sequoia


def test_sequoia_speedups_from_recovered_terms():
    cells = sequoia.rows()
    assert len(cells) == 20
    assert worst(cells) < 0.03


def test_sequoia_trees_emit_what_the_programme_says():
    solved = OptimalTrees.of(sequoia.SHIPPED_ACCEPTANCE, nodes=64, depth=7)
    tree, rounds = solved.tree(64, 7), 100_000
    tokens = run_tree(tree, sequoia.SHIPPED_ACCEPTANCE, rounds=rounds, rng=RNG(0))
    assert tokens.mean() == pytest.approx(solved.expected_tokens(64, 7), abs=5 * tokens.std() / rounds**0.5)


def test_sequoia_grows_deeper_where_the_first_child_is_likelier():
    greedy = OptimalTrees.of([0.85, 0.05, 0.03, 0.02], nodes=64, depth=12)
    sampled = OptimalTrees.of([0.6, 0.15, 0.08, 0.05], nodes=64, depth=12)
    depths = [t.best_shape(lambda n: 1.0 + 0.0005 * n, 0.02)[1] for t in (greedy, sampled)]
    assert depths[0] > depths[1]


def _accepted(rule, drawing, p, q, k):
    def program(coins):
        pick = rule(p, q, drawing(q, k, coins), coins)
        return pick.accepted is not None

    return law_of(program).get(True, 0)


def test_cover_holds_without_replacement_and_fails_with_it():
    """Two drafts of a vocabulary of two: every token is drafted, so a rule with the cover property never fails."""
    q, p = (Fraction(1, 2), Fraction(1, 2)), (Fraction(1), Fraction(0))
    assert _accepted(nodes.recursive, draw.independent, p, q, 2) == Fraction(3, 4)
    assert _accepted(nodes.recursive_without_replacement, draw.without_replacement, p, q, 2) == 1


def test_one_draft_accepts_what_transport_allows_and_the_likeliest_does_not():
    q, p = (Fraction(3, 5), Fraction(2, 5)), (Fraction(1, 2), Fraction(1, 2))
    most = 1 - sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2
    assert _accepted(nodes.recursive_without_replacement, draw.without_replacement, p, q, 1) == most
    assert _accepted(nodes.certain, draw.most_likely, p, q, 1) == Fraction(1, 2) < most


# SpecDec++


def test_one_acceptance_a_data_set_explains_its_verification_rates():
    cells = specdec_plus.rows()
    assert len(_of(cells, "verification rate")) == 18
    assert worst(_of(cells, "verification rate")) < 0.01
    assert worst(_of(cells, "discard rate")) < 0.16  # the published ones end with texts; ours don't


def _plane(process, policy, seed=0):
    ran = run_rounds(process, policy, RoundSeconds(1.0, lambda n: n * 0.0), requests=15_000, rounds=3, rng=RNG(seed))
    return ran.verification_rate, ran.discard_rate


def test_fixed_length_rates_are_the_closed_forms():
    v, d = _plane(CopulaSignals((0.82,), 0.0), FixedLength(6))
    assert v == pytest.approx(specdec_plus.verification_rate(0.82, 6), rel=0.01)
    assert d == pytest.approx(specdec_plus.discard_rate(0.82, 6), rel=0.02)


@pytest.mark.parametrize("h", [0.3, 0.5, 0.7])
def test_threshold_stopping_dominates_fixed_lengths_when_acceptance_varies_and_gains_nothing_when_it_does_not(h):
    fixed, policy = range(1, 21, 2), specdec_plus.stop_when_rejection_likely(h, (1, 20))
    varied = CopulaSignals((0.85,), 0.9, 0.5)
    v, d = _plane(varied, policy)
    curve = np.array([_plane(varied, FixedLength(k), seed=k) for k in fixed])
    same_discard = np.interp(d, curve[:, 1], curve[:, 0])
    assert v < 0.98 * same_discard
    v, d = _plane(CopulaSignals((0.85,), 0.0), policy)
    lengths = [(specdec_plus.verification_rate(0.85, k), specdec_plus.discard_rate(0.85, k)) for k in range(1, 21)]
    assert min(abs(v / a - 1) + abs(d / b - 1) for a, b in lengths) < 0.02


# Tandem


def test_tandem_ratios_follow_from_printed_inputs():
    cells = tandem.rows()
    assert len(cells) == 2
    assert worst(cells) < 0.02


def test_tandem_runs_take_the_time_their_counts_say():
    """Simulated runs of both models, counted, priced by the same sum; the learned stop saves small-model runs."""
    process, c, rng = CopulaSignals((0.9,), 0.85, 0.6), tandem.SMALL_OVER_LARGE, RNG(1)
    cost = RoundSeconds(c, 1.0)
    fixed = run_rounds(process, FixedLength(7), cost, requests=20_000, rounds=3, rng=rng)
    learned = run_rounds(process, tandem.LearnedStop(), cost, requests=20_000, rounds=3, rng=rng)
    for ran in (fixed, learned):
        tokens = ran.tokens.sum()
        runs = tandem.run_seconds(ran.tokens.size / tokens, ran.drafted.sum() / tokens, c)
        assert 1.0 / ran.tokens_per_s == pytest.approx(runs, rel=1e-12)
    assert learned.drafted.sum() / learned.tokens.sum() < fixed.drafted.sum() / fixed.tokens.sum()
    assert learned.tokens_per_s > fixed.tokens_per_s


def test_a_block_that_is_always_accepted_is_the_standalone_mode():
    process, c = Iid(1.0), tandem.SMALL_OVER_LARGE
    accepted, _ = process.verify(process.start(4, RNG(0)), 3, RNG(0), rounds=5)
    assert (accepted + 1).mean() / (1 + 3 * c) == pytest.approx(tandem.standalone_speedup(3, c))


# Hierarchical speculative decoding


@pytest.mark.parametrize(
    "stack",
    [
        hsd.Hierarchy((0.05, 1.0), (0.7,), (4,)),
        hsd.Hierarchy((0.05, 0.3, 1.0), (0.75, 0.85), (4, 6)),
        hsd.Hierarchy((0.02, 0.1, 0.3, 1.0), (0.7, 0.8, 0.85), (3, 6, 12)),
        hsd.Hierarchy((0.01, 0.05, 0.2, 0.4, 1.0), (0.6, 0.7, 0.8, 0.9), (2, 3, 5, 9)),
    ],
    ids=["2 models", "3 models", "4 models", "5 models"],
)
def test_the_overshoot_chain_is_what_a_simulated_stack_takes(stack):
    assert hsd.run(stack, rounds=25_000, rng=RNG(2)).seconds_per_token == pytest.approx(
        hsd.seconds_per_token(stack), rel=0.01
    )


def test_two_levels_are_ordinary_speculative_decoding():
    stack = hsd.Hierarchy((0.05, 1.0), (0.7,), (4,))
    assert hsd.seconds_per_token(stack) == pytest.approx((1 + 4 * 0.05) / ((1 - 0.7**5) / 0.3))


def test_the_decoupling_identity_holds_and_only_the_place_of_rejections_moves():
    stack = hsd.Hierarchy((0.05, 0.3, 1.0), (0.75, 0.7), (4, 6), resampled_ratio=0.68)
    ran = hsd.run(stack, rounds=40_000, rng=RNG(3))
    assert ran.acceptance[1] == pytest.approx(0.7, rel=0.01)
    assert abs(ran.seconds_per_token / hsd.seconds_per_token(stack) - 1) > 0.001


def test_best_hierarchy_equals_brute_force_on_200_instances():
    rng = RNG(4)
    gains = []
    for _ in range(200):
        n = int(rng.integers(2, 6))
        costs = [*np.sort(rng.uniform(0.01, 0.8, size=n - 1)).tolist(), 1.0]
        rates = np.triu(rng.uniform(0.2, 0.97, size=(n, n)), 1)
        seconds, models, thresholds = hsd.best_hierarchy(costs, rates, longest=6)
        assert seconds == pytest.approx(hsd.best_by_enumeration(costs, rates, longest=6), rel=1e-12)
        again = costs[models[0]]
        for i, j, t in zip(models, models[1:], thresholds, strict=False):
            again = (costs[j] + t * again) / ((1 - rates[i, j] ** (t + 1)) / (1 - rates[i, j]))
        assert again == pytest.approx(seconds)
        gains.append(1 / seconds)
    assert max(gains) > 2


def test_the_example_of_three_levels_gains_a_fifth_over_the_best_single_drafter():
    rates = np.array([[0, 0.75, 0.6], [0, 0, 0.85], [0, 0, 0]])
    three = hsd.best_hierarchy((0.05, 0.3, 1.0), rates, longest=12)
    assert three[1:] == ((0, 1, 2), (4, 6))
    two = hsd.best_hierarchy((0.05, 1.0), [[0, 0.6], [0, 0]], longest=12)[0]
    assert two / three[0] == pytest.approx(1.19, abs=0.01)


def test_impossible_stacks_are_refused():
    with pytest.raises(InputError):
        hsd.Hierarchy((0.1, 1.0), (0.5, 0.6), (3,))
    with pytest.raises(InputError, match="needs an acceptance of"):
        hsd.run(hsd.Hierarchy((0.1, 0.3, 1.0), (0.2, 0.95), (2, 4), resampled_ratio=0.1), rounds=1, rng=RNG(0))
