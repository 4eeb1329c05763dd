"""Drafters as shapes, and what they and a full step leave of a GPU's memory."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.cost.drafter import METHODS, load_drafter, lookup_proposal_rate
from specsim.cost.engine import load_engine
from specsim.cost.hardware import load_hardware
from specsim.cost.memory import cache_memory
from specsim.cost.model import load_model
from specsim.errors import InputError

LLAMA = load_model("Llama-3.1-8B")
H100 = load_hardware("h100_sxm")


def linears(shape):
    return {item.name: item for item in shape.linears}


def test_an_eagle3_head_fuses_once_and_has_a_vocabulary_of_its_own():
    drafter = load_drafter("eagle3", target=LLAMA)
    assert drafter.name == "yuhuili/EAGLE3-LLaMA3.1-Instruct-8B"
    first, following = linears(drafter.first_pass(3)), linears(drafter.next_pass(3))
    assert (first["fuse"].n, first["fuse"].k) == (4096, 3 * 4096)
    assert "fuse" not in following
    assert following["qkv_proj"].k == 2 * 4096
    assert (following["lm_head"].n, following["lm_head"].rows) == (32000, "logits")


def test_an_eagle3_head_weighs_what_its_checkpoint_does():
    """yuhuili/EAGLE3-LLaMA3.1-Instruct-8B is a file of 811 MiB."""
    assert load_drafter("eagle3", target=LLAMA).weight_bytes(3) == pytest.approx(811 * 2**20, rel=0.01)


def test_an_eagle1_head_joins_two_states_and_borrows_the_lm_head():
    drafter = load_drafter("eagle", target=LLAMA)
    shape = linears(drafter.next_pass(3))
    assert (shape["join"].n, shape["join"].k) == (4096, 8192)
    assert shape["lm_head"].n == LLAMA.forward().linears[-1].n
    read = sum(item.n * item.k * item.count for item in drafter.next_pass(3).linears) * 2
    assert read - drafter.weight_bytes(3) == pytest.approx(2 * 128256 * 4096, rel=1e-3)


def test_a_draft_model_runs_and_keeps_all_of_itself():
    drafter = load_drafter("draft_model", target=LLAMA, model="Llama-3.2-1B")
    small = load_model("Llama-3.2-1B")
    assert drafter.next_pass(3) == drafter.first_pass(3) == small.forward()
    assert drafter.weight_bytes(3) == small.weight_bytes()
    assert drafter.kv_bytes_per_token() == small.kv_bytes_per_token()


def test_medusa_heads_grow_with_the_length_and_cache_nothing():
    drafter = load_drafter("medusa", target=LLAMA)
    assert not drafter.sequential
    assert drafter.weight_bytes(4) == 2 * drafter.weight_bytes(2) > 0
    assert linears(drafter.next_pass(4))["lm_head"].count == 4
    assert drafter.kv_bytes_per_token() == 0.0


def test_an_mtp_layer_of_a_mixture_has_experts():
    target = load_model("Qwen3-30B-A3B")
    shape = load_drafter("mtp", target=target).next_pass(1)
    assert shape.layers == 1
    assert shape.experts[0].count == 1


def test_lookup_has_no_weights_and_no_pass():
    drafter = load_drafter("ngram", target=LLAMA)
    assert drafter.weight_bytes(3) == drafter.kv_bytes_per_token() == 0.0
    with pytest.raises(InputError, match="ngram has no drafting pass"):
        drafter.next_pass(3)


@pytest.mark.parametrize("method", ["eagle", "eagle3", "mtp"])
@pytest.mark.parametrize("tp", [1, 2, 4])
def test_a_head_s_pass_and_its_weights_agree(method, tp):
    """What the pass reads is what is resident, and the LM head where it is the target's."""
    drafter = load_drafter(method, target=LLAMA)
    shape = drafter.first_pass(3, tensor_parallel=tp)
    read = 2 * sum(item.n * item.k * item.count for item in shape.linears)
    shared = 0 if method == "eagle3" else 2 * 128256 // tp * 4096
    assert drafter.weight_bytes(3, tensor_parallel=tp) == pytest.approx(read - shared, rel=2e-3)


def test_heads_from_a_file(tmp_path):
    path = tmp_path / "config.json"
    fields = {
        "model_type": "llama", "num_hidden_layers": 1, "hidden_size": 4096, "intermediate_size": 8192,
        "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 128256, "draft_vocab_size": 16000,
    }  # fmt: skip
    path.write_text(json.dumps(fields))
    drafter = load_drafter("eagle3", target=LLAMA, model=path)
    assert linears(drafter.next_pass(1))["lm_head"].n == 16000
    path.write_text(json.dumps(fields | {"vocab_size": 32000}))
    with pytest.raises(InputError, match=r"vocabulary 32000, and meta-llama/Llama-3\.1-8B has 128256"):
        load_drafter("eagle3", target=LLAMA, model=path)
    path.write_text(json.dumps(fields | {"hidden_size": 2048}))
    with pytest.raises(InputError, match="hidden size 2048"):
        load_drafter("eagle", target=LLAMA, model=path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "eagel3"}, "not a drafting method"),
        ({"method": "draft_model"}, "drafter.model: missing"),
        ({"method": "ngram", "model": "Llama-3.2-1B"}, "drafts without a model"),
        ({"method": "eagle3", "model": "no/such-head"}, "no eagle3 head 'no/such-head' ships"),
        ({"method": "ngram", "proposal_rate": 0.0}, "proposal_rate"),
    ],
)
def test_drafters_that_make_no_sense(arguments, message):
    with pytest.raises(InputError, match=message):
        load_drafter(arguments.pop("method"), target=LLAMA, **arguments)


