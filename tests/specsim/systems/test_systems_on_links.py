"""Systems over links on a scenario: a round is the sum of its passes and messages, bytes are the links', laws hold."""

from __future__ import annotations

import tomllib

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.planning.comparison import compose
from specsim.planning.deployment import deploy
from specsim.scenario import Scenario
from specsim.simulation.program import Batch
from specsim.simulation.workload import Requests
from specsim.systems import dsd_serving, seed, sled
from specsim.systems.catalogue import system
from specsim.systems.composition import NotApplicable
from specsim.systems.edge_network import Phase, pair_s

K, PROMPT = 3, 200
SURE = 1.0 - 1e-12
DRAWN = 0.7

EDGE = {"draft_s": 0.01, "prompt_s": 1e-4, "bytes_per_s": 1e7, "one_way_s": 4e-3}
OWN = {
    "dsd": {**EDGE, "jitter": 0.0, "batch_window_s": 0.0, "gamma": K},
    "sled": {**EDGE, "devices": 8, "correlation": 0.5, "window_s": 0.0, "threshold": 0.0, "most": K},
    "decentralized": {"one_way_s": 2e-3, "bytes_per_s": 1e8, "gamma": K, "nodes": 4},
    "seed": {"k": K, "branches": 3},
    "edge-network": {"uplink_bytes_per_s": 1e6, "fronthaul_s": 1e-3, "fronthaul_bytes_per_s": 1e9},
}
VOCAB, HIDDEN = 128256, 4096
MESSAGES = {
    "dsd": ((2 * K + 128, 1e7, 4e-3), (256, 1e7, 4e-3)),
    "sled": ((4 * K + 4, 1e7, 4e-3), (4 * (K + 1), 1e7, 4e-3)),
    "decentralized": (*(3 * ((2 * HIDDEN * (K + 1), 1e8, 2e-3),)), (4 * (K + 1), 1e8, 2e-3)),
    "seed": (),
    "edge-network": ((K * (4 + 2 * VOCAB), 1e9, 1e-3), (4 * (K + 1), 1e9, 1e-3)),
}
"""Bytes, bandwidth and latency of what a round sends."""
PROMPT_BYTES = {
    "dsd": 2 * PROMPT + 512 + 256,
    "sled": 4 * PROMPT + 4 * (K + 1),
    "decentralized": 3 * 2 * HIDDEN * PROMPT + 4 * (K + 1),
    "seed": 0,
    "edge-network": 2 * 4 * PROMPT + 4,
}


