"""Round programs of draft-and-verify: what composes, what grows, what is refused."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.cost.drafter import load_drafter
from specsim.cost.drafting import load_draft_host
from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.cost.shapes import Segment, StepShape
from specsim.cost.step import StepCost
from specsim.errors import InputError
from specsim.simulation.program import Batch, PrefillChunk
from specsim.systems.apart import draft_passes
from specsim.systems.draft_tree import draft_tree
from specsim.systems.draft_verify import draft_verify

LLAMA = load_model("Llama-3.1-8B")
VLLM = load_engine("vllm")
H100 = load_profile("h100_sxm", engine="vllm", dtype="bf16")
PLAIN = draft_verify(LLAMA, None, k=0, profile=H100, engine=VLLM)
CHUNKS = (PrefillChunk(300, 0), PrefillChunk(300, 0), PrefillChunk(128, 512, last=False))

batches = st.builds(
    lambda n, each, chunks: Batch(n, n * each, prefill=chunks),
    st.integers(1, 128),
    st.integers(1, 4000),
    st.sampled_from([(), CHUNKS[:1], CHUNKS]),
)


def program(method, k, **changes):
    return draft_verify(LLAMA, load_drafter(method, target=LLAMA, **changes), k=k, profile=H100, engine=VLLM)


@given(batch=batches, method=st.sampled_from(["eagle", "eagle3", "medusa", "ngram"]), k=st.integers(1, 8))
@settings(max_examples=40)
def test_time_is_the_sum_of_passes_and_host(batch, method, k):
    made = program(method, k)
    passes = sum(p.repeats * float(p.cost(p.shape(batch)).total_s) for p in made.passes)
    assert float(made.seconds(batch)) == pytest.approx(passes + float(made.host(batch).total_s), rel=1e-12)
    assert float(made.time(batch).total_s) == pytest.approx(
        sum(float(t.seconds) for t in made.time(batch).terms.values())
    )


@given(batch=batches, method=st.sampled_from(["eagle", "eagle3", "medusa", "ngram", "none"]))
@settings(max_examples=25)
def test_no_drafted_tokens_is_plain_decoding(batch, method):
    """A drafter that is configured and drafts nothing costs nothing."""
    made = program(method, 0)
    assert made.tokens_per_sequence == 1
    assert float(made.seconds(batch)) == float(PLAIN.seconds(batch))


@given(batch=batches, method=st.sampled_from(["eagle", "eagle3", "mtp", "medusa", "ngram"]))
@settings(max_examples=25)
def test_longer_drafts_take_longer(batch, method):
    seconds = [float(PLAIN.seconds(batch))] + [float(program(method, k).seconds(batch)) for k in range(1, 9)]
    assert all(b > a for a, b in pairwise(seconds))


def test_plain_decoding_is_the_step_and_the_host():
    n, cached = 16, 16 * 700
    step = StepCost(LLAMA.forward(), H100, VLLM).cost(StepShape((Segment("decode", n, n, cached, n),)))
    host = VLLM.host_time(n, query_tokens=n)
    assert float(PLAIN.seconds(Batch(n, cached))) == pytest.approx(float(step.total_s + host.total_s), rel=1e-12)


def test_one_call_prices_many_batches():
    n = np.array([1.0, 8.0, 64.0])
    made = program("eagle3", 3)
    together = made.seconds(Batch(n, n * 500))
    assert together.shape == (3,)
    for i, each in enumerate(n):
        assert together[i] == pytest.approx(float(made.seconds(Batch(each, each * 500))), rel=1e-12)


def test_cost_follows_depth_and_launches_not_parameters():
    """A 16-layer model of 1.2 B parameters drafts slower than a one-layer head, by far more than its weights say."""
    batch = Batch(1, 500)
    small = draft_verify(
        LLAMA, load_drafter("draft_model", target=LLAMA, model="Llama-3.2-1B"), k=3, profile=H100, engine=VLLM
    )
    head = program("eagle3", 3)

    def drafting(made):
        return sum(float(t.seconds) for name, t in made.time(batch).terms.items() if name.startswith("draft."))

    assert drafting(small) > 1.5 * drafting(head)
    parameters = load_model("Llama-3.2-1B").parameters / LLAMA.parameters
    per_pass = drafting(small) / 2 / float(PLAIN.seconds(batch))
    assert per_pass > 1.2 * parameters


def test_a_pass_waits_for_the_host_where_that_is_slower():
    batch, host = Batch(1, 200), load_draft_host(VLLM)
    made = program("eagle3", 2)
    spent = {name: float(t.seconds) for name, t in made.time(batch).terms.items() if name.startswith("draft.")}
    calls = host.model_calls + host.pass_calls + host.mapping_calls
    assert sum(spent.values()) == pytest.approx(max(calls * host.call_s, sum(spent.values()) - spent["draft.launch"]))
    quick = draft_verify(
        LLAMA, load_drafter("eagle3", target=LLAMA), k=2, profile=H100, engine=replace(VLLM, launch_s=1e-7)
    )
    assert float(quick.time(batch).terms["draft.launch"].seconds) == 0.0


def test_the_first_pass_takes_every_token_of_the_step():
    made = program("eagle3", 3)
    first = next(p for p in made.passes if p.name == "draft_first")
    segments = first.shape(Batch(10, 5000, prefill=CHUNKS)).segments
    assert sum(float(np.asarray(s.query_tokens)) for s in segments) == 10 * 4 + 300 + 300 + 128
    assert sum(float(np.asarray(s.logit_rows)) for s in segments) == 10 + 3  # one a request, prompts too
    verify = made.passes[0].shape(Batch(10, 5000, prefill=CHUNKS)).segments
    assert sum(float(np.asarray(s.logit_rows)) for s in verify) == 10 * 4 + 3


def test_following_passes_see_the_cache_grow():
    made = program("eagle", 5)
    following = made.passes[-1]
    assert following.repeats == 4
    (segment,) = following.shape(Batch(10, 5000)).segments
    assert float(np.asarray(segment.query_tokens)) == 10
    assert float(np.asarray(segment.kv_tokens)) == 5000 + 10 * (6 + 2)  # verified tokens, and the middle of four passes


def test_medusa_drafts_in_one_pass_and_lookup_in_none():
    assert [p.name for p in program("medusa", 4).passes] == ["verify", "draft"]
    assert program("medusa", 4).passes[1].repeats == 1
    assert [p.name for p in program("ngram", 4).passes] == ["verify"]


def test_lookup_that_rarely_proposes_verifies_little():
    batch = Batch(64, 64 * 500)
    always, rarely = program("ngram", 3), program("ngram", 3, proposal_rate=0.1)
    plain = float(PLAIN.seconds(batch))
    assert plain < float(rarely.seconds(batch)) < float(always.seconds(batch))
    segment = rarely.passes[0].shape(batch).segments[0]
    assert float(np.asarray(segment.query_tokens)) == pytest.approx(64 * 1.3)


def test_prefill_alone_has_no_verification():
    made = program("eagle3", 3)
    alone = made.time(Batch(0, 0, prefill=CHUNKS))
    assert float(alone.terms["host.verify_inputs"].seconds) == 0.0
    assert float(alone.terms["verify.verify_attention"].seconds) == 0.0
    assert np.isfinite(alone.total_s)
    assert float(alone.total_s) > float(PLAIN.seconds(Batch(0, 0, prefill=CHUNKS)))  # the head must cache the prompt


def test_a_chain_is_a_tree_of_one_branch():
    """With one branch a tree verifies and drafts the tokens that a chain does; so does its bookkeeping."""
    drafter, batch = load_drafter("eagle3", target=LLAMA), Batch(4, 4 * 300)
    profile, engine = load_profile("h100_sxm", engine="sglang", dtype="bf16"), load_engine("sglang")
    chain = draft_verify(LLAMA, drafter, k=3, profile=profile, engine=engine)
    tree = draft_tree(LLAMA, drafter, steps=3, branches=1, tokens=4, profile=profile, engine=engine)
    assert tree.k == chain.k == 3
    assert float(tree.seconds(batch)) == pytest.approx(float(chain.seconds(batch)), rel=0.01)


@given(n=st.integers(1, 16), tokens=st.integers(4, 40))
@settings(max_examples=20)
def test_larger_trees_take_longer(n, tokens):
    drafter, batch = load_drafter("eagle3", target=LLAMA), Batch(n, n * 500)
    arguments = {"profile": H100, "engine": VLLM, "steps": 6, "branches": 4}
    small = draft_tree(LLAMA, drafter, tokens=tokens, **arguments)
    large = draft_tree(LLAMA, drafter, tokens=tokens + 8, **arguments)
    assert float(large.seconds(batch)) > float(small.seconds(batch))


def test_a_mixture_verifies_more_experts_than_it_decodes_with():
    """What makes speculation slow there: tokens in flight touch experts, so that verifying reads more weights."""
    target = load_model("Qwen3-30B-A3B")
    arguments = {"profile": H100, "engine": VLLM, "tensor_parallel": 2}
    batch = Batch(1, 500)
    plain = draft_verify(target, None, k=0, **arguments).time(batch).terms["decode.experts"].seconds
    verify = (
        draft_verify(target, load_drafter("eagle3", target=target), k=7, **arguments)
        .time(batch)
        .terms["verify.experts"]
    )
    assert float(verify.seconds) > 2 * float(plain)


def test_weights_are_of_the_profiles_precision():
    """An fp8 profile prices fp8 weights without being told, and bf16 ones not at all: its bf16 is the LM head's."""
    fp8 = load_profile("h100_sxm", engine="vllm", dtype="fp8")
    machine = {"profile": fp8, "engine": VLLM}
    small = load_drafter("draft_model", target=LLAMA, model="Llama-3.2-1B")
    eagle, tree = load_drafter("eagle3", target=LLAMA), {"steps": 3, "branches": 1, "tokens": 4}
    batch = Batch(32, 32 * 1000)
    for drafter in (small, eagle):
        told, untold = (draft_verify(LLAMA, drafter, k=3, **machine, **d) for d in ({"dtype": "fp8"}, {}))
        assert {p.name: p.forward.weight_dtype for p in untold.passes} == {
            p.name: p.forward.weight_dtype for p in told.passes
        }
        assert untold.passes[0].forward.weight_dtype == "fp8"
        assert float(untold.seconds(batch)) == float(told.seconds(batch))
    assert float(untold.time(batch).terms["verify.gemm"].seconds) < 0.8 * float(
        program("eagle3", 3).time(batch).terms["verify.gemm"].seconds
    )
    static = draft_verify(LLAMA, small, k=3, dtype="fp8_static", **machine)
    assert float(static.seconds(batch)) < float(draft_verify(LLAMA, small, k=3, **machine).seconds(batch))
    assert draft_tree(LLAMA, eagle, **tree, **machine).passes[0].forward.weight_dtype == "fp8"
    assert draft_passes(small, 3, device="gpu", **machine)[0].forward.weight_dtype == "fp8"
    beside = draft_verify(LLAMA, small, k=3, draft_profile=H100, **machine)
    assert [p.forward.weight_dtype for p in beside.passes] == ["fp8", "bf16", "bf16"]
    message = "h100_sxm-vllm-fp8 prices fp8 weights, asked for bf16"
    for build in (
        lambda: draft_verify(LLAMA, small, k=3, dtype="bf16", **machine),
        lambda: draft_tree(LLAMA, eagle, dtype="bf16", **tree, **machine),
        lambda: draft_passes(small, 3, device="gpu", dtype="bf16", **machine),
    ):
        with pytest.raises(InputError, match=message):
            build()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"k": -1}, "-1 drafted tokens"),
        ({"k": 3, "drafter": None}, "3 drafted tokens without a drafter"),
        ({"k": 3, "drafter": load_drafter("eagle", target=load_model("Llama-3.1-70B"))}, "drafts for meta-llama"),
    ],
)
def test_programs_that_make_no_sense(arguments, message):
    drafter = arguments.get("drafter", load_drafter("eagle3", target=LLAMA))
    with pytest.raises(InputError, match=message):
        draft_verify(LLAMA, drafter, k=arguments["k"], profile=H100, engine=VLLM)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 2, "branches": 2, "tokens": 8}, "fill a tree of 7 at most"),
        ({"steps": 0, "branches": 2, "tokens": 2}, "steps: 0"),
        ({"steps": 2, "branches": 2, "tokens": 1}, "tokens: 1"),
    ],
)
def test_trees_that_cannot_be_filled(arguments, message):
    with pytest.raises(InputError, match=message):
        draft_tree(LLAMA, load_drafter("eagle3", target=LLAMA), profile=H100, engine=VLLM, **arguments)
    with pytest.raises(InputError, match="drafts no trees"):
        draft_tree(LLAMA, load_drafter("ngram", target=LLAMA), profile=H100, engine=VLLM, steps=2, branches=1, tokens=3)


def test_an_engine_without_known_host_work_is_refused():
    with pytest.raises(InputError, match="speculation under 'other' is not priced"):
        load_draft_host(replace(VLLM, name="other"))
