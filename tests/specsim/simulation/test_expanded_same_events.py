"""One program, two executors: batch one on one device meets the same events in both."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance.chains import Iid, PerPosition
from specsim.cost.drafter import load_drafter
from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.simulation.engine import simulate
from specsim.simulation.expanded import run_expanded
from specsim.simulation.round_rules import FixedLength
from specsim.simulation.serving import Serving
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import on_one
from specsim.simulation.workload import ClosedLoop, Lognormal, Poisson, Requests, Workload
from specsim.systems.draft_tree import draft_tree
from specsim.systems.draft_verify import draft_verify

LLAMA = load_model("Llama-3.1-8B")
VLLM = load_engine("vllm")
H100 = load_profile("h100_sxm", engine="vllm", dtype="bf16")
DRAFTERS = [("draft_model", "Llama-3.2-1B"), ("eagle", None), ("eagle3", None), ("mtp", None), ("medusa", None)]
DRAFTERS += [("ngram", None), ("none", None)]


def requests_of(load: Workload, n: int, seed: int) -> Requests:
    return load.sample(n, np.random.default_rng(seed))


def assert_same_events(program, process, requests, *, seed=7, budget=8192, executor="stepwise", rtol=1e-12):
    serving = Serving(1, budget, 4000)
    folded = simulate(program, process, requests, serving, np.random.default_rng(seed), executor=executor)
    _, for_rounds = np.random.default_rng(seed).spawn(2)
    rule = FixedLength(process, program.k, requests, for_rounds)
    devices = {p.device for p in program.passes}
    expanded = run_expanded(
        program, rule, requests, on_one(*devices), np.random.default_rng(0), seats=1, chunk_tokens=budget
    ).result
    for name in ("arrival_s", "scheduled_s", "first_token_s", "finish_s"):
        np.testing.assert_allclose(getattr(expanded, name), getattr(folded, name), rtol=rtol, err_msg=name)
    for name in ("rounds", "drafted", "accepted", "output_tokens"):
        np.testing.assert_array_equal(getattr(expanded, name), getattr(folded, name), err_msg=name)
    assert expanded.iterations == folded.iterations
    assert expanded.mixed_iterations == folded.mixed_iterations
    for name in ("busy_s", "batch_s"):
        assert getattr(expanded, name) == pytest.approx(getattr(folded, name), rel=1e-9), name
    seen = [np.sort(np.repeat(r.itl_s, r.itl_count)) for r in (expanded, folded)]
    np.testing.assert_allclose(*seen, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("method", "model"), DRAFTERS)
@pytest.mark.parametrize("executor", ["stepwise", "macro"])
def test_draft_verify_with_every_drafter(method, model, executor):
    extra = {"model": model} if model else {}
    drafter = load_drafter(method, target=LLAMA, **extra)
    k = 0 if method == "none" else 3
    program = draft_verify(LLAMA, drafter, k=k, profile=H100, engine=VLLM)
    requests = requests_of(Workload(Poisson(0.7), Lognormal(300, 1.0), Lognormal(80, 0.8)), 25, 3)
    assert_same_events(program, Iid(0.7) if k else None, requests, executor=executor)


def test_draft_tree():
    drafter = load_drafter("eagle3", target=LLAMA)
    program = draft_tree(LLAMA, drafter, steps=3, branches=2, tokens=6, profile=H100, engine=VLLM)
    requests = requests_of(Workload(Poisson(0.7), Lognormal(300, 1.0), Lognormal(80, 0.8)), 15, 3)
    assert_same_events(program, Iid(0.6), requests)


@settings(max_examples=25, deadline=None)
@given(
    k=st.integers(1, 6),
    rate=st.floats(0.05, 0.95),
    budget=st.integers(40, 600),
    loop=st.booleans(),
    seed=st.integers(0, 1000),
)
def test_any_given_times(k, rate, budget, loop, seed):
    """A cost that grows with the cache, prompts cut into chunks, open and closed loops."""
    program = timed_program(
        "given",
        k,
        timed_pass("draft", lambda n, kv: 1e-3 * n + 1e-7 * kv, repeats=k, prefill_s_per_token=1e-5),
        timed_pass("verify", lambda n, kv: 2e-2 + 1e-6 * kv, after=("draft",), prefill_s_per_token=1e-4),
    )
    arrivals = ClosedLoop(3) if loop else Poisson(2.0)
    requests = requests_of(Workload(arrivals, Lognormal(120, 0.7), Lognormal(40, 1.0)), 30, seed)
    assert_same_events(program, PerPosition((rate, rate**2)), requests, seed=seed, budget=budget)
