"""Published systems on a scenario: closed forms, conserved quantities, and what they say when they don't apply."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.drafting.trees import beam_tree, chain, full_branching, grown_tree
from specsim.planning.comparison import compare, compose, run_one
from specsim.planning.deployment import deploy
from specsim.scenario import Scenario
from specsim.simulation.engine import simulate
from specsim.simulation.program import Batch
from specsim.simulation.workload import Requests
from specsim.systems import dsi, pearl
from specsim.systems.catalogue import SYSTEMS, system
from specsim.systems.composition import NotApplicable
from specsim.systems.tree_rounds import TreeRounds
from specsim.theory.tokens import expected_tokens_iid

RANKS = [0.62, 0.12, 0.05, 0.03]
RATE = 0.7
METHODS = ("eagle", "eagle3", "medusa", "ngram", "mtp")
OWN = {
    "specdec++": {"correlation": 0.6},
    "tandem": {"correlation": 0.6},
    "bild": {"correlation": 0.6},
    "adasd": {"correlation": 0.6, "distance_correlation": 0.6},
    "magicdec": {"acceptance_rate": 0.8},
    "specformer": {"tokens_per_round": 1.8},
    "hsd": {"lower_rate": 0.5},
    "pyramid-sd": {"qualifier_rate": 0.5, "target_rate": 0.9},
    "staged": {"agreement": 0.5},
    "dsd": {"draft_s": 5e-3, "prompt_s": 1e-4, "bytes_per_s": 1e7},
    "sled": {
        "draft_s": 5e-3, "prompt_s": 1e-4, "bytes_per_s": 1e7, "one_way_s": 5e-3, "devices": 8, "correlation": 0.5,
    },
    "decentralized": {"one_way_s": 1e-3, "bytes_per_s": 1e8},
    "edge-network": {"uplink_bytes_per_s": 1e6, "fronthaul_s": 1e-4},
    "speed": {"right": 0.9, "depth": 4},
    "rsd": {"kept": 0.7, "step_tokens": 30, "judge_billions": 1.5},
    "dsbd": {"acceptance": 0.8, "width": 2},
    "ssbd": {"drafted": 0.8, "reused": 0.6},
}  # fmt: skip


def document(**changes):
    drafter = {
        "method": "draft_model",
        "model": "meta-llama/Llama-3.2-1B",
        "num_speculative_tokens": [3],
        "acceptance": {"rate": RATE, "by_rank": RANKS},
    }
    heads = [{"method": m, "num_speculative_tokens": [3], "acceptance": {"rate": RATE}} for m in METHODS]
    heads[1]["acceptance"]["by_rank"] = RANKS
    return {
        "target": {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100_sxm"},
        "drafter": [drafter, *heads],
        "workload": {
            "arrivals": {"kind": "closed", "concurrency": 4},
            "prompt_tokens": {"kind": "fixed", "tokens": 200},
            "output_tokens": {"kind": "fixed", "tokens": 101},
        },
        "serving": {"max_num_seqs": 8},
        "network": {"latency_s": 1e-5, "bandwidth_bytes_per_s": 1e10},
        "systems": OWN,
        "simulation": {"requests": 40},
        **changes,
    }


SCENARIO = Scenario.from_dict(document())
DEPLOYED = deploy(SCENARIO)
COMPOSED = [one.name for one in SYSTEMS]


def composed(name, deployment=DEPLOYED):
    return compose(system(name), deployment)[0]


def ran(name, *, requests=40, output=101, seed=0):
    made = composed(name)
    load = Requests(np.zeros(requests), np.full(requests, 200), np.full(requests, output), 4)
    return made, made.run(load, np.random.default_rng(seed))


NEVER = ("kong", "spec-bench", "fast-blt")
"""What no scenario can hold."""

BY_ITSELF = ("plain", "magicdec", "specformer", "speed", "ssbd")
"""What needs no drafter of the scenario's: none, or one that comes with the target."""


@pytest.mark.parametrize("name", sorted(set(COMPOSED) - set(NEVER)))
def test_every_composed_system_runs_where_the_scenario_has_what_it_needs(name):
    row = run_one(SCENARIO, name, (1,))
    assert not isinstance(row, str), row
    assert row == run_one(SCENARIO, name, (1,))
    assert row.output_tokens_per_s > 0
    assert row.tpot_s <= row.tpot_p95_s * (1 + 1e-9)
    assert row.tokens_per_round >= 1.0
    assert row.wasted_share is None or 0 <= row.wasted_share <= 1
    assert row.sweep[0].concurrency == 1


@pytest.mark.parametrize("name", sorted(set(COMPOSED) - {*BY_ITSELF, *NEVER}))
def test_without_a_drafter_every_system_says_what_to_add(name):
    bare = deploy(Scenario.from_dict({k: v for k, v in document().items() if k != "drafter"}))
    with pytest.raises(NotApplicable, match=r"add a \[\[drafter\]\]"):
        composed(name, bare)


