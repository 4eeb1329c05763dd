"""What the executors say that they executed: conserved, and the same whichever runs."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.acceptance.chains import Iid
from specsim.cost.drafter import load_drafter
from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.simulation.engine import simulate
from specsim.simulation.expanded import run_expanded
from specsim.simulation.round_rules import FixedLength
from specsim.simulation.serving import Serving
from specsim.simulation.topology import on_one
from specsim.simulation.workload import Fixed, Lognormal, Poisson, Workload
from specsim.systems.draft_verify import draft_verify
from specsim.systems.timed_serving import LLAMA_8B_H100, ROOMY

LOAD = Workload(Poisson(30.0), Lognormal(200.0, 1.0), Lognormal(60.0, 0.7))
TIGHT = Serving(max_num_seqs=16, max_num_batched_tokens=512, num_blocks=60, block_size=16)


def ran(k: int, *, executor="auto", serving=ROOMY, load=LOAD):
    process = Iid(0.7) if k else None
    return simulate(
        LLAMA_8B_H100.program(k), process, load, serving, np.random.default_rng(4), num_requests=60, executor=executor
    )


@pytest.mark.parametrize("serving", [ROOMY, TIGHT], ids=["roomy", "preempting"])
@pytest.mark.parametrize("k", [0, 3])
def test_both_executors_executed_the_same(k, serving):
    load = Workload(Poisson(300.0), Fixed(100), Fixed(40))
    macro, stepwise = (ran(k, executor=e, serving=serving, load=load) for e in ("macro", "stepwise"))
    if serving is TIGHT:
        assert macro.preemptions.sum() > 0
    assert macro.work.rounds[k][0] == stepwise.work.rounds[k][0] == macro.rounds.sum()
    assert macro.work.rounds[k][1] == pytest.approx(stepwise.work.rounds[k][1])
    assert macro.work.chunks == stepwise.work.chunks


def test_plain_decoding_attends_to_every_token_before():
    made = ran(0)
    p, o = made.prompt_tokens.astype(float), made.output_tokens.astype(float)
    rounds = o - 1
    assert made.work.rounds[0] == (rounds.sum(), pytest.approx((rounds * p + rounds * (rounds - 1) / 2).sum()))


@pytest.mark.parametrize("k", [0, 4])
def test_every_prompt_token_is_computed_once_without_preemption(k):
    made = ran(k)
    assert sum(chunk[0] * count for chunk, count in made.work.chunks[k].items()) == made.prompt_tokens.sum()


def test_one_stream_on_a_server_executes_what_the_replica_does():
    load = Workload(Poisson(30.0), Fixed(100), Fixed(40))
    for_load, for_rounds = np.random.default_rng(4).spawn(2)
    requests = load.sample(60, for_load)
    rule = FixedLength(Iid(0.7), 3, requests, for_rounds)
    target = load_model("meta-llama/Llama-3.1-8B")
    machine = {"profile": load_profile("h100_sxm", engine="vllm", dtype="bf16"), "engine": load_engine("vllm")}
    program = draft_verify(target, load_drafter("eagle3", target=target), k=3, **machine)
    made = run_expanded(program, rule, requests, on_one("gpu"), np.random.default_rng(0), seats=1)
    alone = Serving(max_num_seqs=1, max_num_batched_tokens=8192, num_blocks=10_000)
    folded = simulate(program, Iid(0.7), load, alone, np.random.default_rng(4), num_requests=60)
    assert made.result.work.rounds == folded.work.rounds
    assert made.result.work.chunks == folded.work.chunks
