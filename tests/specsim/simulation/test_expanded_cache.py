"""Cache blocks of servers: conserved, never exceeded, worth having, and the folded executor's where both can run."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance.chains import Iid
from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.stopping import ConfidenceThreshold
from specsim.errors import InputError
from specsim.simulation.cache_limits import BlockPool
from specsim.simulation.engine import simulate
from specsim.simulation.expanded import run_expanded
from specsim.simulation.links import LinkLaw
from specsim.simulation.round_rules import ChainRounds, FixedLength, SignalRounds
from specsim.simulation.servers import Batching
from specsim.simulation.serving import Serving
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology, on_one
from specsim.simulation.workload import ClosedLoop, Fixed, Lognormal, Poisson, Requests, Workload

RNG = np.random.default_rng
K = 3


def on_one_device(k=K):
    return timed_program(
        "one",
        k,
        timed_pass("draft", lambda n, kv: 1e-3 + 2e-5 * n, repeats=k, prefill_s_per_token=1e-6),
        timed_pass("verify", lambda n, kv: 2e-2 + 1e-4 * n + 1e-7 * kv, after=("draft",), prefill_s_per_token=2e-5),
    )


def split(k=K):
    draft = timed_pass("draft", 2e-3, device="edge", repeats=k, prefill_s_per_token=1e-5)
    verify = timed_pass(
        "verify",
        lambda n, kv: 2e-2 + 1e-3 * n,
        device="cloud",
        after=("draft",),
        bytes_in=500.0,
        prompt_bytes_in=2.0,
        prefill_s_per_token=1e-5,
    )
    return timed_program("split", k, draft, verify)


def edge_and_cloud(cloud_blocks, *, edge_blocks=None, clients=8, targets=2):
    law = LinkLaw(3e-3, 1e6, jitter=0.3)
    return Topology(
        (
            ServerSpec("edge", clients, num_blocks=edge_blocks),
            ServerSpec("cloud", targets, Batching(8, window_s=1e-3), num_blocks=cloud_blocks),
        ),
        (LinkSpec("edge", "cloud", law), LinkSpec("cloud", "edge", law)),
        home="edge",
        reply_bytes=200.0,
    )


def capped(load, n, seed, *, prompt=200, output=120):
    made = load.sample(n, RNG(seed))
    return Requests(
        made.arrival_s,
        np.minimum(made.prompt_tokens, prompt),
        np.minimum(made.output_tokens, output),
        made.concurrency,
    )


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(0, 5),
    rate=st.floats(0.1, 0.9),
    spare=st.integers(0, 20),
    block_size=st.sampled_from([1, 8, 16]),
    budget=st.integers(40, 600),
    loop=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_one_at_a_time_meets_the_folded_events(k, rate, spare, block_size, budget, loop, seed):
    """Room for the longest and ``spare`` blocks more: who waits for the seat anyway never waits for blocks."""
    load = Workload(ClosedLoop(3) if loop else Poisson(2.0), Lognormal(120, 0.7), Lognormal(40, 1.0))
    requests = capped(load, 25, seed)
    blocks = 1 + spare + -(-int((requests.prompt_tokens + requests.output_tokens).max() + k + 1) // block_size)
    process = Iid(rate) if k else None
    serving = Serving(1, budget, blocks, block_size, prefix_caching=False)
    folded = simulate(on_one_device(k), process, requests, serving, RNG(seed), executor="stepwise")
    _, for_rounds = RNG(seed).spawn(2)
    rule = FixedLength(process, k, requests, for_rounds)
    place = Topology((ServerSpec("gpu", num_blocks=blocks, block_size=block_size),))
    made = run_expanded(on_one_device(k), rule, requests, place, RNG(0), seats=1, chunk_tokens=budget).result
    for name in ("scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_allclose(getattr(made, name), getattr(folded, name), rtol=1e-12, err_msg=name)
    np.testing.assert_array_equal(made.rounds, folded.rounds)
    assert made.cache_max == pytest.approx(folded.cache_max)
    assert made.cache_s == pytest.approx(folded.cache_s)
    assert made.preemptions.sum() == folded.preemptions.sum() == 0


@pytest.fixture
def watched(monkeypatch):
    """Every change of every pool, checked as it happens."""
    pools = {}
    for name in ("give", "drop"):
        method = getattr(BlockPool, name)

        def checked(self, *args, method=method):
            method(self, *args)
            assert sum(self.held.values()) + self.free == self.usable
            assert self.free >= 0
            assert min(self.held.values(), default=0) >= 0
            pools[id(self)] = self

        monkeypatch.setattr(BlockPool, name, checked)
    return pools


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("where", ["one", "cloud", "both", "cached"])
def test_blocks_are_conserved_and_everyone_finishes(watched, where, seed):
    requests = capped(Workload(Poisson(60.0), Lognormal(100, 0.6), Lognormal(60, 0.8)), 60, seed)
    rule = ChainRounds(Iid(0.7), K, 60, RNG(seed))
    if where == "one":
        place = Topology((ServerSpec("gpu", batching=Batching(16), num_blocks=50),))
        made = run_expanded(on_one_device(), rule, requests, place, RNG(seed))
    else:
        place = edge_and_cloud(26, edge_blocks=24 if where == "both" else None)
        made = run_expanded(split(), rule, requests, place, RNG(seed), prompt_cached=where == "cached")
    assert np.isfinite(made.result.finish_s).all()
    assert made.result.preemptions.sum() > 0
    assert watched
    assert all(pool.free == pool.usable and not pool.held for pool in watched.values())
    assert 0.8 < made.result.cache_max <= 1.0
    assert max(use.cache_max for use in made.servers) == made.result.cache_max
    emitted = made.result.accepted + made.result.rounds
    assert emitted.sum() + made.recomputed + made.by_prefill * 60 >= made.result.output_tokens.sum()
    assert made.tokens_per_round == pytest.approx(1 + 0.7 + 0.49 + 0.343, rel=0.12)


def test_streams_of_a_device_share_it_as_in_the_folded_executor():
    """Many streams, blocks for a third of them: the two executors batch alike but for their first iterations."""
    requests = capped(Workload(ClosedLoop(24), Fixed(100), Lognormal(120, 0.5)), 300, 1, output=300)
    serving = Serving(24, 8192, 120, prefix_caching=False)
    folded = simulate(on_one_device(), Iid(0.7), requests, serving, RNG(2), executor="stepwise")
    place = Topology((ServerSpec("gpu", batching=Batching(24), num_blocks=120),))
    rule = FixedLength(Iid(0.7), K, requests, RNG(3))
    made = run_expanded(on_one_device(), rule, requests, place, RNG(2), seats=24).result
    assert folded.preemptions.sum() > 30
    assert made.preemptions.sum() == pytest.approx(folded.preemptions.sum(), rel=0.25)
    assert made.duration_s == pytest.approx(folded.duration_s, rel=0.03)
    assert made.cache_s / made.duration_s == pytest.approx(folded.cache_s / folded.duration_s, rel=0.03)


@pytest.mark.parametrize("split_up", [False, True])
def test_more_blocks_never_slow_it_down_in_the_mean(split_up):
    speed = []
    for blocks in (24, 32, 48, 96, 4000):
        runs = []
        for seed in range(4):
            requests = capped(Workload(ClosedLoop(16), Lognormal(100, 0.5), Lognormal(60, 0.6)), 96, seed)
            rule = FixedLength(Iid(0.7), K, requests, RNG(seed))
            if split_up:
                place, program = edge_and_cloud(blocks, clients=16), split()
            else:
                place, program = (
                    Topology((ServerSpec("gpu", batching=Batching(16), num_blocks=blocks),)),
                    on_one_device(),
                )
            runs.append(run_expanded(program, rule, requests, place, RNG(seed)).tokens_per_s)
        speed.append(np.mean(runs))
    assert np.all(np.diff(speed) >= -0.01 * speed[-1]), speed
    assert speed[-1] > 1.3 * speed[0]


def test_room_for_all_is_no_limit():
    requests = capped(Workload(Poisson(30.0), Lognormal(100, 0.6), Lognormal(60, 0.8)), 50, 4)

    def run(blocks):
        rule = ChainRounds(Iid(0.7), K, 50, RNG(1))
        return run_expanded(split(), rule, requests, edge_and_cloud(blocks), RNG(1)).result

    free, roomy = run(None), run(10_000)
    np.testing.assert_array_equal(free.finish_s, roomy.finish_s)
    assert roomy.preemptions.sum() == 0
    assert (free.cache_max, free.cache_s) == (0.0, 0.0)
    assert 0 < roomy.cache_max < 0.1


def test_a_full_target_does_not_hold_up_the_other():
    """Two long answers wait for each other on one target; short ones on the other one pass them by."""
    requests = Requests(np.zeros(6), np.full(6, 100), np.array([400, 20, 400, 20, 400, 20]))
    rule = ChainRounds(Iid(0.7), K, 6, RNG(0))
    made = run_expanded(split(), rule, requests, edge_and_cloud(34, clients=6), RNG(0)).result
    assert made.finish_s[[1, 3, 5]].max() < 0.2 * made.finish_s[[0, 2, 4]].max()
    assert made.preemptions[[0, 2, 4]].sum() > 0
    assert made.preemptions[[1, 3, 5]].sum() == 0


def test_a_chosen_length_survives_preemption():
    """Where long drafts run out of blocks more often, dropping their draws would shorten them in the mean."""

    def mean_length(blocks):
        requests = capped(Workload(ClosedLoop(12), Fixed(60), Fixed(80)), 240, 0)
        rule = SignalRounds(CopulaSignals((0.8,), 0.8), ConfidenceThreshold(0.3, 8), 240, RNG(5))
        place = Topology((ServerSpec("gpu", batching=Batching(12), num_blocks=blocks, block_size=1),))
        programs = {k: on_one_device(k) for k in range(9)}
        made = run_expanded(programs, rule, requests, place, RNG(5)).result
        return made.drafted.sum() / made.rounds.sum(), made.preemptions.sum()

    (tight, many), (roomy, none) = mean_length(400), mean_length(5000)
    assert many > 100
    assert none == 0
    assert tight == pytest.approx(roomy, rel=0.002)


class Remembered:
    """Random lengths; each must come back from its round as it was chosen, and once."""

    def __init__(self, most, rng):
        self.most, self.rng, self.chosen = most, rng, {}

    def length(self, stream):
        assert stream not in self.chosen
        self.chosen[stream] = int(self.rng.integers(0, self.most + 1))
        return self.chosen[stream]

    def settle(self, stream, k):
        assert k == self.chosen.pop(stream)
        return k // 2, k // 2 + 1


@pytest.mark.parametrize("blocks", [100, 110, 140, 200, 300])
def test_a_length_is_chosen_once_a_round_however_often_its_request_gives_way(blocks):
    """Also when it gives way again while it still recomputes, in chunks."""
    requests = capped(Workload(ClosedLoop(8), Fixed(40), Fixed(50)), 40, 0)
    place = Topology((ServerSpec("gpu", batching=Batching(8), num_blocks=blocks, block_size=1),))
    programs = {k: on_one_device(k) for k in range(6)}
    rule = Remembered(5, RNG(0))
    made = run_expanded(programs, rule, requests, place, RNG(0), chunk_tokens=16).result
    assert not rule.chosen
    assert made.preemptions.sum() > 0


def go(place, *, prompt=100, output=50, **options):
    requests = Requests(np.zeros(3), np.array([10, prompt, 10]), np.array([10, output, 10]))
    return run_expanded(split(), ChainRounds(Iid(0.7), K, 3, RNG(0)), requests, place, RNG(0), **options)


@pytest.mark.parametrize("cached", [False, True])
def test_a_request_longer_than_a_cache_is_named_at_once(cached):
    slots = 100 + 50 - (1 if cached else 2) + K + 1
    need = -(-slots // 16)
    go(edge_and_cloud(1 + need), prompt_cached=cached)
    with pytest.raises(InputError) as caught:
        go(edge_and_cloud(need), prompt_cached=cached)
    message = (
        f"server cloud: num_blocks: cannot hold request 1: its longest round needs {need} blocks of 16, not {need - 1}"
    )
    assert caught.value.lines == (message,) or list(caught.value.lines) == [message]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_blocks": 1}, "server gpu: num_blocks: 1; give at least 2"),
        ({"num_blocks": 0}, "server gpu: num_blocks: 0"),
        ({"num_blocks": 10, "block_size": 0}, "server gpu: block_size: 0"),
    ],
)
def test_limits_that_make_no_sense(changes, message):
    with pytest.raises(InputError, match=message):
        Topology((ServerSpec("gpu", **changes),)).check()


def test_those_who_wait_for_blocks_say_so():
    class Silent:
        def length(self, stream):
            return K

        def settle(self, stream, k):
            return 0, 0

    requests = Requests(np.zeros(2), np.full(2, 100), np.full(2, 20))
    place = Topology((ServerSpec("gpu", num_blocks=12),))
    with pytest.raises(InputError) as caught:
        run_expanded(on_one_device(), Silent(), requests, place, RNG(0), patience=3000)
    assert any("request 1 waits for 7 cache blocks on server gpu, 4 are free" in line for line in caught.value.lines)


def test_places_without_limits_are_as_before():
    assert on_one("gpu").servers[0].num_blocks is None