def test_a_mixture_without_a_published_head_asks_for_one():
    with pytest.raises(InputError, match=r"give its config\.json"):
        load_drafter("eagle3", target=load_model("Mixtral-8x7B-v0.1"))


def test_methods_are_what_the_engines_call_them():
    assert set(METHODS) == {"draft_model", "eagle", "eagle3", "mtp", "medusa", "ngram", "none"}
    assert load_engine("vllm").block_size == 16


def test_memory_of_a_measured_server():
    """vLLM 0.19 on a 24 GB RTX 4090: 2,588 blocks. The reserve was read off it: this pins the arithmetic."""
    gpu = replace(H100, memory_bytes=25250627584 / 0.99)
    memory = cache_memory(LLAMA, hardware=gpu, dtype="bf16", max_num_batched_tokens=2048)
    assert memory.num_gpu_blocks == pytest.approx(2588, abs=1)


def test_memory_of_a_server_that_gave_no_number_to_the_fit():
    """Llama-3-8B on an H100 with 8,192 batched tokens: 53.29 GiB of cache logged, 1.79 of them later found misread."""
    memory = cache_memory(load_model("Meta-Llama-3-8B"), hardware=H100, dtype="bf16")
    assert 53.29 <= memory.cache_bytes / 2**30 <= 53.29 + 1.79
    assert memory.activation_bytes / 2**30 == pytest.approx(1.26, rel=0.05)
    assert memory.weight_bytes / 2**30 == pytest.approx(14.96, abs=0.01)


@given(
    k=st.integers(1, 8),
    tp=st.sampled_from([1, 2, 4]),
    method=st.sampled_from(["eagle", "eagle3", "medusa", "ngram"]),
)
def test_parts_add_up_and_drafting_takes_blocks(k, tp, method):
    plain = cache_memory(LLAMA, hardware=H100, dtype="bf16", tensor_parallel=tp)
    drafter = load_drafter(method, target=LLAMA)
    memory = cache_memory(LLAMA, drafter, k=k, hardware=H100, dtype="bf16", tensor_parallel=tp)
    fixed = memory.weight_bytes + memory.draft_weight_bytes + memory.activation_bytes + memory.runtime_bytes
    assert 0 <= memory.usable_bytes - fixed - memory.cache_bytes < memory.block_bytes
    if method == "ngram":
        assert memory.num_gpu_blocks == plain.num_gpu_blocks
    else:
        assert memory.num_gpu_blocks < plain.num_gpu_blocks
    assert cache_memory(LLAMA, drafter, k=0, hardware=H100, dtype="bf16", tensor_parallel=tp) == plain


def test_a_model_that_does_not_fit_shows_the_arithmetic():
    with pytest.raises(InputError, match=r"doesn't fit: 141.1 weights \+ 2.1 activations \+ 0.6 runtime = 143.8 GB"):
        cache_memory(load_model("Llama-3.1-70B"), hardware=H100, dtype="bf16")


def test_a_cache_too_small_for_a_request():
    memory = cache_memory(
        load_model("Llama-3.1-70B"), hardware=H100, dtype="bf16", tensor_parallel=2, gpu_memory_utilization=0.91
    )
    memory.require(memory.cache_tokens)
    with pytest.raises(InputError, match=f"the cache holds {memory.cache_tokens:,} tokens"):
        memory.require(memory.cache_tokens + 1)


def test_utilisation_is_a_share():
    with pytest.raises(InputError, match="gpu_memory_utilization: 90"):
        cache_memory(LLAMA, hardware=H100, dtype="bf16", gpu_memory_utilization=90)


def test_heads_stay_in_16_bits_beside_a_quantised_target():
    arguments = {"hardware": H100, "k": 3, "dtype": "fp8"}
    head = cache_memory(LLAMA, load_drafter("eagle3", target=LLAMA), **arguments)
    model = cache_memory(LLAMA, load_drafter("draft_model", target=LLAMA, model="Llama-3.2-1B"), **arguments)
    assert head.draft_weight_bytes == load_drafter("eagle3", target=LLAMA).weight_bytes(3)
    assert model.draft_weight_bytes == load_model("Llama-3.2-1B").weight_bytes(dtype="fp8")


def test_a_draft_model_shares_the_tokenizer():
    with pytest.raises(InputError, match="vocabulary of 151936, meta-llama/Llama-3"):
        load_drafter("draft_model", target=LLAMA, model="Qwen3-0.6B")
    assert load_drafter("draft_model", target=load_model("Qwen2.5-7B"), model="Qwen2.5-0.5B").draft_vocab == 151936


@given(rate=st.floats(0.01, 1.0), right=st.floats(0.05, 0.99), k=st.integers(2, 8))
def test_a_proposal_rate_is_found_again(rate, right, k):
    """Rounds without a proposal accept nothing: survival is the rate times the chain's own."""
    assert lookup_proposal_rate(rate * right ** np.arange(1, k + 1)) == pytest.approx(rate)
    assert lookup_proposal_rate([right]) == lookup_proposal_rate([right, 0.0]) == 1.0
