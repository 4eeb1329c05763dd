"""Servers, links and the expanded executor against closed forms and conservation."""

from __future__ import annotations

import numpy as np
import pytest
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance.chains import Iid
from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.adaptive import BackOff
from specsim.drafting.stopping import ConfidenceThreshold
from specsim.simulation.expanded import run_expanded
from specsim.simulation.links import Link, LinkLaw
from specsim.simulation.round_rules import ControlledRounds, DrawnRounds, FixedLength, SignalRounds
from specsim.simulation.servers import Batching, Job, Server
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology, on_one
from specsim.simulation.workload import ClosedLoop, Fixed, Lognormal, Poisson, Requests, Workload
from specsim.theory.tokens import expected_tokens_iid


def served(arrivals, services, **batching):
    """When each job is done, on one server whose batch takes its longest member's time."""
    env, done = simpy.Environment(), {}
    server = Server(env, "s", lambda jobs: max(job.what for job in jobs), Batching(**batching))

    def source():
        for i, (at, seconds) in enumerate(zip(arrivals, services, strict=True)):
            yield env.timeout(at - env.now)
            server.submit(Job(i, seconds, lambda job: done.update({job.owner: env.now})))

    env.process(source())
    env.run()
    return np.array([done[i] for i in range(len(services))]), server.use()


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), n=st.integers(1, 60), load=st.floats(0.2, 3.0))
def test_one_at_a_time_is_lindleys_recursion(seed, n, load):
    rng = np.random.default_rng(seed)
    arrivals, services = np.cumsum(rng.exponential(1.0, n)), rng.exponential(load, n)
    done, use = served(arrivals, services)
    free = 0.0
    for at, seconds, end in zip(arrivals, services, done, strict=True):
        free = max(free, at) + seconds
        assert end == pytest.approx(free, rel=1e-12)
    assert use.busy_s == pytest.approx(services.sum())
    assert (use.batches, use.jobs) == (n, n)


def test_a_window_gathers_what_comes_within_it():
    done, use = served([0.0, 0.1, 0.3, 0.9], [1.0] * 4, max_batch=8, window_s=0.25)
    np.testing.assert_allclose(done, [1.25, 1.25, 2.25, 2.25])  # the third's window is over while the first two run
    assert (use.batches, use.mean_batch) == (2, 2.0)


def test_a_full_batch_does_not_wait_for_its_window():
    done, _ = served([0.0, 0.1, 0.2], [1.0] * 3, max_batch=2, window_s=5.0)
    np.testing.assert_allclose(done, [1.1, 1.1, 6.2])


def test_priority_goes_first_and_cancelled_work_is_skipped():
    env, order = simpy.Environment(), []
    server = Server(env, "s", lambda jobs: 1.0, Batching(order="priority"))
    jobs = [Job(i, None, lambda job: order.append(job.owner), priority=p) for i, p in enumerate([5.0, 3.0, 1.0, 2.0])]
    for job in jobs:
        server.submit(job)
    jobs[3].cancelled = True
    env.run()
    assert order == [0, 2, 1]  # the first started alone before the others came
    assert server.use().jobs == 3


def test_a_rule_may_take_less_than_fits():
    done, use = served([0.0] * 5, [1.0] * 5, max_batch=4, take=lambda queue, now: range(min(2, len(queue))))
    assert use.batches == 3
    assert done.max() == 3.0


def arrivals_over(law, sizes, weights=None, seed=0):
    env, there = simpy.Environment(), {}
    link = Link(env, "l", law, np.random.default_rng(seed))
    for i, size in enumerate(sizes):
        link.send(size, lambda _, i=i: there.update({i: env.now}), 1.0 if weights is None else weights[i])
    env.run()
    return np.array([there[i] for i in range(len(sizes))]), link.use()


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.floats(0, 1e4), min_size=1, max_size=20), latency_s=st.floats(0, 1))
def test_messages_in_turn(sizes, latency_s):
    there, use = arrivals_over(LinkLaw(latency_s, 1e3), sizes)
    np.testing.assert_allclose(there, np.cumsum(sizes) / 1e3 + latency_s, rtol=1e-9)
    assert use.bytes_sent == pytest.approx(sum(sizes))
    assert (use.messages, use.lost) == (len(sizes), 0)


@settings(max_examples=30, deadline=None)
@given(sizes=st.lists(st.floats(1, 1e4), min_size=1, max_size=20), seed=st.integers(0, 100))
def test_sharing_conserves_work_and_is_fair(sizes, seed):
    """All sent at once: the last ends when all bytes are through; equal weights end in order of size."""
    weights = np.random.default_rng(seed).uniform(0.5, 2.0, len(sizes))
    there, _ = arrivals_over(LinkLaw(0.0, 1e3, sharing="shared"), sizes, weights)
    assert there.max() == pytest.approx(sum(sizes) / 1e3, rel=1e-9)
    assert np.all(np.diff(there[np.argsort(sizes / weights)]) >= -1e-9)


