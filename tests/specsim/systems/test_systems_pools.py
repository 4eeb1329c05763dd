"""Pools, ensembles and cheaper drafts of the target itself on a scenario: picked drafters and priced passes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from composed_models import DEPLOYED, RATE, composed, deployed, drafter, run

from specsim.drafting.bandits import Ucb
from specsim.planning.comparison import compose
from specsim.simulation.program import Batch
from specsim.systems import specformer
from specsim.systems.catalogue import system
from specsim.systems.composition import NotApplicable
from specsim.systems.pool_rounds import Arm, PoolRounds
from specsim.theory.tokens import expected_tokens_iid


@pytest.mark.parametrize("divergence", [0, 1])
def test_a_pool_of_equals_decodes_as_one_of_them(divergence):
    pool = deployed(drafter(), drafter("eagle3"))
    outcome = run(composed("metasd", pool, divergence=divergence), requests=10, output=4001)
    assert outcome.tokens_per_round == pytest.approx(float(expected_tokens_iid(RATE, 5)), rel=0.02)


@pytest.mark.parametrize("divergence", [0, 1])
def test_the_better_drafter_is_found(divergence):
    pool = deployed(drafter(rate=0.3), drafter("eagle3", 0.8))
    rounds = run(composed("metasd", pool, divergence=divergence), requests=10, output=1001).result.work.rounds
    assert rounds[2][0] > 5 * rounds[1][0]


def test_a_drafter_that_seldom_proposes_has_its_evidence_either_way():
    arm = Arm((0.8, 0.7), 0.25, 1)
    rule = PoolRounds([arm], Ucb(0.1), None, 1, np.random.default_rng(0))
    accepted = np.array([rule.settle(0, rule.length(0))[0] for _ in range(20_000)])
    assert (accepted >= 1).mean() == pytest.approx(0.25 * 0.8, abs=0.01)
    assert (accepted >= 2).mean() == pytest.approx(0.25 * 0.8 * 0.7, abs=0.01)


def test_the_ensemble_alone_is_three_passes_and_a_merge():
    made = composed("bias-mitigation")
    batch = Batch(4.0, 2000.0)
    plain = DEPLOYED.program(None, 0)
    extra = float(made.programs[0].seconds(batch) - plain.seconds(batch))
    small = next(p for p in made.programs[0].passes if p.name == "biased")
    merge = float(made.programs[0].host(batch).total_s - plain.host(batch).total_s)
    assert 0 < merge < 1e-4
    assert extra == pytest.approx(2 * float(small.cost(small.shape(batch)).total_s) + merge)
    assert float(made.programs[0].flops(batch)) == pytest.approx(
        float(plain.flops(batch)) + 2 * float(run_flops(small, batch))
    )
    assert run(made, requests=4, output=101).tokens_per_round == 1.0


def run_flops(one, batch):
    from specsim.cost.flops import pass_flops

    return pass_flops(one.forward, one.shape(batch))


def test_the_ensemble_is_a_target_of_speculation():
    outcome = run(composed("bias-mitigation", k=3, acceptance_rate=0.6), requests=20, output=2001)
    assert outcome.tokens_per_round == pytest.approx(float(expected_tokens_iid(0.6, 3)), rel=0.01)
    with pytest.raises(NotApplicable, match="acceptance_rate above 0"):
        composed("bias-mitigation", k=3)


def test_magicdec_drafts_over_its_budget_and_no_more():
    """Between two budgets, only the keys of the drafting passes' attention differ."""
    made = {b: composed("magicdec", budget=b) for b in (16, 64)}
    (k,) = made[16].programs
    assert set(made[64].programs) == {k}
    batch = Batch(2.0, 2 * 400.0)
    attention = DEPLOYED.target.forward().attention
    pair = sum(4.0 * a.count * a.heads * a.head_dim for a in attention)
    more = float(made[64].programs[k].flops(batch) - made[16].programs[k].flops(batch))
    assert more == pytest.approx(2 * k * pair * 48)
    outcome = run(made[16], requests=20, output=2001)
    assert outcome.tokens_per_round == pytest.approx(float(expected_tokens_iid(RATE, k)), rel=0.01)
    assert made[16].devices[0].weight_bytes == DEPLOYED.target.weight_bytes()


def test_magicdec_gains_with_the_context():
    def speedup(prompt):
        deployment = deployed(drafter(), prompt=prompt)
        plain = compose(system("plain"), deployment)[0]
        tpot = [
            float(run(one, requests=4, output=101, prompt=prompt).result.tpot_s.mean())
            for one in (plain, composed("magicdec", deployment, acceptance_rate=0.8))
        ]
        return tpot[0] / tpot[1]

    assert speedup(500) < speedup(16_000) < speedup(60_000)


def test_specformer_emits_what_it_is_given_and_holds_its_head():
    made = composed("specformer", tokens_per_round=1.9)
    assert run(made, requests=20, output=2001).tokens_per_round == pytest.approx(1.9, rel=0.01)
    h = DEPLOYED.target.hidden
    layer = replace(DEPLOYED.target, layers=1).forward()
    one = sum(x.n * x.k for x in layer.linears if x.name != "lm_head")
    own = 2.0 * (4 * h * h + 4 * h * h + 2 * one)
    assert made.devices[0].weight_bytes - DEPLOYED.target.weight_bytes() == pytest.approx(own)
    with pytest.raises(NotApplicable, match="dense targets"):
        specformer.Head.on(replace(DEPLOYED.target, experts=8), 4, DEPLOYED.precision)
