"""Operations of a pass against counts made another way: parameters, and pairs of tokens one by one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.cost.flops import pass_flops
from specsim.cost.model import load_model
from specsim.cost.model_shape import padded_vocab
from specsim.cost.shapes import Attention, ForwardShape, Segment, StepShape

LLAMA = load_model("meta-llama/Llama-3.1-8B")


def attention_only(window: int | None) -> ForwardShape:
    return ForwardShape("toy", 1, 8, 8, (), (Attention(1, 1, 1, 1, window),))


@pytest.mark.parametrize("cached", [0, 1000])
def test_decoding_takes_two_operations_a_parameter_and_attention(cached):
    norms = LLAMA.hidden * (2 * LLAMA.layers + 1)
    embedding = LLAMA.vocab * LLAMA.hidden
    padding = (padded_vocab(LLAMA.vocab) - LLAMA.vocab) * LLAMA.hidden
    products = LLAMA.parameters - norms - embedding + padding
    attention = 4 * LLAMA.layers * LLAMA.heads * LLAMA.head_dim * (cached + 1)
    step = StepShape((Segment("decode", 3, 3, 3 * cached, 3),))
    assert float(pass_flops(LLAMA.forward(), step)) == pytest.approx(3 * (2 * products + attention), rel=1e-12)


def test_ranks_share_the_work_and_add_none():
    step = StepShape((Segment("verify", 4, 20, 4000, 20), Segment("prefill", 1, 300, 100, 1)))
    whole, cut = (float(pass_flops(LLAMA.forward(tensor_parallel=tp), step)) for tp in (1, 4))
    assert cut == pytest.approx(whole, rel=1e-12)


def test_a_mixture_of_experts_runs_its_active_parameters():
    model = load_model("Qwen/Qwen3-30B-A3B")
    made = float(pass_flops(model.forward(), StepShape((Segment("decode", 1, 1, 0, 1),))))
    in_products = model.active_parameters - model.vocab * model.hidden
    assert made == pytest.approx(2 * in_products, rel=2e-3)


@given(st.integers(0, 30), st.integers(1, 30), st.sampled_from([None, 1, 5, 100]))
def test_pairs_are_those_that_one_by_one_counting_finds(past, new, window):
    step = StepShape((Segment("prefill", 1, new, past, 0),))
    seen = sum(min(past + i + 1, window or 10**9) for i in range(new))
    assert float(pass_flops(attention_only(window), step)) == pytest.approx(4.0 * seen)


@given(st.integers(1, 200), st.integers(1, 200))
def test_a_prompt_costs_the_same_in_chunks(first, second):
    def flops(tokens: int, past: int) -> float:
        return float(pass_flops(LLAMA.forward(), StepShape((Segment("prefill", 1, tokens, past, 0),))))

    assert flops(first, 0) + flops(second, first) == pytest.approx(flops(first + second, 0), rel=1e-12)


def test_arrays_of_passes_are_counted_at_once():
    kv = np.array([0.0, 10.0, 500.0])
    many = pass_flops(LLAMA.forward(), StepShape((Segment("decode", 2, 2, kv, 2),)))
    each = [float(pass_flops(LLAMA.forward(), StepShape((Segment("decode", 2, 2, k, 2),)))) for k in kv]
    assert many.tolist() == each