def test_weights_that_follow_the_sizes_end_together():
    sizes = [100.0, 700.0, 200.0]
    there, _ = arrivals_over(LinkLaw(0.0, 1e3, sharing="shared"), sizes, sizes)
    np.testing.assert_allclose(there, 1.0)


def test_sharing_when_one_joins():
    env, there = simpy.Environment(), {}
    link = Link(env, "l", LinkLaw(0.0, 100.0, sharing="shared"), np.random.default_rng(0))

    def source():
        link.send(100.0, lambda _: there.update(a=env.now))
        yield env.timeout(0.5)
        link.send(25.0, lambda _: there.update(b=env.now))

    env.process(source())
    env.run()
    assert there == pytest.approx({"b": 1.0, "a": 1.25})  # 50 bytes alone, 25 and 25 beside each other, 25 alone


def test_losses_are_geometric_and_all_arrive():
    n, loss = 20_000, 0.3
    there, use = arrivals_over(LinkLaw(0.0, loss=loss, retry_s=1.0), [1.0] * n, seed=5)
    retries = n * loss / (1 - loss)
    assert use.lost == pytest.approx(retries, abs=5 * np.sqrt(retries / (1 - loss)))
    assert use.bytes_sent == n + use.lost
    assert there.sum() == pytest.approx(use.lost)  # each loss costs one second of its message
    assert use.messages == n


def test_jitter_stays_in_its_band_and_keeps_the_mean():
    there, _ = arrivals_over(LinkLaw(1.0, jitter=0.2), [0.0] * 5000)
    assert there.min() >= 0.8
    assert there.max() <= 1.2
    assert there.mean() == pytest.approx(1.0, abs=5 * 0.4 / np.sqrt(12 * 5000))


RATE, K = 0.7, 4


def split(k=K, draft_s=2e-3, verify_s=30e-3):
    return timed_program(
        "split",
        k,
        timed_pass("draft", draft_s, device="edge", repeats=k),
        timed_pass("verify", verify_s, device="cloud", after=("draft",), bytes_in=520.0),
    )


def cached(n, tokens, concurrency=None):
    return Requests(np.zeros(n), np.full(n, 10), np.full(n, tokens), concurrency)


class Chain:
    def __init__(self, k, streams, rate=RATE, seed=1):
        self.k, self.drawn = k, DrawnRounds(Iid(rate), streams, np.random.default_rng(seed))

    def length(self, stream):
        return self.k

    def settle(self, stream, k):
        accepted = self.drawn.accepted(stream, k)
        return accepted, accepted + 1


def test_a_round_over_links_takes_the_sum_of_its_parts():
    law = LinkLaw(5e-3, 1e6)
    topology = Topology(
        (ServerSpec("edge"), ServerSpec("cloud")),
        (LinkSpec("edge", "cloud", law), LinkSpec("cloud", "edge", law)),
        home="edge",
        reply_bytes=256.0,
    )
    made = run_expanded(split(), Chain(K, 1), cached(1, 4000), topology, np.random.default_rng(0), prompt_cached=True)
    round_s = K * 2e-3 + 30e-3 + 2 * 5e-3 + (520 + 256) / 1e6
    assert made.result.duration_s == pytest.approx(made.result.rounds.sum() * round_s, rel=1e-9)
    emitted = float(expected_tokens_iid(RATE, K))
    assert made.tokens_per_round == pytest.approx(emitted, rel=0.06)
    up, down = made.links
    assert (up.bytes_sent, down.bytes_sent) == (520.0 * up.messages, 256.0 * down.messages)
    assert up.messages == down.messages == made.result.rounds.sum()


@settings(max_examples=15, deadline=None)
@given(
    clients=st.integers(1, 12),
    targets=st.integers(1, 3),
    max_batch=st.integers(1, 6),
    window_s=st.sampled_from([0.0, 2e-3]),
    seed=st.integers(0, 1000),
)
def test_work_is_conserved(clients, targets, max_batch, window_s, seed):
    """Whatever the batches: every round is one job on each side, busy time is what batches cost."""
    rng = np.random.default_rng(seed)
    requests = Workload(ClosedLoop(clients), Fixed(10), Lognormal(40, 0.8)).sample(3 * clients, rng)
    law = LinkLaw(3e-3, jitter=0.5)
    topology = Topology(
        (ServerSpec("edge", clients), ServerSpec("cloud", targets, Batching(max_batch, window_s=window_s))),
        (LinkSpec("edge", "cloud", law), LinkSpec("cloud", "edge", law, per="all")),
        home="edge",
    )
    program = split(verify_s=lambda n, kv: 20e-3 + 1e-3 * n)
    made = run_expanded(program, Chain(K, len(requests)), requests, topology, rng, prompt_cached=True)
    rounds = int(made.result.rounds.sum())
    edges, clouds = made.servers[:clients], made.servers[clients:]
    assert sum(use.jobs for use in edges) == sum(use.jobs for use in clouds) == rounds
    assert sum(use.busy_s for use in edges) == pytest.approx(rounds * K * 2e-3)
    assert sum(use.busy_s for use in clouds) == pytest.approx(sum(20e-3 * u.batches + 1e-3 * u.jobs for u in clouds))
    assert made.result.drafted.sum() == rounds * K
    emitted = made.result.accepted + made.result.rounds
    assert np.all(emitted >= made.result.output_tokens)
    assert np.all(emitted - made.result.output_tokens <= K)
    assert np.isfinite(made.result.finish_s).all()
    assert max(use.mean_batch for use in clouds) <= max_batch


