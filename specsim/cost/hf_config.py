"""Read a model's shape from a Hugging Face ``config.json``."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from specsim.cost.model_shape import ModelShape
from specsim.errors import InputError

DENSE = ("llama", "mistral", "qwen2", "qwen3")
SPARSE = ("mixtral", "qwen2_moe", "qwen3_moe", "gpt_oss")

WHAT_ELSE = {
    "latent attention (MLA)": ("kv_lora_rank", "q_lora_rank", "qk_rope_head_dim"),
    "linear attention": ("linear_num_key_heads", "linear_attn_config", "full_attention_interval"),
    "state-space layers": ("mamba_num_heads", "ssm_state_size", "hybrid_override_pattern"),
    "sparse attention": ("index_topk", "index_n_heads"),
    "chunked attention": ("attention_chunk_size",),
}
"""Architectures that keep another kind of state than a cache of keys and values, by the fields that give them away."""


def read_config(path: Path) -> ModelShape:
    """The model that a ``config.json`` (or the folder holding it) describes; InputError where it cannot be priced."""
    config = read_json(path)
    file = path / "config.json" if path.is_dir() else path
    name = str(config.get("_name_or_path") or file.resolve().parent.name or file.stem)
    return shape_from_config(config, name=name, file=str(file))


def read_json(path: Path) -> dict[str, Any]:
    """The fields of a ``config.json``, or of the one in a folder; InputError where it isn't readable."""
    file = path / "config.json" if path.is_dir() else path
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"cannot be read ({error.strerror})", file=str(file)) from error
    except ValueError as error:
        raise InputError(f"is not JSON ({error}); give a Hugging Face config.json", file=str(file)) from error
    if not isinstance(config, dict):
        raise InputError("holds no JSON object; give a Hugging Face config.json", file=str(file))
    return config