def scenario(rate=DRAWN, users=4, **own):
    drafter = {
        "method": "draft_model",
        "model": "meta-llama/Llama-3.2-1B",
        "num_speculative_tokens": [K],
        "acceptance": {"rate": rate},
    }
    return Scenario.from_dict(
        {
            "target": {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100_sxm"},
            "drafter": [drafter],
            "workload": {
                "arrivals": {"kind": "closed", "concurrency": users},
                "prompt_tokens": {"kind": "fixed", "tokens": PROMPT},
                "output_tokens": {"kind": "fixed", "tokens": 101},
            },
            "serving": {"max_num_seqs": 8},
            "systems": OWN | {name: OWN[name] | numbers for name, numbers in own.items()},
            "simulation": {"requests": 40},
        }
    )


def made(name, **changes):
    return compose(system(name), deploy(scenario(**changes)))[0]


def load(requests=20, output=401, users=4):
    return Requests(np.zeros(requests), np.full(requests, PROMPT), np.full(requests, output), users)


@pytest.mark.parametrize("name", OWN)
def test_a_lone_round_is_the_sum_of_its_passes_and_messages(name):
    """All drafts survive, so a round emits K + 1 and its context is known; every pass is priced by itself here."""
    composition = made(name, rate=SURE)
    result = composition.run(load(1, 101, 1), np.random.default_rng(0)).result
    (program,) = [p for k, p in composition.programs.items() if k == K]
    expected = 0.0
    for i in range(25):
        batch = Batch(1.0, PROMPT + 4.0 * i)
        passes = [p.repeats * float(p.cost(p.shape(batch)).total_s) for p in program.passes]
        links = [size / bandwidth + latency for size, bandwidth, latency in MESSAGES[name]]
        expected += sum(passes) + float(program.host(batch).total_s) + sum(links)
    assert result.rounds.tolist() == [25]
    assert float(result.finish_s[0] - result.first_token_s[0]) == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize("name", OWN)
def test_bytes_are_those_of_the_messages(name):
    outcome = made(name).run(load(), np.random.default_rng(0))
    rounds = int(outcome.result.rounds.sum())
    expected = rounds * sum(size for size, _, _ in MESSAGES[name]) + 20 * PROMPT_BYTES[name]
    assert sum(link.bytes_sent for link in outcome.links) == pytest.approx(expected)


@pytest.mark.parametrize("name", OWN)
def test_runs_repeat_and_conserve_tokens(name):
    composition = made(name)
    one, two = (composition.run(load(), np.random.default_rng(5)) for _ in range(2))
    assert one.result.finish_s.tolist() == two.result.finish_s.tolist()
    result = one.result
    assert (result.drafted == K * result.rounds).all()
    assert (result.accepted + result.rounds + 1 >= result.output_tokens).all()
    assert (result.accepted + result.rounds + 1 - result.output_tokens <= K).all()


@pytest.mark.parametrize(("name", "knob"), [
    ("dsd", "one_way_s"), ("sled", "one_way_s"), ("decentralized", "one_way_s"), ("edge-network", "fronthaul_s"),
    ("dsd", "draft_s"), ("sled", "draft_s"), ("dsd", "prompt_s"), ("sled", "prompt_s"),
])  # fmt: skip
def test_what_is_slower_makes_nothing_faster(name, knob):
    slow = {name: {knob: 3 * OWN[name][knob]}}
    times = [made(name, **change).run(load(), np.random.default_rng(2)).result.e2e_s.mean() for change in ({}, slow)]
    assert times[1] > times[0]


def test_the_shards_of_a_target_are_the_target():
    whole, cut = (made("decentralized", decentralized={"nodes": n}) for n in (1, 5))
    batch = Batch(1.0, 500.0)
    alone, parts = (m.programs[K] for m in (whole, cut))
    assert float(parts.seconds(batch)) == pytest.approx(float(alone.seconds(batch)))
    assert float(parts.flops(batch)) == pytest.approx(float(alone.flops(batch)))
    assert sum(d.weight_bytes for d in cut.devices) == pytest.approx(whole.devices[0].weight_bytes)
    assert cut.gpus == 5
    assert not whole.run(load(2), np.random.default_rng(0)).links


def test_slow_hops_leave_nothing_but_hops():
    """N hops a round, over the tokens of a round: what the paper's formula tends to, its way back charged."""
    outcome = made("decentralized", decentralized={"one_way_s": 10.0}).run(load(4, 2001, 1), np.random.default_rng(0))
    tpot = float(outcome.result.tpot_s.mean())
    assert tpot == pytest.approx(4 * 10.0 / outcome.tokens_per_round, rel=0.01)


def test_seed_keeps_to_its_bound_and_reaches_it():
    composition = made("seed", seed={"branches": 6})
    result = composition.run(load(24, 1001, 6), np.random.default_rng(0)).result
    verify, *drafting = composition.programs[K].passes

    def seconds(context):
        batch = Batch(1.0, context)
        drafts = sum(p.repeats * float(p.cost(p.shape(batch)).total_s) for p in drafting)
        return drafts, float(verify.cost(verify.shape(batch)).total_s + composition.programs[K].host(batch).total_s)

    (draft_s, verify_s), (_, late_s) = seconds(PROMPT), seconds(PROMPT + 1000)
    rate = result.rounds.sum() / result.duration_s
    assert rate <= seed.rounds_per_s_bound(6, draft_s=draft_s, verify_s=verify_s)
    assert rate >= 0.9 / late_s
    assert composition.devices[0].weight_bytes > made("seed").devices[0].weight_bytes


def test_two_batches_alternate_as_the_recurrence_says():
    """Eight users, batches of four: each round of both takes what ``pair_s`` finds for its stages, batch by batch."""
    composition = made("edge-network", rate=SURE, **{"edge-network": {"max_batch": 4}})
    outcome = composition.run(load(8, 401, 8), np.random.default_rng(0))
    program, batch = composition.programs[K], Batch(4.0, 4 * (PROMPT + 200.0))
    cost = {p.name: p.repeats * float(p.cost(p.shape(batch)).total_s) for p in program.passes}
    draft = np.array(cost["draft_first"] + cost["draft"])
    verify = np.array(cost["verify"] + float(program.host(batch).total_s))
    move, back = (4 * size / bandwidth + latency for size, bandwidth, latency in MESSAGES["edge-network"])
    phase = Phase(draft, draft, np.array(move), verify + back, verify + back)
    alternating = float(pair_s(phase, phase, 60) - pair_s(phase, phase, 40)) / 20
    lone = float(draft + move + verify + back)
    rounds = outcome.result.rounds
    assert (rounds == 100).all()
    per_round = float((outcome.result.finish_s - outcome.result.first_token_s).mean()) / 100
    assert max(lone, 2 * float(verify)) * 0.99 <= per_round <= alternating * 1.02
    assert outcome.servers[0].mean_batch == pytest.approx(4.0, rel=0.05)


def test_more_targets_share_the_devices_of_dsd():
    crowd = {"drafters": 64, "draft_s": 1e-4, "one_way_s": 0.0, "bytes_per_s": 1e9}
    one, two = (made("dsd", dsd={**crowd, "targets": n}) for n in (1, 2))
    outcomes = [m.run(load(64, 201, 16), np.random.default_rng(1)) for m in (one, two)]
    assert outcomes[1].tokens_per_s > 1.2 * outcomes[0].tokens_per_s
    busy = [use.busy_s for use in outcomes[1].servers[:2]]
    assert busy[0] == pytest.approx(busy[1], rel=0.1)
    assert two.gpus == 2 * one.gpus


def test_a_learned_window_drafts_less_where_little_survives():
    lengths = []
    for rate in (0.2, 0.9):
        result = (
            made("dsd", rate=rate, dsd={"window": "learned", "draft_s": 1e-3})
            .run(load(), np.random.default_rng(0))
            .result
        )
        lengths.append(float(result.drafted.sum() / result.rounds.sum()))
    assert lengths[0] < 2.5 < lengths[1]


@pytest.mark.parametrize("router", sorted(dsd_serving.ROUTERS))
@pytest.mark.parametrize("window", ["static", "back-off", "threshold"])
def test_every_router_and_window_of_dsd_serves_all(router, window):
    own = {"targets": 2, "router": router, "window": window}
    composition = made("dsd", dsd=own)
    outcome = composition.run(load(16, 101, 8), np.random.default_rng(2))
    result = outcome.result
    assert (result.accepted + result.rounds + 1 >= 101).all()
    assert all(use.busy_s > 0 for use in outcome.servers[:2])
    document = scenario(dsd=own)
    assert Scenario.from_dict(tomllib.loads(document.to_toml())) == document


def test_length_aware_batches_pad_less_where_windows_differ():
    """Eight users, batches of three; windows that are all alike change nothing."""
    ends, batch_s = {}, {}
    for window in ("static", "back-off"):
        for batching in ("fifo", "length-aware"):
            own = {"window": window, "batching": batching, "draft_s": 1e-3, "one_way_s": 0.0, "max_batch": 3}
            outcome = made("dsd", users=8, dsd=own).run(load(24, 401, 8), np.random.default_rng(2))
            assert (outcome.result.output_tokens == 401).all()
            ends[window, batching] = outcome.result.finish_s.tolist()
            batch_s[window, batching] = outcome.servers[0].busy_s / outcome.servers[0].batches
    assert ends["static", "fifo"] == ends["static", "length-aware"]
    assert batch_s["back-off", "length-aware"] < batch_s["back-off", "fifo"]


def test_a_deadline_that_all_meet_changes_nothing():
    free, far = (made("sled", sled={"deadline_s": s} if s else {}) for s in (0, 1e6))
    outcomes = [m.run(load(), np.random.default_rng(3)).result for m in (free, far)]
    np.testing.assert_allclose(outcomes[0].finish_s, outcomes[1].finish_s)


def test_replies_that_are_late_are_drafted_again():
    """Eight devices at once, and a deadline that lone rounds meet and full batches do not."""
    composition = made("sled", sled={"deadline_s": 0.024, "batching": "deadline"})
    outcome = composition.run(load(40, 101, 8), np.random.default_rng(3))
    plenty = made("sled").run(load(40, 101, 8), np.random.default_rng(3))
    assert outcome.result.rounds.sum() > plenty.result.rounds.sum()
    assert outcome.result.e2e_s.mean() > plenty.result.e2e_s.mean()
    assert (outcome.result.output_tokens == 101).all()


@pytest.mark.parametrize("users", [3, 8])
def test_static_batches_of_sled_are_full_and_all_are_answered(users):
    """Batches of six, or of all where fewer are served; only what is left as the workload ends is less."""
    own = {"batching": "static", "static_batch": 6, "most": 8, "threshold": 0.2}
    outcome = made("sled", users=users, sled=own).run(load(5 * users, 101, users), np.random.default_rng(3))
    full = min(6, users)
    assert outcome.servers[0].mean_batch == pytest.approx(full, rel=0.1)
    assert (outcome.result.output_tokens == 101).all()
    eager = made("sled", users=users, sled=own | {"batching": "eager"}).run(
        load(5 * users, 101, users), np.random.default_rng(3)
    )
    assert outcome.servers[0].batches < eager.servers[0].batches
    assert outcome.result.tpot_s.mean() > eager.result.tpot_s.mean()


@pytest.mark.parametrize("batching", ["static", "eager"])
def test_sled_on_a_scenario_serves_what_its_reproduction_does_at_the_same_prices(batching):
    own = {"batching": batching, "static_batch": 6, "most": 8, "threshold": 0.2, "bytes_per_s": 1e12, "window_s": 2e-3}
    composition = made("sled", sled=own)
    outcome = composition.run(load(8, 2001, 8), np.random.default_rng(3))

    class Prices(sled.VerifyLaw):
        def seconds(self, sequences, longest):
            program, batch = composition.programs[longest], Batch(sequences, sequences * (PROMPT + 1000.0))
            verify = program.passes[0]
            return float(verify.cost(verify.shape(batch)).total_s + program.host(batch).total_s)

    served = sled.simulate(
        np.random.default_rng(3), devices=8, max_batch=6 if batching == "static" else 8, mode=batching, rate=DRAWN,
        correlation=0.5, threshold=0.2, draft_s=EDGE["draft_s"], one_way_s=EDGE["one_way_s"], law=Prices(),
    )  # fmt: skip
    shared = outcome.result
    each = 2000 / (shared.finish_s - shared.first_token_s)
    assert float(each.sum()) == pytest.approx(served.tokens_per_s, rel=0.02)


@pytest.mark.parametrize(("name", "numbers", "said"), [
    ("dsd", {"bytes_per_s": 0}, "systems.dsd.bytes_per_s: 0; give more than 0"),
    ("dsd", {"targets": 1.5}, "systems.dsd.targets: 1.5; give a whole number"),
    ("dsd", {"jitter": 2}, "systems.dsd.jitter: 2; give 0 or more, at most 1"),
    ("dsd", {"window": "wide"}, 'systems.dsd.window: "wide"; give one of static, back-off, threshold, learned'),
    ("dsd", {"batching": "lifo"}, 'systems.dsd.batching: "lifo"; give one of fifo, length-aware'),
    ("dsd", {"max_batch": 1.5}, "systems.dsd.max_batch: 1.5; give a whole number"),
    ("dsd", {"router": 3}, "systems.dsd.router: 3; give one of jsq, jiq"),
    ("sled", {"draft_s": -1}, "systems.sled.draft_s: -1; give 0 or more"),
    ("sled", {"deadline_s": 1e-3}, "systems.sled.deadline_s: 0.001 s; a round takes"),
    ("sled", {"batching": "deadline"}, 'systems.sled.batching: "deadline"; give a deadline_s to batch by'),
    ("sled", {"batching": "static", "static_batch": 0}, "systems.sled.static_batch: 0; give a whole number"),
    ("decentralized", {"nodes": 33}, "systems.decentralized.nodes: 33; give a whole number, at least 1, at most 32"),
    ("seed", {"branches": 0}, "systems.seed.branches: 0; give a whole number"),
    ("seed", {"branches": 40}, "systems.seed: 114.9 GB of weights leave nothing for the cache"),
    ("edge-network", {"uplink_bytes_per_s": 0}, "uplink_bytes_per_s: 0; give more than 0"),
])  # fmt: skip
def test_wrong_numbers_are_one_line(name, numbers, said):
    with pytest.raises(InputError) as caught:
        made(name, **{name: numbers})
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("name", "needed"), [
    ("dsd", ("draft_s", "prompt_s", "bytes_per_s")),
    ("sled", ("draft_s", "one_way_s", "devices", "correlation")),
    ("decentralized", ("one_way_s", "bytes_per_s")),
    ("edge-network", ("uplink_bytes_per_s", "fronthaul_s")),
])  # fmt: skip
def test_all_that_is_missing_is_named_at_once(name, needed):
    document = scenario().to_dict()
    document["systems"].pop(name)
    with pytest.raises(NotApplicable) as why:
        compose(system(name), deploy(Scenario.from_dict(document)))
    assert f"[systems.{name}]" in why.value.reason
    assert all(one in why.value.reason for one in needed)
