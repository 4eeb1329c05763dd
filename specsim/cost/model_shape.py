"""A decoder-only transformer as numbers, and what one rank of it executes in a forward pass."""

from __future__ import annotations

from dataclasses import dataclass, replace

from specsim.cost.shapes import Attention, Experts, ForwardShape, Linear
from specsim.errors import InputError

WEIGHT_BYTES = {
    "fp32": 4.0,
    "bf16": 2.0,
    "fp16": 2.0,
    "fp8": 1.0,
    "fp8_static": 1.0,
    "fp8_block": 1.0 + 4.0 / 128**2,
    "nvfp4": 0.5 + 1.0 / 16,
    "mxfp4": 0.5 + 1.0 / 32,
}
"""Bytes of one stored weight, scales included: one fp32 per 128 x 128 (fp8_block), one byte per 16 (NVFP4) or per 32
(OCP Microscaling specification 1.0, MXFP4)."""

CACHE_BYTES = {"fp32": 4.0, "bf16": 2.0, "fp16": 2.0, "fp8": 1.0}
"""Bytes of one cached element."""

VOCAB_PADDING = 64
"""vLLM pads the vocabulary to a multiple of 64 before it cuts it (DEFAULT_VOCAB_PADDING_SIZE)."""


@dataclass(frozen=True)
class ModelShape:
    """A dense or mixture-of-experts decoder: everything of its configuration that costs time or memory.

    ``intermediate`` is the dense layers' width (0 where every layer has experts), ``expert_intermediate`` one expert's.
    ``windowed_layers`` of the ``layers`` attend to ``window`` tokens only. ``dense_layers`` of them have a dense MLP.
    """

    name: str
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    intermediate: int
    tied_embeddings: bool = False
    qkv_bias: bool = False
    output_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    attention_sinks: bool = False
    window: int | None = None
    windowed_layers: int = 0
    experts: int = 0
    top_k: int = 0
    expert_intermediate: int = 0
    shared_intermediate: int = 0
    dense_layers: int | None = None
    max_positions: int | None = None
    source: str = ""

    @property
    def moe_layers(self) -> int:
        """Layers whose MLP is a mixture of experts."""
        return 0 if not self.experts else self.layers - (self.dense_layers or 0)

    @property
    def embedding_parameters(self) -> int:
        """Parameters of the input embedding, and of the LM head where it is a matrix of its own."""
        return self.vocab * self.hidden * (1 if self.tied_embeddings else 2)

    @property
    def parameters(self) -> int:
        """All parameters, embeddings included."""
        return self.embedding_parameters + self._layer_parameters(self.experts)

    @property
    def active_parameters(self) -> int:
        """Parameters that one token meets: ``top_k`` experts a layer instead of all, embeddings included."""
        return self.embedding_parameters + self._layer_parameters(self.top_k)

    def _layer_parameters(self, experts: int) -> int:
        heads, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        attention = self.hidden * (2 * heads + 2 * kv) + self.qkv_bias * (heads + 2 * kv)
        attention += (
            self.output_bias * self.hidden + self.qk_norm * 2 * self.head_dim + self.attention_sinks * self.heads
        )
        norms = 2 * self.hidden
        dense = _mlp(self.hidden, self.intermediate, self.mlp_bias)
        sparse = self.hidden * self.experts + self.mlp_bias * self.experts  # the router sees every expert
        sparse += experts * _mlp(self.hidden, self.expert_intermediate, self.mlp_bias)
        sparse += 3 * self.hidden * self.shared_intermediate + (self.hidden if self.shared_intermediate else 0)
        moe = self.moe_layers
        return self.layers * (attention + norms) + (self.layers - moe) * dense + moe * sparse + self.hidden

    def kv_heads_per_rank(self, tensor_parallel: int = 1) -> int:
        """Cache heads on one rank: cut between ranks, and copied where there are more ranks than heads."""
        self.check_parallel(tensor_parallel)
        return max(1, self.kv_heads // tensor_parallel)

    def kv_bytes_per_token(self, *, tensor_parallel: int = 1, kv_dtype: str = "bf16") -> float:
        """Bytes of cache that a token takes on one rank, windowed layers included (they keep blocks too)."""
        return 2.0 * self.layers * self.kv_heads_per_rank(tensor_parallel) * self.head_dim * cache_bytes(kv_dtype)

    def weight_bytes(self, *, tensor_parallel: int = 1, dtype: str = "bf16") -> float:
        """Bytes of weights on one rank. Norms, router, embeddings and LM head have 16 bits or more."""
        return sum(self._resident(tensor_parallel, dtype).values())

    def check_parallel(self, tensor_parallel: int) -> None:
        """InputError unless heads and widths can be cut into ``tensor_parallel`` equal parts."""
        tp = tensor_parallel
        if tp < 1:
            raise InputError(f"{tp} is not a number of GPUs; give 1 or more", field="tensor_parallel")
        widths = {
            "attention heads": self.heads,
            "MLP columns": self.intermediate if self.layers > self.moe_layers else 0,
            "expert columns": self.expert_intermediate,
            "shared-expert columns": self.shared_intermediate,
        }
        for what, width in widths.items():
            if width % tp:
                raise InputError(
                    f"{self.name} has {width} {what}, which {tp} GPUs cannot share evenly", field="tensor_parallel"
                )
        if self.kv_heads % tp and tp % self.kv_heads:
            raise InputError(
                f"{self.name} has {self.kv_heads} cache heads, which {tp} GPUs can neither share nor copy",
                field="tensor_parallel",
            )

    def _resident(self, tensor_parallel: int, dtype: str) -> dict[str, float]:
        tp, size = tensor_parallel, weight_bytes(dtype)
        linear = 2.0 if dtype == "mxfp4" else size  # MXFP4 checkpoints store the experts alone in four bits
        shapes = self._linears(tp)
        out = {item.name: float(item.n * item.k * item.count) * linear for item in shapes}
        wide = max(2.0, size)
        head = padded_vocab(self.vocab) // tp * self.hidden * wide
        out["lm_head"] = 0.0 if self.tied_embeddings else head
        out["embedding"] = head
        out["router"] = self.moe_layers * self.experts * self.hidden * wide
        out["experts"] = self.moe_layers * self.experts * 3.0 * self.hidden * self.expert_intermediate / tp * size
        split = (
            self.qkv_bias * (self.heads // tp + 2 * self.kv_heads_per_rank(tp)) * self.head_dim
        ) + self.attention_sinks * self.heads // tp
        whole = self.output_bias * self.hidden + 2 * self.hidden + self.qk_norm * 2 * self.head_dim
        mlp = self.mlp_bias * (2 * self.intermediate // tp + self.hidden) * (self.layers - self.moe_layers)
        mlp += self.mlp_bias * (self.experts * (2 * self.expert_intermediate // tp + self.hidden + 1)) * self.moe_layers
        shared_gate = self.moe_layers * self.hidden if self.shared_intermediate else 0
        out["vectors"] = wide * (self.layers * (split + whole) + mlp + shared_gate + self.hidden)
        return out

    def _linears(self, tensor_parallel: int) -> tuple[Linear, ...]:
        """The layers' own products as vLLM fuses them: q, k and v in one, gate and up in one."""
        tp, hidden = tensor_parallel, self.hidden
        heads, kv = self.heads // tp, self.kv_heads_per_rank(tp)
        moe = self.moe_layers
        dense = self.layers - moe
        items = [
            Linear("qkv_proj", (heads + 2 * kv) * self.head_dim, hidden, self.layers),
            Linear("o_proj", hidden, heads * self.head_dim, self.layers),
        ]
        if dense:
            items += [
                Linear("gate_up_proj", 2 * self.intermediate // tp, hidden, dense),
                Linear("down_proj", hidden, self.intermediate // tp, dense),
            ]
        if moe and self.shared_intermediate:
            items += [
                Linear("shared_gate_up_proj", 2 * self.shared_intermediate // tp, hidden, moe),
                Linear("shared_down_proj", hidden, self.shared_intermediate // tp, moe),
            ]
        return tuple(items)

    def forward(self, *, tensor_parallel: int = 1, dtype: str = "bf16", kv_dtype: str = "bf16") -> ForwardShape:
        """What one of ``tensor_parallel`` ranks executes in a pass, with the GEMMs that vLLM fuses.

        Two all-reduces a layer and one after the embedding. Element-wise traffic counts each kernel's reads and writes
        after fusion: two norms with the residual, rotary with the cache write, and the activation; 16-bit values, or
        32-bit ones at fp32.
        """
        self.check_parallel(tensor_parallel)
        tp = tensor_parallel
        kv_dtype_bytes = cache_bytes(kv_dtype)
        heads, kv = self.heads // tp, self.kv_heads_per_rank(tp)
        linears = list(self._linears(tp))
        moe = self.moe_layers
        wide = "fp32" if dtype == "fp32" else "bf16"
        if moe:
            linears.append(Linear("router", self.experts, self.hidden, moe, dtype=wide))
        linears.append(Linear("lm_head", padded_vocab(self.vocab) // tp, self.hidden, 1, rows="logits", dtype=wide))
        if dtype == "mxfp4":
            linears = [replace(item, dtype="bf16") for item in linears]
        attention = [Attention(heads, kv, self.head_dim, self.layers - self.windowed_layers)]
        if self.windowed_layers:
            attention.append(Attention(heads, kv, self.head_dim, self.windowed_layers, self.window))
        size = cache_bytes(wide)
        rotary = 2 * (heads + kv) * self.head_dim * size * (2 if self.qk_norm else 1)
        cache_write = 2 * kv * self.head_dim * (size + kv_dtype_bytes)
        per_layer = 2 * 4 * self.hidden * size + rotary + cache_write
        dense = self.layers - moe
        activation = 3 * size * (dense * self.intermediate + moe * self.shared_intermediate) / tp
        ends = (2 + 2) * self.hidden * size  # embedding row and last norm
        return ForwardShape(
            name=self.name,
            layers=self.layers,
            hidden=self.hidden,
            vocab=self.vocab,
            linears=tuple(linears),
            attention=tuple(item for item in attention if item.count),
            experts=(Experts(self.hidden, self.expert_intermediate, self.experts, self.top_k, moe, tp),) if moe else (),
            tensor_parallel=tp,
            all_reduces=2 * self.layers + 1 if tp > 1 else 0,
            elementwise_bytes_per_token=self.layers * per_layer + activation + ends,
            elementwise_kernels=4 * self.layers + dense + (2 if self.shared_intermediate else 1) * moe + 2,
            weight_bytes=self.weight_bytes(tensor_parallel=tp, dtype=dtype),
            kv_bytes_per_token=self.kv_bytes_per_token(tensor_parallel=tp, kv_dtype=kv_dtype),
            weight_dtype=dtype,
            kv_dtype=kv_dtype,
        )


def weight_bytes(dtype: str) -> float:
    """Bytes of one stored weight of ``dtype``; InputError for an unknown precision."""
    return _look_up(WEIGHT_BYTES, dtype, "dtype")


def cache_bytes(kv_dtype: str) -> float:
    """Bytes of one cached element of ``kv_dtype``; InputError for an unknown precision."""
    return _look_up(CACHE_BYTES, kv_dtype, "kv_dtype")


def padded_vocab(vocab: int) -> int:
    """Vocabulary rounded up to the multiple that the engine allocates."""
    return -(-vocab // VOCAB_PADDING) * VOCAB_PADDING


def _look_up(table: dict[str, float], key: str, field: str) -> float:
    if key not in table:
        raise InputError(f"{key!r} is not a precision that is priced; choose one of {', '.join(table)}", field=field)
    return table[key]


def _mlp(hidden: int, intermediate: int, bias: bool) -> int:  # noqa: FBT001 - read from a frozen field
    return 3 * hidden * intermediate + bias * (2 * intermediate + hidden)
