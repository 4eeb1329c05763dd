"""Lossy, staged and pooled systems on a scenario: exact chains, priced passes, and conserved counts."""

from __future__ import annotations

import itertools
import tomllib
from dataclasses import replace
from importlib import resources

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.acceptance.chains import Iid
from specsim.drafting.bandits import Ucb
from specsim.errors import InputError
from specsim.planning.comparison import compose
from specsim.planning.deployment import deploy
from specsim.planning.setting import Setting
from specsim.scenario import Scenario
from specsim.simulation.program import Batch, PrefillChunk
from specsim.simulation.workload import Requests
from specsim.systems import bild, hsd, specformer, staged
from specsim.systems.catalogue import system
from specsim.systems.composition import NotApplicable
from specsim.systems.pool_rounds import Arm, PoolRounds
from specsim.systems.stack import Pair, Stack, fastest_lengths, held_law
from specsim.theory.tokens import expected_tokens_iid

RATE, LOWER = 0.7, 0.6
RANKS = [0.62, 0.12, 0.05, 0.03]
NUMBERS = {
    "bild": {"correlation": 0.0, "fallback": 0.2, "tolerated": 0.5},
    "adasd": {"correlation": 0.0, "distance_correlation": 0.5},
    "tandem": {"correlation": 0.5},
    "magicdec": {"acceptance_rate": RATE},
    "specformer": {"tokens_per_round": 1.75},
    "hsd": {"lower_rate": LOWER},
    "pyramid-sd": {"qualifier_rate": 0.8, "target_rate": 0.95},
    "staged": {"agreement": 0.6},
    "metasd": {},
    "bias-mitigation": {},
}
ALONE = ["bild", "hsd", "pyramid-sd", "staged", "metasd"]


def drafter(method="draft_model", rate=RATE, **more):
    model = {"model": "meta-llama/Llama-3.2-1B"} if method == "draft_model" else {}
    acceptance = {"rate": rate, **({"by_rank": RANKS} if method == "draft_model" else {})}
    return {"method": method, **model, "num_speculative_tokens": [3], "acceptance": acceptance, **more}


