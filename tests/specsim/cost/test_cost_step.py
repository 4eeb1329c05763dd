from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.cost.engine import load_engine
from specsim.cost.law import non_decreasing
from specsim.cost.profile import load_profile
from specsim.cost.rows import sum_products
from specsim.cost.shapes import Attention, Experts, ForwardShape, Linear, Segment, StepShape, StepTime, Trust
from specsim.cost.step import StepCost
from specsim.errors import InputError

LAYERS = 32
LLAMA_8B = ForwardShape(
    name="Llama-3.1-8B",
    layers=LAYERS,
    hidden=4096,
    vocab=128256,
    linears=(
        Linear("qkv", 6144, 4096, LAYERS),
        Linear("o", 4096, 4096, LAYERS),
        Linear("gate_up", 28672, 4096, LAYERS),
        Linear("down", 4096, 14336, LAYERS),
        Linear("head", 128256, 4096, 1, rows="logits"),
    ),
    attention=(Attention(32, 8, 128, LAYERS),),
    elementwise_bytes_per_token=LAYERS * 130_000.0,
    elementwise_kernels=5 * LAYERS + 2,
)
WINDOWED = ForwardShape(
    name="windowed",
    layers=24,
    hidden=2880,
    vocab=201088,
    linears=(Linear("qkv", 5120, 2880, 24), Linear("o", 2880, 4096, 24), Linear("head", 201088, 2880, 1, "logits")),
    attention=(Attention(64, 8, 64, 12), Attention(64, 8, 64, 12, window=128)),
    elementwise_kernels=100,
)


def cost(gpu: str = "h100_sxm", engine: str = "vllm", forward: ForwardShape = LLAMA_8B) -> StepCost:
    return StepCost(forward, load_profile(gpu, engine=engine, dtype="bf16"), load_engine(engine))


COSTS = {
    "h100 vllm": cost(),
    "a100 vllm": cost("a100_sxm"),
    "b200 trtllm": cost("b200_sxm", "trtllm"),
    "windowed": cost(forward=WINDOWED),
}


def seconds(of: StepCost, *segments: Segment, mode: str = "auto") -> float:
    return float(of.cost(StepShape(segments, mode)).total_s)  # type: ignore[arg-type]


def test_a_llama_8b_step_on_an_h100_takes_what_streaming_its_weights_takes() -> None:
    step = COSTS["h100 vllm"].cost(StepShape((Segment("decode", 1, 1, 1024, 1),)))
    assert 6.0e-3 < float(step.total_s) < 6.7e-3  # vLLM's measured time per token is 7.07 ms, host included
    streaming = 2.0 * sum(x.n * x.k * x.count for x in LLAMA_8B.linears) / 3.35e12
    assert 1.05 < float(step.terms["gemm"].seconds + step.terms["head"].seconds) / streaming < 1.3
    assert set(step.terms) == {"gemm", "attention", "head", "elementwise"}


kinds = st.sampled_from(["decode", "verify", "prefill"])


@settings(max_examples=150, deadline=None)
@given(
    name=st.sampled_from(sorted(COSTS)),
    kind=kinds,
    sequences=st.integers(1, 600),
    each=st.integers(1, 700),
    cached=st.integers(0, 40_000),
    more=st.integers(1, 5_000),
    field=st.sampled_from(["query_tokens", "kv_tokens", "logit_rows"]),
    mode=st.sampled_from(["auto", "graph", "eager"]),
)
def test_more_work_for_the_same_sequences_is_never_cheaper(
    name: str, kind: str, sequences: int, each: int, cached: int, more: int, field: str, mode: str
) -> None:
    tokens = sequences if kind == "decode" else sequences * each
    if kind == "decode" and field == "query_tokens":
        field = "kv_tokens"
    base = {"query_tokens": tokens, "kv_tokens": sequences * cached, "logit_rows": sequences}
    grown = base | {field: base[field] + more}
    few, many = (seconds(COSTS[name], Segment(kind, sequences, **v), mode=mode) for v in (base, grown))  # type: ignore[arg-type]
    assert many >= few * (1.0 - 1e-12)


@settings(max_examples=40, deadline=None)
@given(
    name=st.sampled_from(sorted(COSTS)),
    sequences=st.integers(1, 300),
    k=st.integers(0, 8),
    context=st.integers(1, 8000),
    chunk=st.integers(1, 3000),
)
def test_an_array_of_shapes_costs_what_each_costs_alone(
    name: str, sequences: int, k: int, context: int, chunk: int
) -> None:
    n = np.array([1.0, float(sequences)])[:, None]
    c = np.array([1.0, float(context), 2.0 * context])
    verify = Segment("verify", n, n * (k + 1), n * c, n * (k + 1), kv_max=c)
    together = COSTS[name].cost(StepShape((verify, Segment("prefill", 1, chunk, 0, 1))))
    assert together.total_s.shape == (2, 3)
    for i in range(2):
        for j in range(3):
            ni, cj = float(n[i, 0]), float(c[j])
            alone = Segment("verify", ni, ni * (k + 1), ni * cj, ni * (k + 1), kv_max=cj)
            expected = seconds(COSTS[name], alone, Segment("prefill", 1, chunk, 0, 1))
            assert float(together.total_s[i, j]) == pytest.approx(expected, rel=1e-12)