def shape_from_config(config: Mapping[str, Any], *, name: str, file: str | None = None, source: str = "") -> ModelShape:
    """The shape that a configuration's fields describe; ``name`` and ``file`` are for messages.

    Raises InputError for an architecture that is not a plain decoder, and for a missing or impossible field.
    """
    fields = _Fields(config, file)
    kind = fields.text("model_type")
    for what, marks in WHAT_ELSE.items():
        present = [mark for mark in marks if config.get(mark)]
        if present:
            raise InputError(
                f"{name} uses {what}, which is not priced; dense and MoE decoders with a key/value cache are",
                file=file,
                field=present[0],
            )
    if kind not in DENSE + SPARSE:
        raise InputError(
            f"model type {kind!r} is not priced; priced: {', '.join(DENSE + SPARSE)}", file=file, field="model_type"
        )
    layers, hidden, heads = (fields.count(key) for key in ("num_hidden_layers", "hidden_size", "num_attention_heads"))
    kv_heads = fields.count("num_key_value_heads", default=heads)
    if heads % kv_heads:
        raise InputError(
            f"{kv_heads} cache heads do not divide {heads} attention heads", file=file, field="num_key_value_heads"
        )
    if config.get("head_dim") is None and hidden % heads:
        raise InputError(f"missing, and {heads} heads do not divide hidden_size {hidden}", file=file, field="head_dim")
    window, windowed = _window(fields, config, kind, layers)
    gpt_oss, qwen2 = kind == "gpt_oss", kind in ("qwen2", "qwen2_moe")
    sparse = _experts(fields, config, kind, layers) if kind in SPARSE else {}
    all_sparse = bool(sparse) and not sparse["dense_layers"]
    return ModelShape(
        name=name,
        layers=layers,
        hidden=hidden,
        heads=heads,
        kv_heads=kv_heads,
        head_dim=fields.count("head_dim", default=hidden // heads),
        vocab=fields.count("vocab_size"),
        intermediate=0 if all_sparse else fields.count("intermediate_size"),
        tied_embeddings=fields.flag("tie_word_embeddings"),
        qkv_bias=qwen2 or fields.flag("attention_bias"),
        output_bias=fields.flag("attention_bias"),
        mlp_bias=gpt_oss or fields.flag("mlp_bias"),
        qk_norm=kind in ("qwen3", "qwen3_moe"),
        attention_sinks=gpt_oss,
        window=window,
        windowed_layers=windowed,
        max_positions=fields.count("max_position_embeddings", default=0) or None,
        source=source or file or "",
        **sparse,
    )


def _window(fields: _Fields, config: Mapping[str, Any], kind: str, layers: int) -> tuple[int | None, int]:
    window = config.get("sliding_window")
    if window is None or config.get("use_sliding_window") is False:
        return None, 0
    window = fields.count("sliding_window")
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        if len(kinds) != layers:
            raise InputError(
                f"names {len(kinds)} layers, num_hidden_layers is {layers}", file=fields.file, field="layer_types"
            )
        return window, sum(item == "sliding_attention" for item in kinds)
    if kind == "gpt_oss":
        return window, -(-layers // 2)  # the architecture alternates, windowed layers first
    if kind.startswith("qwen"):
        return window, max(0, layers - fields.count("max_window_layers", default=layers))
    return window, layers


def _experts(fields: _Fields, config: Mapping[str, Any], kind: str, layers: int) -> dict[str, int]:
    per_token = fields.count("num_experts_per_tok")
    if kind in ("mixtral", "gpt_oss"):
        experts, width = fields.count("num_local_experts"), fields.count("intermediate_size")
        dense = shared = 0
    else:
        experts, width = fields.count("num_experts"), fields.count("moe_intermediate_size")
        every = fields.count("decoder_sparse_step", default=1)
        only = set(config.get("mlp_only_layers") or ())
        dense = sum(index in only or (index + 1) % every != 0 for index in range(layers))
        shared = int(config.get("shared_expert_intermediate_size") or 0)
    if per_token > experts:
        raise InputError(f"{per_token} experts a token of {experts}", file=fields.file, field="num_experts_per_tok")
    return {
        "experts": experts,
        "top_k": per_token,
        "expert_intermediate": width,
        "dense_layers": dense,
        "shared_intermediate": shared,
    }


@dataclass(frozen=True)
class Stored:
    """How a checkpoint keeps its weights: in the publisher's words, and as a precision that is priced (else None)."""

    words: str
    dtype: str | None


def stored_weights(config: Mapping[str, Any]) -> Stored | None:
    """What a configuration's ``quantization_config`` says of the weights; None without one.

    Methods and their fields are Hugging Face transformers' (utils/quantization_config.py) and compressed-tensors'.
    """
    given = config.get("quantization_config")
    if not isinstance(given, Mapping):
        return None
    method = str(given.get("quant_method") or given.get("quant_algo") or "unknown").lower()
    if method == "mxfp4":
        return Stored(method, "mxfp4")
    if method in ("fp8", "fbgemm_fp8"):
        if given.get("weight_block_size"):
            block = given["weight_block_size"]
            return Stored(f"{method} in blocks of {block}", "fp8_block" if block == [128, 128] else None)
        return Stored(method, "fp8_static" if given.get("activation_scheme") == "static" else "fp8")
    if method == "compressed-tensors":
        return _compressed(given)
    if method == "modelopt" and str(given.get("quant_algo")).upper() == "FP8":
        return Stored("modelopt fp8", "fp8_static")
    bits = given.get("bits") or given.get("w_bit") or (4 if given.get("load_in_4bit") else None)
    return Stored(f"{bits}-bit {method}" if bits else method, None)


def _compressed(given: Mapping[str, Any]) -> Stored:
    groups = given.get("config_groups")
    group = next(iter(groups.values()), None) if isinstance(groups, Mapping) else None
    weights = group.get("weights") if isinstance(group, Mapping) else None
    if not isinstance(group, Mapping) or not isinstance(weights, Mapping):
        return Stored("compressed-tensors", None)
    bits, kind = weights.get("num_bits"), weights.get("type")
    inputs = group.get("input_activations")
    if (bits, kind) != (8, "float") or not isinstance(inputs, Mapping) or weights.get("strategy") == "block":
        return Stored(f"compressed-tensors {bits}-bit {kind}", None)
    return Stored("compressed-tensors fp8", "fp8" if inputs.get("dynamic") else "fp8_static")


class _Fields:
    """Typed access to a configuration, with errors that name the field."""

    def __init__(self, config: Mapping[str, Any], file: str | None) -> None:
        self.config, self.file = config, file

    def text(self, key: str) -> str:
        value = self.config.get(key)
        if not isinstance(value, str):
            raise InputError("missing; it says which architecture this is", file=self.file, field=key)
        return value

    def count(self, key: str, *, default: int | None = None) -> int:
        value = self.config.get(key)
        if value is None and default is not None:
            return default
        if value is None:
            raise InputError("missing; it decides the model's cost", file=self.file, field=key)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{value!r} is not a whole number of at least 1", file=self.file, field=key)
        return value

    def flag(self, key: str) -> bool:
        value = self.config.get(key, False)
        if not isinstance(value, bool):
            raise InputError(f"{value!r} is neither true nor false", file=self.file, field=key)
        return value