def deployed(*drafters, prompt=200, **changes):
    return deploy(Scenario.from_dict({
        "target": {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100_sxm"},
        "drafter": list(drafters or (drafter(), drafter("eagle3"), drafter("ngram", 0.3))),
        "workload": {
            "arrivals": {"kind": "closed", "concurrency": 4},
            "prompt_tokens": {"kind": "fixed", "tokens": prompt},
            "output_tokens": {"kind": "fixed", "tokens": 101},
        },
        "serving": {"max_num_seqs": 8},
        "simulation": {"requests": 40},
        **changes,
    }))  # fmt: skip


DEPLOYED = deployed()


def composed(name, deployment=DEPLOYED, **numbers):
    """The system with these numbers of its own; what it is run with is what the scenario would give."""
    scenario = replace(deployment.scenario, systems={name: {**NUMBERS[name], **numbers}})
    return compose(system(name), replace(deployment, scenario=scenario))[0]


def run(made, *, requests=20, output=2001, prompt=200, users=4, seed=0):
    load = Requests(np.zeros(requests), np.full(requests, prompt), np.full(requests, output), users)
    return made.run(load, np.random.default_rng(seed))


def setting(deployment=DEPLOYED):
    return Setting(deployment)


@pytest.mark.parametrize("name", NUMBERS)
def test_counts_are_conserved(name):
    outcome = run(composed(name), requests=8, output=301)
    result = outcome.result
    assert result.output_tokens.tolist() == [301] * 8
    assert (result.accepted <= result.drafted).all()
    assert (result.accepted + result.rounds >= 300).all()
    assert sum(n for n, _ in result.work.rounds.values()) == result.rounds.sum()
    prompts = sum(new * count for chunks in result.work.chunks.values() for (new, _, _), count in chunks.items())
    assert prompts == 200 * 8


@pytest.mark.parametrize("name", ALONE)
def test_busy_seconds_are_those_of_the_programs_that_ran(name):
    made = composed(name)
    assert made.one_at_a_time
    outcome = run(made, requests=4, output=401)
    work = outcome.result.work
    rounds = sum(n * float(made.programs[k].seconds(Batch(1.0, kv / n))) for k, (n, kv) in work.rounds.items())
    prompts = sum(
        count * float(made.programs[k].seconds(Batch(0.0, 0.0, prefill=(PrefillChunk(*chunk),))))
        for k, chunks in work.chunks.items()
        for chunk, count in chunks.items()
    )
    assert outcome.servers[0].busy_s == pytest.approx(rounds + prompts, rel=2e-3)


@pytest.mark.parametrize(("name", "numbers", "said"), [
    ("bild", {"fallback": 1.5}, "systems.bild.fallback: 1.5; give 0 or more, at most 1"),
    ("bild", {"correlation": 1.0}, "systems.bild.correlation: 1; give 0 or more, at most 0.999"),
    ("adasd", {"distance_correlation": -0.1}, "systems.adasd.distance_correlation"),
    ("adasd", {"warm_up": 0.5}, "systems.adasd.warm_up: 0.5; give a whole number"),
    ("tandem", {"threshold": 2.0}, "systems.tandem.threshold"),
    ("magicdec", {"acceptance_rate": 84.0}, "systems.magicdec.acceptance_rate: 84; give 0 or more, at most 1"),
    ("specformer", {"tokens_per_round": 6.0}, "systems.specformer.tokens_per_round: 6; give 1 or more, at most 5"),
    ("hsd", {"lower_rate": -1.0}, "systems.hsd.lower_rate"),
    ("pyramid-sd", {"draft": 0.0}, "systems.pyramid-sd.draft"),
    ("staged", {"nodes": 1.0}, "systems.staged.nodes"),
    ("metasd", {"exploration": -1.0}, "systems.metasd.exploration"),
    ("bias-mitigation", {"k": 1.5}, "systems.bias-mitigation.k: 1.5; give a whole number"),
])  # fmt: skip
def test_wrong_numbers_are_one_line(name, numbers, said):
    with pytest.raises(InputError) as caught:
        composed(name, **numbers)
    (line,) = caught.value.lines
    assert said in line


@pytest.mark.parametrize(("name", "drafters", "said"), [
    ("bild", [drafter("eagle3")], "draft_model"),
    ("tandem", [drafter("ngram", 0.3)], "draft_model"),
    ("hsd", [drafter(), drafter("eagle3")], "stacks two drafters"),
    ("hsd", [drafter(acceptance=None), drafter("ngram", 0.3)], "needs the acceptance of"),
    ("staged", [drafter(acceptance={"rate": 0.7})], "by_rank"),
    ("metasd", [drafter()], "picks from a pool"),
    ("bias-mitigation", [drafter("eagle3")], "two small models"),
])  # fmt: skip
def test_what_a_scenario_lacks_is_named(name, drafters, said):
    given_ = [{k: v for k, v in one.items() if v is not None} for one in drafters]
    with pytest.raises(NotApplicable, match=said):
        composed(name, deployed(*given_))


def test_the_shipped_example_has_what_systems_need():
    text = resources.files("specsim.examples").joinpath("llama31_8b_systems.toml").read_text(encoding="utf-8")
    deployment = deploy(Scenario.from_dict(tomllib.loads(text)))
    elsewhere = ("dsd", "sled", "decentralized", "edge-network", "seed", "speed", "rsd", "dsbd", "ssbd")
    for name in (*NUMBERS, *elsewhere, "specdec++", "sequoia", "pearl", "dsi"):
        made, _ = compose(system(name), deployment)
        assert made.programs


# Signals


@pytest.mark.parametrize("name", ["bild", "adasd", "tandem"])
def test_a_prompt_waits_for_no_long_draft(name):
    """Its iteration drafts one token, whatever the longest draft is."""
    short, long = (run(composed(name, most=most), requests=1, output=2) for most in (2, 12))
    assert long.result.ttft_s[0] == pytest.approx(short.result.ttft_s[0])


@pytest.mark.parametrize("tolerated", [0.0, 0.5])
def test_bild_without_correlation_is_its_exact_chain(tolerated):
    outcome = run(composed("bild", tolerated=tolerated), requests=10, output=8001)
    exact = bild.per_token(bild.Fates(0.2, (1 - RATE) * (1 - tolerated)))
    tokens = float((outcome.result.output_tokens - 1).sum())
    assert outcome.result.rounds.sum() / tokens == pytest.approx(exact.large, rel=0.01)
    assert outcome.result.drafted.sum() / tokens == pytest.approx(exact.small, rel=0.01)


def test_bilds_extra_pass_is_a_plain_step():
    made = composed("bild")
    batch = Batch(1.0, 500.0)
    plain = float(DEPLOYED.program(None, 0).seconds(batch))
    assert float(made.programs[bild.LARGE_AGAIN].seconds(batch)) == plain
    steps = [float(made.programs[n + 1].seconds(batch)) for n in range(bild.MOST + 1)]
    assert steps == sorted(steps)
    assert steps[0] > plain


def test_adasd_settles_at_the_mean_entropy_and_then_drafts_geometrically():
    """Independent entropies: T tends to their mean, so a token is the last with 1/e; the densities never speak."""
    outcome = run(composed("adasd", warm_up=10**6), requests=8, output=8001, users=8)
    i = np.arange(1, 9)
    expected = 1 + float((RATE**i * (1 - np.exp(-1)) ** (i - 1)).sum())
    assert outcome.tokens_per_round == pytest.approx(expected, rel=0.03)


def test_densities_only_ever_keep_more_and_keep_all_where_distance_says_nothing():
    def share(**numbers):
        result = run(composed("adasd", **numbers), requests=8, output=1001, users=8).result
        return result.accepted.sum() / result.drafted.sum()

    strict, mild, blind = share(warm_up=10**6), share(distance_correlation=0.6), share(distance_correlation=0.0)
    assert strict < mild < blind
    assert blind > 0.97


@pytest.mark.parametrize(("threshold", "length"), [(0.6, 17), (0.8, 1)])
def test_a_stop_network_that_knows_nothing_drafts_all_or_one(threshold, length):
    made = composed("tandem", correlation=0.0, threshold=threshold)
    outcome = run(made, requests=8, output=4001)
    assert set(outcome.result.work.rounds) == {length}
    assert outcome.tokens_per_round == pytest.approx(float(expected_tokens_iid(RATE, length)), rel=0.02)


# Three models


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


# Pools and ensembles


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