def test_verifying_one_token_is_decoding() -> None:
    for of in COSTS.values():
        for n, context in ((1, 300), (64, 2000)):
            decode = of.cost(StepShape((Segment("decode", n, n, n * context, n),)))
            verify = of.cost(StepShape((Segment("verify", n, n, n * context, n),)))
            assert float(verify.total_s) == pytest.approx(float(decode.total_s), rel=1e-12)
            assert int(verify.terms["verify_attention"].trust) == Trust.TRANSFERRED


def test_verification_reads_the_cache_once() -> None:
    """At batch 32 over 8k, where reads are nearly everything, four tokens cost little more than one, not four times."""
    one = COSTS["h100 vllm"].cost(StepShape((Segment("decode", 32, 32, 32 * 8192, 32),)))
    four = COSTS["h100 vllm"].cost(StepShape((Segment("verify", 32, 128, 32 * 8192, 128),)))
    ratio = float(four.terms["verify_attention"].seconds / one.terms["attention"].seconds)
    assert 1.0 <= ratio < 1.1


def test_a_cache_that_is_not_split_makes_few_tokens_over_a_long_one_as_slow_as_many() -> None:
    of = COSTS["a100 vllm"]
    times = [
        float(of.cost(StepShape((Segment("verify", 1, q, 16384, q),))).terms["verify_attention"].seconds)
        for q in (1, 2, 16, 64)
    ]
    assert times[1] > 3.0 * times[0]
    assert times[2] == pytest.approx(times[1], rel=0.01)
    assert times[3] == pytest.approx(times[1], rel=0.01)


def test_the_longest_sequence_alone_bounds_attention_from_below() -> None:
    of = COSTS["h100 vllm"]
    alone = of.cost(StepShape((Segment("decode", 1, 1, 60_000, 1),))).terms["attention"].seconds
    mixed = Segment("decode", 8, 8, 60_007, 8, kv_max=60_000)
    assert float(of.cost(StepShape((mixed,))).terms["attention"].seconds) >= float(alone) * (1 - 1e-9)


def test_windowed_layers_stop_growing_at_their_window() -> None:
    of = COSTS["windowed"]

    def attention(context: int, windowed: int | None = None) -> float:
        segment = Segment("decode", 16, 16, 16 * context, 16, kv_tokens_windowed=windowed)
        return float(of.cost(StepShape((segment,))).terms["attention"].seconds)

    full = StepCost(ForwardShape("f", 12, 2880, 1000, (), (Attention(64, 8, 64, 12),)), of.profile, of.engine)
    growth = attention(8192) - attention(1024)
    full_growth = [
        float(full.cost(StepShape((Segment("decode", 16, 16, 16 * c, 16),))).terms["attention"].seconds)
        for c in (1024, 8192)
    ]
    assert growth == pytest.approx(full_growth[1] - full_growth[0], rel=0.03)
    assert attention(8192, 16 * 64) <= attention(8192, 16 * 128)


def test_tokens_are_padded_to_captured_sizes_and_eager_ones_are_not() -> None:
    of = COSTS["h100 vllm"]
    step = [of.cost(StepShape((Segment("decode", n, n, n * 100, n),))).terms["gemm"].seconds for n in (57, 64)]
    assert float(step[0]) == float(step[1])
    eager = of.cost(StepShape((Segment("decode", 57, 57, 5700, 57),), mode="eager"))
    assert float(eager.terms["gemm"].seconds) <= float(step[0])
    assert "launch" in eager.terms
    few, _ = of.engine.padded(np.array(513.0), np.array(513.0))
    assert float(few) == 513.0  # past the largest captured size


def test_an_eager_step_is_never_shorter_than_its_launches() -> None:
    of = COSTS["h100 vllm"]
    eager = of.cost(StepShape((Segment("decode", 1, 1, 100, 1),), mode="eager"))
    kernels = 5 * LAYERS + 2 + LAYERS + 4 * LAYERS + 1
    assert float(eager.total_s) >= kernels * of.engine.launch_s * (1 - 1e-12)


