"""Systems of three models on a scenario: exact chains, the papers' recursion, priced passes."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from composed_models import LOWER, RATE, composed, deployed, drafter, run, setting
from hypothesis import given
from hypothesis import strategies as st

from specsim.acceptance.chains import Iid
from specsim.simulation.program import Batch
from specsim.systems import hsd, staged
from specsim.systems.stack import Pair, Stack, fastest_lengths, held_law
from specsim.theory.tokens import expected_tokens_iid


@given(st.floats(0.0, 1.0), st.integers(1, 6), st.integers(1, 10))
def test_held_tokens_follow_the_exact_chain(rate, draft, hold):
    law = held_law(rate, draft, hold)
    block = np.eye(draft + 1)[-1]
    held, cycles = hsd.accumulated_law(hsd.added_law(block, rate), hold)
    ours = np.bincount([t for _, t in law], weights=list(law.values()), minlength=len(held))
    assert ours == pytest.approx(held, abs=1e-12)
    assert sum(c * p for (c, _), p in law.items()) == pytest.approx(cycles)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95), st.integers(1, 5), st.integers(1, 8))
def test_constant_costs_give_the_papers_recursion(lower, upper, draft, hold):
    law = held_law(lower, draft, hold)
    seconds = sum(p * (c * (draft * 0.05 + 0.3) + 1.0) for (c, _), p in law.items())
    tokens = sum(p * float(expected_tokens_iid(upper, t)) for (_, t), p in law.items())
    exact = hsd.seconds_per_token(hsd.Hierarchy((0.05, 0.3, 1.0), (lower, upper), (draft, hold)))
    assert seconds / tokens == pytest.approx(exact)


@pytest.mark.parametrize("small", ["ngram", "model"])
def test_a_stack_runs_as_its_law_says(small):
    target = {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100_sxm"}
    below = drafter("ngram", 0.3) if small == "ngram" else drafter(rate=0.4)
    middle = drafter(model="meta-llama/Llama-3.2-3B")
    deployment = deployed(below, middle, target=target)
    given_ = setting(deployment)
    pair = Pair.of(given_)
    assert pair.middle.drafter.name == "meta-llama/Llama-3.2-3B"
    assert (pair.small.drafter.method == "ngram") == (small == "ngram")
    stack = Stack(given_, pair, LOWER, Iid(RATE), 3, 5)
    outcome = run(stack.compose(), requests=10, output=6001)
    law = held_law(LOWER, 3, 5)
    tokens = sum(p * float(expected_tokens_iid(RATE, t)) for (_, t), p in law.items())
    assert outcome.tokens_per_round == pytest.approx(tokens, rel=0.01)
    kinds = list(law)
    cycles = sum(kinds[k][0] * n for k, (n, _) in outcome.result.work.rounds.items())
    exact = sum(c * p for (c, _), p in law.items())
    assert cycles / outcome.result.rounds.sum() == pytest.approx(exact, rel=0.01)


def test_a_round_of_a_stack_is_the_sum_of_its_passes():
    given_ = setting()
    stack = Stack(given_, Pair.of(given_), LOWER, Iid(RATE), 3, 5)
    batch = Batch(1.0, 800.0)
    one, two = (stack.round((cycles, 6), 0) for cycles in (1, 2))
    middle = next(p for p in one.passes if p.name == "middle")
    lookup = one.host(batch).total_s - given_.host(stack.pair.middle, 6)(batch).total_s
    assert lookup > 0
    more = float(two.seconds(batch) - one.seconds(batch))
    assert more == pytest.approx(float(middle.cost(middle.shape(batch)).total_s) + float(lookup))
    assert float(two.flops(batch) - one.flops(batch)) > 4 * 2 * 1.2e9  # four tokens of a 1B model


def test_the_lengths_chosen_are_the_fastest_of_those_run():
    given_ = setting()
    pair = Pair.of(given_)
    best = fastest_lengths(given_, pair, LOWER, Iid(RATE))

    def tpot(draft, hold):
        made = Stack(given_, pair, LOWER, Iid(RATE), draft, hold).compose()
        return float(run(made, requests=6, output=1001).result.tpot_s.mean())

    others = itertools.product((1, 3, 8), (1, 4, 12))
    assert tpot(*best) <= 1.02 * min(tpot(*one) for one in others)


def test_n_grams_spare_staged_its_passes_and_not_its_tokens():
    made = {b: composed("staged", agreement=b) for b in (0.0, 0.6, 1.0)}
    ran = {b: run(one, requests=6, output=2001) for b, one in made.items()}
    depth = max(made[0.0].programs)
    assert set(ran[0.0].result.work.rounds) == {depth}
    assert set(ran[1.0].result.work.rounds) == {-(-depth // (staged.AHEAD + 1))}
    rounds = ran[0.6].result.work.rounds
    mean = sum(k * n for k, (n, _) in rounds.items()) / sum(n for n, _ in rounds.values())
    assert mean == pytest.approx(staged.drafting_passes(0.6, depth=depth), rel=0.02)
    assert ran[0.0].tokens_per_round == pytest.approx(ran[1.0].tokens_per_round, rel=0.02)
    assert ran[1.0].result.tpot_s.mean() < ran[0.6].result.tpot_s.mean() < ran[0.0].result.tpot_s.mean()
