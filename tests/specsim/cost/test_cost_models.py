"""Models as numbers: published counts, what ranks share, what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.cost.hf_config import shape_from_config
from specsim.cost.model import load_model, model_names
from specsim.cost.model_shape import ModelShape
from specsim.errors import InputError

CATALOGUE = json.loads(resources.files("specsim.cost").joinpath("models.json").read_text(encoding="utf-8"))["models"]

CONFIG = {
    "model_type": "llama", "num_hidden_layers": 2, "hidden_size": 64, "intermediate_size": 128,
    "num_attention_heads": 8, "num_key_value_heads": 4, "vocab_size": 1000,
}  # fmt: skip


@pytest.mark.parametrize("name", model_names())
def test_parameters_equal_the_published_count(name):
    """Cards round to two or three figures; Qwen truncates some of its own (32.76 B is called 32.5 B)."""
    published, model = CATALOGUE[name], load_model(name)
    assert model.parameters == pytest.approx(published["published_parameters"], rel=0.013)
    if "published_non_embedding" in published:
        assert model.parameters - model.embedding_parameters == pytest.approx(
            published["published_non_embedding"], rel=0.011
        )
    if "published_active" in published:
        active = model.active_parameters
        if name.startswith("openai/"):  # the card leaves the input embedding out
            active -= model.embedding_parameters // 2
        assert active == pytest.approx(published["published_active"], rel=0.02)


@pytest.mark.parametrize(
    ("name", "bytes_per_token"),
    [("Llama-3.1-8B", 131072), ("Llama-3.1-70B", 327680), ("Llama-2-7b-hf", 524288), ("Qwen3-30B-A3B", 98304)],
)
def test_cache_bytes_per_token(name, bytes_per_token):
    model = load_model(name)
    assert model.kv_bytes_per_token() == bytes_per_token
    assert model.kv_bytes_per_token(kv_dtype="fp8") == bytes_per_token / 2


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Llama-3.2-1B", "Qwen2.5-7B", "gpt-oss-20b", "Mixtral-8x7B-v0.1"])
def test_weights_on_one_gpu_are_two_bytes_a_parameter(name):
    model = load_model(name)
    assert model.weight_bytes() == pytest.approx(2 * model.parameters, rel=1e-3)


@pytest.mark.parametrize("name", ["Llama-3.1-70B", "Qwen3-30B-A3B", "gpt-oss-120b", "Qwen3-235B-A22B"])
@pytest.mark.parametrize("tp", [2, 4, 8])
def test_ranks_share_weights_but_for_what_is_copied(name, tp):
    """All ranks together hold the model once, and copies of cache heads, router and vectors beyond that."""
    model = load_model(name)
    whole, parts = model.weight_bytes(), tp * model.weight_bytes(tensor_parallel=tp)
    copied_heads = max(0, tp - model.kv_heads) * 2 * model.head_dim * model.hidden * model.layers
    copied = copied_heads + (tp - 1) * (model.moe_layers * model.experts * model.hidden)
    vectors = (tp - 1) * model.layers * 8 * model.hidden * (1 + model.experts * model.mlp_bias)
    assert whole <= parts <= whole + 2 * (copied + vectors)


@pytest.mark.parametrize("name", ["Llama-3.1-8B", "Qwen2.5-14B", "Qwen3-32B", "Qwen3-30B-A3B", "gpt-oss-20b"])
def test_a_token_takes_two_operations_per_weight_that_it_meets(name):
    """Linear and expert products of one token against the parameters that are matrices on its way."""
    model = load_model(name)
    forward = model.forward()
    work = sum(2 * item.n * item.k * item.count for item in forward.linears)
    work += sum(2 * e.top_k * 3 * e.hidden * e.intermediate * e.count for e in forward.experts)
    embedding = model.vocab * model.hidden  # looked up, not multiplied
    matrices = model.active_parameters - (0 if model.tied_embeddings else embedding)
    assert work == pytest.approx(2 * matrices, rel=3e-3)


@given(tp=st.sampled_from([1, 2, 4, 8, 16]))
def test_a_rank_has_a_whole_cache_head_at_least(tp):
    model = load_model("Qwen3-30B-A3B")  # 4 cache heads
    forward = model.forward(tensor_parallel=tp)
    assert {a.kv_heads for a in forward.attention} == {max(1, 4 // tp)}
    assert forward.attention[0].heads == 32 // tp
    assert forward.kv_bytes_per_token * min(tp, 4) == model.kv_bytes_per_token()
    assert forward.all_reduces == (0 if tp == 1 else 2 * 48 + 1)


def test_windows_alternate_in_gpt_oss():
    attention = load_model("openai/gpt-oss-20b").forward().attention
    assert {(a.window, a.count) for a in attention} == {(None, 12), (128, 12)}


def test_a_window_that_is_switched_off_is_none():
    assert load_model("Qwen2.5-7B").window is None
    assert load_model("mistralai/Mistral-7B-v0.1").windowed_layers == 32


def test_lower_precision_spares_the_lm_head():
    model = load_model("Llama-3.1-8B")
    halved = model.weight_bytes(dtype="fp8")
    in_16_bits = 2 * model.embedding_parameters * 1.0
    assert halved == pytest.approx((model.weight_bytes() - in_16_bits) / 2 + in_16_bits, rel=1e-4)
    assert all(item.dtype == "bf16" for item in model.forward(dtype="fp8").linears if item.rows == "logits")


def test_mxfp4_packs_experts_alone():
    """The published checkpoints are 60.8 GiB and 12.8 GiB (gpt-oss model card)."""
    for name, gib in (("openai/gpt-oss-120b", 60.8), ("openai/gpt-oss-20b", 12.8)):
        assert load_model(name).weight_bytes(dtype="mxfp4") / 2**30 == pytest.approx(gib, rel=0.01)


def test_names_without_organisation_and_case_and_instruct_aliases_are_one_model():
    full = load_model("meta-llama/Llama-3.1-8B-Instruct")
    assert full == load_model("llama-3.1-8b") == load_model("meta-llama/Meta-Llama-3.1-8B")


def test_a_path_reads_the_same_model(tmp_path):
    folder = tmp_path / "mine"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CATALOGUE["Qwen/Qwen3-8B"]["config"]))
    shipped = load_model("Qwen/Qwen3-8B")
    for path in (folder, folder / "config.json"):
        assert replace(load_model(path), name=shipped.name, source=shipped.source) == shipped
    assert load_model(folder).name == "mine"


def test_an_unknown_name_gets_the_nearest():
    with pytest.raises(InputError, match=r"did you mean 'meta-llama/Llama-3.1-8B'"):
        load_model("meta-llama/Llama-3.1-8b-instrct")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": None}, "hidden_size: missing"),
        ({"num_hidden_layers": 0}, "num_hidden_layers: 0 is not a whole number"),
        ({"num_key_value_heads": 3}, "num_key_value_heads: 3 cache heads do not divide 8"),
        ({"model_type": "bloom"}, "model_type: model type 'bloom' is not priced"),
        ({"model_type": None}, "model_type: missing"),
        ({"kv_lora_rank": 512}, r"kv_lora_rank: .*latent attention \(MLA\), which is not priced"),
        ({"linear_num_key_heads": 16}, "linear attention, which is not priced"),
        ({"tie_word_embeddings": "yes"}, "tie_word_embeddings: 'yes' is neither"),
        ({"hidden_size": 60, "head_dim": None}, "head_dim: missing, and 8 heads do not divide"),
        ({"sliding_window": 8, "layer_types": ["full_attention"]}, "layer_types: names 1 layers"),
    ],
)
def test_a_config_that_cannot_be_priced_names_the_field(change, message):
    config = {key: value for key, value in {**CONFIG, **change}.items() if value is not None}
    with pytest.raises(InputError, match=message):
        shape_from_config(config, name="mine", file="config.json")


@pytest.mark.parametrize(("name", "tp"), [("Qwen2.5-7B", 8), ("gpt-oss-20b", 128), ("Llama-3.1-8B", 3)])
def test_parts_that_do_not_come_out_even_are_refused(name, tp):
    with pytest.raises(InputError, match="tensor_parallel"):
        load_model(name).forward(tensor_parallel=tp)


def test_unknown_precisions_are_refused():
    with pytest.raises(InputError, match=r"dtype: 'int3' is not a precision"):
        load_model("Llama-3.1-8B").forward(dtype="int3")
    with pytest.raises(InputError, match=r"kv_dtype: 'int3'"):
        load_model("Llama-3.1-8B").forward(kv_dtype="int3")


def test_files_that_are_no_configuration(tmp_path):
    broken = tmp_path / "config.json"
    for text, message in (("{", "is not JSON"), ("[]", "holds no JSON object")):
        broken.write_text(text)
        with pytest.raises(InputError, match=message):
            load_model(broken)
    with pytest.raises(InputError, match="cannot be read"):
        load_model(tmp_path / "absent.json")


def test_a_decoder_with_dense_and_sparse_layers_counts_both():
    config = {
        **CONFIG, "model_type": "qwen3_moe", "num_hidden_layers": 4, "num_experts": 8, "num_experts_per_tok": 2,
        "moe_intermediate_size": 32, "mlp_only_layers": [0], "head_dim": 8,
    }  # fmt: skip
    model = shape_from_config(config, name="mixed")
    assert (model.moe_layers, model.dense_layers) == (3, 1)
    counts = {item.name: item.count for item in model.forward().linears}
    assert counts["gate_up_proj"] == 1
    assert counts["router"] == 3
    assert isinstance(model, ModelShape)