@pytest.mark.parametrize(("name", "missing", "needed"), [
    ("eagle2", "by_rank", "acceptance.by_rank"),
    ("sequoia", "by_rank", "acceptance.by_rank"),
    ("specdec++", "systems", "correlation"),
    ("magicdec", "systems", "acceptance_rate"),
    ("specformer", "systems", "tokens_per_round"),
    ("pearl", "network", r"\[network\]"),
    ("leviathan", "acceptance", "give its"),
])  # fmt: skip
def test_what_is_missing_is_named(name, missing, needed):
    given = document()
    given.pop(missing, None)
    for drafter in given["drafter"]:
        drafter["acceptance"].pop(missing, None)
        drafter.pop(missing, None)
    with pytest.raises(NotApplicable, match=needed):
        composed(name, deploy(Scenario.from_dict(given)))


def test_plain_is_the_engine_without_a_drafter():
    made, outcome = ran("plain")
    load = Requests(np.zeros(40), np.full(40, 200), np.full(40, 101), 4)
    direct = simulate(DEPLOYED.program(None, 0), None, load, DEPLOYED.serving(None, 0), np.random.default_rng(0))
    assert outcome.result.finish_s.tolist() == direct.finish_s.tolist()
    assert made.devices[0].weight_bytes == DEPLOYED.target.weight_bytes()


@pytest.mark.parametrize("name", ["leviathan", "eagle", "eagle3", "medusa", "mtp"])
def test_chains_emit_what_the_closed_form_says(name):
    _, outcome = ran(name, requests=200, output=2001)
    assert outcome.tokens_per_round == pytest.approx(float(expected_tokens_iid(RATE, 3)), rel=0.01)


def test_operations_of_plain_decoding_are_parameters_and_attention():
    made, outcome = ran("plain")
    forward = DEPLOYED.target.forward()
    products = sum(2.0 * x.n * x.k * x.count for x in forward.linears)
    pair = sum(4.0 * a.count * a.heads * a.head_dim for a in forward.attention)
    rounds = 40 * 100
    keys = 40 * sum(200 + i + 1 for i in range(100))
    assert made.round_flops(outcome) == pytest.approx(products * rounds + pair * keys, rel=1e-12)
    head = next(x for x in forward.linears if x.rows == "logits")
    prompts = 40 * (200 * (products - 2.0 * head.n * head.k) + 2.0 * head.n * head.k + pair * 200 * 201 / 2)
    assert made.prompt_flops(outcome) == pytest.approx(prompts, rel=1e-12)


def test_certain_drafts_cost_their_passes_and_no_more():
    """K = 3, all accepted: a round verifies 4 positions, drafts over them and twice more, and emits 4."""
    sure = document()
    sure["drafter"] = [{"method": "mtp", "num_speculative_tokens": [3], "acceptance": {"rate": 1.0}}]
    deployment = deploy(Scenario.from_dict(sure))
    made = composed("mtp", deployment)
    load = Requests(np.zeros(1), np.array([200]), np.array([101]), 1)
    outcome = made.run(load, np.random.default_rng(0))
    assert outcome.result.rounds.tolist() == [25]
    drafter = deployment.candidates[0].drafter

    def products(shape, tokens, rows):
        return sum(2.0 * x.n * x.k * x.count * (tokens if x.rows == "tokens" else rows) for x in shape.linears)

    target, layer = deployment.target.forward(), drafter.next_pass(3)
    expected = products(target, 4, 4) + products(layer, 4, 1) + 2 * products(layer, 1, 1)
    pair = sum(4.0 * a.count * a.heads * a.head_dim for a in target.attention)
    attention = sum(pair * (4 * (200 + 4 * i) + 10) for i in range(25))
    assert made.round_flops(outcome) == pytest.approx(25 * expected + attention, rel=0.01)  # one layer's pairs left out
    assert made.round_flops(outcome) > 25 * expected + attention


def test_pearl_follows_its_closed_form_and_its_links():
    made, outcome = ran("pearl", requests=20, output=2001)
    (gamma,) = made.programs
    assert outcome.tokens_per_round == pytest.approx(float(pearl.tokens_per_step(RATE, gamma)), rel=0.02)
    assert made.gpus == 2
    sent = sum(link.bytes_sent for link in outcome.links)
    drafted = 4 + 2.0 * DEPLOYED.target.vocab
    prompts, rounds = 20, int(outcome.result.rounds.sum())
    down, up = 4 * (gamma + 1) * rounds + 4 * 200 * prompts, gamma * drafted * (rounds + prompts)
    assert sent == pytest.approx(down + up)
    row = run_one(SCENARIO, "pearl", (1,))
    assert row.network_bytes > 0
    assert run_one(SCENARIO, "leviathan", (1,)).network_bytes == 0


