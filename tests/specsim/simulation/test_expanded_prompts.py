"""Prompts beside decoding jobs: a batch costs what these cost at their own programs, and what the prompts add."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.acceptance.chains import Iid
from specsim.cost.drafter import load_drafter
from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.simulation.expanded import run_expanded
from specsim.simulation.graph import Graph, batch_seconds
from specsim.simulation.links import LinkLaw
from specsim.simulation.round_rules import DrawnRounds
from specsim.simulation.servers import Batching, Job
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology
from specsim.simulation.workload import ClosedLoop, Lognormal, Workload
from specsim.systems.draft_verify import draft_verify

PROMPT_S = 1e-4
LENGTHS = range(9)


def program(k, *, edge="gpu"):
    drafted = timed_pass("draft", 2e-3, device=edge, repeats=k, prefill_s_per_token=PROMPT_S / 2)
    verified = timed_pass(
        "verify",
        lambda n, kv: 2e-2 + 1e-3 * np.asarray(n) * (k + 1) + 1e-7 * np.asarray(kv),
        device="gpu",
        after=("draft",) if k else (),
        bytes_in=100,
        prefill_s_per_token=PROMPT_S / 2,
    )
    return timed_program(f"draft {k}", k, *((drafted, verified) if k else (verified,)))


def job(graph, kv=0, chunk=None):
    return Job(None, (graph.prices[0], kv, chunk, 0), lambda job: None)


ONE = Topology((ServerSpec("gpu"),))
GIVEN = {k: Graph(program(k), ONE, 10**6) for k in LENGTHS}
DECODING = st.lists(st.tuples(st.sampled_from(LENGTHS[1:]), st.integers(1, 2000)), min_size=1, max_size=8)
CHUNKS = st.lists(st.tuples(st.integers(1, 900), st.integers(0, 900), st.booleans()), min_size=1, max_size=3)


@given(DECODING, CHUNKS, st.sampled_from(LENGTHS[1:]), st.randoms(use_true_random=False))
def test_prompts_add_their_own_time_whatever_their_program_drafts(decoding, chunks, prompts_draft, mixer):
    alone = [job(GIVEN[k], kv) for k, kv in decoding]
    together = alone + [job(GIVEN[prompts_draft], chunk=chunk) for chunk in chunks]
    mixer.shuffle(together)
    longest = max(k for k, _ in decoding)
    without, n = batch_seconds(alone)
    assert without == GIVEN[longest].prices[0].decode(n, sum(kv for _, kv in decoding))
    assert batch_seconds(together) == (pytest.approx(without + PROMPT_S * sum(c[0] for c in chunks)), len(alone))


@given(CHUNKS, st.integers(1, 2000), st.sampled_from(LENGTHS[1:]))
def test_passes_that_prompts_alone_run_add_what_they_add_to_their_own_program(chunks, kv, prompts_draft):
    plain = [job(GIVEN[0], kv), job(GIVEN[0], kv)]
    together = plain + [job(GIVEN[prompts_draft], chunk=chunk) for chunk in chunks]
    assert batch_seconds(together)[0] == pytest.approx(
        batch_seconds(plain)[0] + PROMPT_S * sum(chunk[0] for chunk in chunks)
    )


def test_a_measured_program_prices_the_iteration_that_runs():
    target = load_model("meta-llama/Llama-3.1-8B")
    machine = {"profile": load_profile("h100_sxm", engine="vllm", dtype="bf16"), "engine": load_engine("vllm")}
    drafter = load_drafter("eagle3", target=target)
    graphs = {k: Graph(draft_verify(target, drafter, k=k, **machine), ONE, 10**6) for k in (2, 8)}
    chunk = (400, 0, True)
    decoding = [job(graphs[2], 500) for _ in range(16)]
    seconds, n = batch_seconds([*decoding, job(graphs[8], chunk=chunk)])
    assert (seconds, n) == (graphs[2].prices[0].mixed(16, 16 * 500, (chunk,)), 16)
    assert seconds < graphs[8].prices[0].mixed(16, 16 * 500, (chunk,))


class Turns:
    """One, two, three tokens, and again."""

    def __init__(self, requests, rng):
        self.rounds, self.drawn = [0] * requests, DrawnRounds(Iid(0.7), requests, rng)

    def length(self, stream):
        self.rounds[stream] += 1
        return 1 + self.rounds[stream] % 3

    def settle(self, stream, k):
        accepted = self.drawn.accepted(stream, k)
        return accepted, accepted + 1


@pytest.mark.parametrize("edge", ["gpu", "edge"])
@pytest.mark.parametrize("cached", [True, False])
def test_a_program_that_no_round_runs_changes_nothing(edge, cached):
    law = LinkLaw(2e-3, 1e6)
    links = () if edge == "gpu" else (LinkSpec("edge", "gpu", law), LinkSpec("gpu", "edge", law))
    servers = (ServerSpec("gpu", batching=Batching(4)), *((ServerSpec("edge", 6),) if links else ()))
    requests = Workload(ClosedLoop(6), Lognormal(80.0, 0.5), Lognormal(30.0, 0.5)).sample(30, np.random.default_rng(1))
    made = [
        run_expanded(
            {k: program(k, edge=edge) for k in lengths},
            Turns(30, np.random.default_rng(2)),
            requests,
            Topology(servers, links, home=edge),
            np.random.default_rng(3),
            prompt_cached=cached,
        )
        for lengths in ((1, 2, 3), (1, 2, 3, 30))
    ]
    one, other = (m.result.finish_s for m in made)
    assert other == pytest.approx(one, rel=1e-12)