def test_all_running_requests_share_an_iteration():
    """On one device with room for all, a batch is everyone, as in the folded executor."""
    program = timed_program("one", 2, timed_pass("verify", lambda n, kv: 1e-2 + 1e-3 * n))
    topology = Topology((ServerSpec("gpu", batching=Batching(16)),))
    requests = cached(16, 500, concurrency=16)
    made = run_expanded(program, Chain(2, 16), requests, topology, np.random.default_rng(0), prompt_cached=True)
    (use,) = made.servers
    # The very first job finds an idle server and starts alone.
    assert use.batches <= int(made.result.rounds.max()) + 2
    assert made.result.busy_s == pytest.approx(made.result.finish_s.max(), rel=1e-9)


def test_deterministic_given_the_seed():
    def once():
        requests = Workload(Poisson(5.0), Fixed(20), Lognormal(60, 1.0)).sample(40, np.random.default_rng(2))
        rule = FixedLength(Iid(RATE), K, requests, np.random.default_rng(3), prompt_cached=True)
        law = LinkLaw(1e-3, jitter=0.3, loss=0.1, retry_s=0.05)
        topology = Topology(
            (ServerSpec("edge", 4), ServerSpec("cloud", batching=Batching(4))), (LinkSpec("edge", "cloud", law),)
        )
        return run_expanded(split(), rule, requests, topology, np.random.default_rng(4), prompt_cached=True)

    one, other = once(), once()
    np.testing.assert_array_equal(one.result.finish_s, other.result.finish_s)
    assert one.links == other.links
    assert one.links[0].lost > 0


def test_programs_on_one_device_are_one_leg_whatever_their_graph():
    a = timed_program("g", 1, timed_pass("draft", 1e-3), timed_pass("verify", 2e-3, after=("draft",)))
    made = run_expanded(a, Chain(1, 1), cached(1, 50), on_one("gpu"), np.random.default_rng(0), prompt_cached=True)
    assert made.servers[0].jobs == made.result.rounds.sum()
    assert made.result.duration_s == pytest.approx(made.result.rounds.sum() * 3e-3)


def test_parallel_passes_meet_at_the_commit():
    """Two devices, no edge between them: the round lasts as long as the slower."""
    program = timed_program(
        "beside", 3, timed_pass("draft", 4e-3, device="a", repeats=3), timed_pass("verify", 7e-3, device="b")
    )
    made = run_expanded(
        program, Chain(3, 1), cached(1, 90), on_one("a", "b"), np.random.default_rng(0), prompt_cached=True
    )
    assert made.result.duration_s == pytest.approx(made.result.rounds.sum() * 12e-3)


@pytest.mark.parametrize("memory", [0.0, 0.6])
def test_a_policy_that_reads_signals_drafts_and_accepts_as_the_process_says(memory):
    process = CopulaSignals((0.8,), correlation=0.9, neighbour_correlation=memory)
    policy = ConfidenceThreshold(0.3, most=6)
    programs = {
        k: timed_program("p", k, timed_pass("draft", 1e-3, repeats=k), timed_pass("verify", 9e-3, after=("draft",)))
        for k in range(7)
    }
    rule = SignalRounds(process, policy, 4, np.random.default_rng(1))
    made = run_expanded(programs, rule, cached(4, 6000, 1), on_one("gpu"), np.random.default_rng(0), prompt_cached=True)
    rng = np.random.default_rng(9)
    drafted = process.draft(np.zeros((20_000, 0)), 6, rng)
    lengths = policy.lengths(drafted.signals)
    accepted, _ = process.settle(drafted, lengths, rng)
    rounds = made.result.rounds.sum()
    assert made.result.drafted.sum() / rounds == pytest.approx(lengths.mean(), rel=0.03)
    assert made.result.accepted.sum() / rounds == pytest.approx(accepted.mean(), rel=0.03)
    assert made.result.duration_s == pytest.approx(made.result.drafted.sum() * 1e-3 + rounds * 9e-3)


def test_a_controller_backs_off_where_little_survives():
    controller = BackOff(most=8, first=4)
    lengths = {}
    for rate in (0.1, 0.95):
        programs = {k: timed_program("p", k, timed_pass("verify", 9e-3)) for k in range(controller.most + 1)}
        rule = ControlledRounds(Iid(rate), controller, 3, np.random.default_rng(1))
        made = run_expanded(
            programs, rule, cached(3, 600, 1), on_one("gpu"), np.random.default_rng(0), prompt_cached=True
        )
        lengths[rate] = made.result.drafted.sum() / made.result.rounds.sum()
    assert lengths[0.1] < 0.6 * lengths[0.95]