def test_dsi_follows_its_closed_form():
    """Between corrections: one pass of the target, and the drafting of the blocks before the one that shows it."""
    given = document(network={"latency_s": 0.0, "bandwidth_bytes_per_s": 1e15})
    given["systems"]["dsi"] = {"lookahead": 2, "targets": 6}
    made = composed("dsi", deploy(Scenario.from_dict(given)))
    outcome = made.run(Requests(np.zeros(4), np.full(4, 200), np.full(4, 3001), 1), np.random.default_rng(0))
    batch = Batch(1.0, 200.0 + 1500.0)
    draft_s, target_s = (float(made.programs[key].seconds(batch)) for key in (-1, 2))
    law = dsi.seconds_per_token(RATE, 2, draft_s=draft_s / 2, target_s=target_s)
    assert outcome.result.tpot_s.mean() == pytest.approx(law, rel=0.02)
    assert made.gpus == 7
    assert outcome.result.output_tokens.sum() == 4 * 3001
    assert outcome.result.work.chunks[0] == {(200, 0, True): 4 * 6}
    (link,) = outcome.links
    assert link.bytes_sent == pytest.approx(link.messages * 2 * (4 + 2.0 * DEPLOYED.target.vocab))


def test_dsi_serves_in_order_of_arrival():
    made = composed("dsi")
    outcome = made.run(
        Requests(np.zeros(6), np.full(6, 50), np.array([9, 1, 30, 2, 5, 1]), 3), np.random.default_rng(0)
    )
    result = outcome.result
    assert (np.diff(result.finish_s) > 0).all()
    assert (result.scheduled_s[1:] >= result.finish_s[:-1] - 1e-12).all()
    assert result.arrival_s[3:].tolist() == result.finish_s[:3].tolist()


def test_a_slower_network_never_makes_pearl_faster():
    slow = document(network={"latency_s": 2e-3, "bandwidth_bytes_per_s": 1e8})
    times = [run_one(s, "pearl", (1,)).tpot_s for s in (SCENARIO, Scenario.from_dict(slow))]
    assert times[1] > times[0]


@pytest.mark.slow
def test_a_speedups_interval_covers_what_many_requests_give():
    def speedup(requests, seed):
        scenario = Scenario.from_dict(document(simulation={"requests": requests, "seed": seed}))
        return compare(scenario, ["mtp"], concurrencies=[]).rows[1].speedup

    many = speedup(2000, 0)
    few = [speedup(80, seed) for seed in range(1, 13)]
    assert sum(one.low <= many.value <= one.high for one in few) >= 8  # fewer with probability 0.004 at 90 %
    assert all(many.high - many.low < one.high - one.low for one in few)


def test_what_cannot_batch_serves_one_at_a_time():
    alone = run_one(SCENARIO, "sequoia", (1, 4))
    assert alone.one_at_a_time
    assert [p.concurrency for p in alone.sweep] == [1]
    assert alone.output_tokens_per_s == pytest.approx(alone.sweep[0].output_tokens_per_s, rel=0.15)


@given(st.lists(st.floats(0.01, 0.3), min_size=1, max_size=3), st.integers(1, 4))
def test_a_trees_survival_adds_up_to_its_expected_tokens(ranks, depth):
    tree = full_branching([len(ranks)] * min(depth, 3))
    process = TreeRounds(tree, tuple(ranks))
    assert 1 + process.survival(tree.size - 1).sum() == pytest.approx(tree.expected_tokens(ranks))


def test_a_chain_is_a_tree():
    process = TreeRounds(chain(4), (RATE,))
    assert process.survival(4).tolist() == pytest.approx((RATE ** np.arange(1, 5)).tolist())
    accepted, _ = process.verify(process.start(50, np.random.default_rng(0)), 4, np.random.default_rng(1), rounds=2000)
    assert accepted.shape == (50, 2000)
    assert accepted.mean() == pytest.approx(process.survival(4).sum(), rel=0.01)


@given(st.lists(st.floats(0.01, 0.9), min_size=1, max_size=4), st.integers(1, 4), st.integers(2, 12))
def test_a_beam_wide_enough_finds_the_likeliest_paths(rates, steps, tokens):
    ranks = sorted((r / sum(rates) for r in rates), reverse=True)
    beam, worth = beam_tree(lambda _: ranks, steps=steps, branches=64, tokens=tokens)
    grown, best = grown_tree(lambda _: ranks, nodes=tokens, depth=steps)
    assert beam.size == grown.size
    assert worth.sum() == pytest.approx(best.sum())
    assert beam.expected_tokens(ranks) == pytest.approx(worth.sum())


def test_a_narrow_beam_never_finds_more():
    found = [beam_tree(lambda _: RANKS, steps=5, branches=b, tokens=30)[1].sum() for b in (1, 2, 4, 10)]
    assert found == sorted(found)


def test_the_best_length_is_chosen_in_closed_form():
    several = document()
    several["drafter"] = [{"method": "mtp", "num_speculative_tokens": [1, 2, 3, 5, 8], "acceptance": {"rate": RATE}}]
    scenario = Scenario.from_dict(several)
    chosen = run_one(scenario, "mtp", (1,))
    (drafter,) = several["drafter"]
    each = [{**several, "drafter": [{**drafter, "num_speculative_tokens": [k]}]} for k in (1, 2, 3, 5, 8)]
    rows = [run_one(Scenario.from_dict(one), "mtp", (1,)) for one in each]
    fastest = min(row.tpot_s for row in rows)
    assert chosen.tpot_s <= 1.02 * fastest
    assert chosen in rows