def test_tensor_parallel_passes_pay_for_collectives() -> None:
    cut = ForwardShape(
        "cut",
        2,
        8192,
        1000,
        (Linear("a", 4096, 8192, 2),),
        (Attention(16, 2, 128, 2),),
        tensor_parallel=4,
        all_reduces=4,
    )
    step = cost(forward=cut).cost(StepShape((Segment("decode", np.array([1.0, 64.0]), [1, 64], [99, 6400], [1, 64]),)))
    small, large = step.terms["collectives"].seconds
    assert 4 * 3e-6 < small < 4 * 9e-6
    assert large > small
    odd = ForwardShape("odd", 2, 8192, 1000, (), (), tensor_parallel=3, all_reduces=4)
    with pytest.raises(InputError, match="no all-reduce over 3 GPUs was measured; measured: 2, 4, 8"):
        cost(forward=odd)


def test_experts_cost_more_weights_as_tokens_spread() -> None:
    sparse = ForwardShape("moe", 48, 2048, 1000, (), (), experts=(Experts(2048, 768, 128, 8, 48),))
    of = cost(forward=sparse)
    times = [seconds(of, Segment("decode", n, n, 0, n)) for n in (1, 8, 64, 512)]
    assert times == sorted(times)
    assert times[2] > 2.0 * times[0]  # nearly all experts are read at 64 tokens, eight at one


def test_what_a_profile_cannot_price_is_an_error() -> None:
    far = ForwardShape("far", 2, 64, 10, (), (), experts=(Experts(64, 64, 4, 1, 2),))
    with pytest.raises(InputError, match="no measured mixture of experts is near hidden 64"):
        cost(forward=far)
    with pytest.raises(InputError, match="has no fp8 products; it has bf16"):
        cost(forward=ForwardShape("f", 1, 64, 10, (Linear("a", 512, 512),), (), weight_dtype="fp8"))
    with pytest.raises(InputError, match="no attention over a fp8 cache; it has bf16"):
        cost("a100_sxm", forward=ForwardShape("f", 1, 64, 10, (), (Attention(8, 1, 128, 1),), kv_dtype="fp8"))


def test_an_empty_step_takes_no_time() -> None:
    step = COSTS["h100 vllm"].cost(StepShape((Segment("decode", 0, 0, 0, 0),)))
    assert float(step.total_s) == 0.0
    assert float(StepTime({}).total_s) == 0.0


def test_a_layout_that_was_not_measured_is_borrowed_and_says_so() -> None:
    odd = ForwardShape("odd", 1, 3584, 10, (), (Attention(28, 4, 128, 1),))
    near = ForwardShape("near", 1, 4096, 10, (), (Attention(32, 4, 128, 1),))
    segment = StepShape((Segment("decode", 32, 32, 32 * 4096, 32),))
    borrowed, measured = (cost(forward=f).cost(segment).terms["attention"] for f in (odd, near))
    assert int(borrowed.trust) == Trust.BORROWED
    assert int(measured.trust) == Trust.INTERPOLATED
    assert float(borrowed.seconds) == pytest.approx(float(measured.seconds), rel=0.1)  # the same bytes of cache


@given(st.lists(st.tuples(st.floats(0.01, 100.0), st.integers(1, 9)), min_size=1, max_size=20))
def test_a_weight_is_that_many_values_in_a_row(pairs: list[tuple[float, int]]) -> None:
    values, weights = np.array([v for v, _ in pairs]), np.array([w for _, w in pairs])
    smooth = np.repeat(non_decreasing(values, weights.astype(float)), weights)
    np.testing.assert_allclose(smooth, non_decreasing(np.repeat(values, weights)), rtol=1e-12)


def test_the_row_that_begins_a_tile_does_not_outweigh_the_filled_tile() -> None:
    """H100, vLLM, fp8: 257 rows take longer than 512 do. The curve never falls, yet 512 keep what was measured."""
    table = load_profile("h100_sxm", engine="vllm", dtype="fp8").gemm["fp8"]
    at = {int(m): i for i, m in enumerate(table.rows)}
    for n, k in ((8192, 7168), (8192, 8192)):
        measured, _ = table.curve(n, k)
        assert measured[at[257]] > 1.3 * measured[at[512]]
        priced = sum_products(table, [Linear("a", n, k)]).at(table.rows)
        assert (np.diff(priced) >= 0.0).all()
        assert priced[at[512]] == pytest.approx(measured[at[512]], rel=0.07)
        assert priced[at[257]] > 1.3 * priced[at[256]]  # the step itself stays


@given(st.lists(st.floats(0.01, 100.0), min_size=1, max_size=30))
def test_smoothing_never_falls_keeps_the_mean_and_leaves_what_rises(values: list[float]) -> None:
    smooth = non_decreasing(np.array(values))
    assert (np.diff(smooth) >= 0.0).all()
    assert smooth.mean() == pytest.approx(np.mean(values))
    rising = np.sort(values)
    np.testing.assert_array_equal(non_decreasing(rising), rising)
