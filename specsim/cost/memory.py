"""GPU memory: what weights, drafter and working buffers leave for cache blocks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from specsim.cost.drafter import Drafter
from specsim.cost.hardware import Hardware
from specsim.cost.model_shape import ModelShape, padded_vocab
from specsim.errors import InputError

VISIBLE = 0.99
"""Share of the nominal memory that a driver shows: 79.22 of 80 GiB on an H100 (log in vllm-project/vllm#10511)."""

RUNTIME_BYTES = 0.568e9
"""CUDA context, kernels and captured graphs: what a vLLM 0.19 server of Llama-3.1-8B (24 GB RTX 4090, 2,588 blocks,
2,048 batched tokens, 256 sequences; LLMServingSim's measured set) kept beyond weights, buffers below and cache."""

COLLECTIVE_BYTES = 1.79 * 2**30
"""Buffers of NCCL and of the all-reduce kernels: two GPUs kept 3.58 GiB outside PyTorch where one kept 1.79
(vllm-project/vllm#10511)."""

LOGIT_BYTES = 14.0
"""Working bytes a row and vocabulary entry: 16-bit logits, then 32-bit copies for temperature, sorting and sampling."""


@dataclass(frozen=True)
class Memory:
    """Where one GPU's memory goes, in bytes, and the cache blocks that fit in the rest."""

    usable_bytes: float
    weight_bytes: float
    draft_weight_bytes: float
    activation_bytes: float
    runtime_bytes: float
    block_bytes: float
    block_size: int
    num_gpu_blocks: int

    @property
    def cache_bytes(self) -> float:
        """Bytes of all cache blocks."""
        return self.num_gpu_blocks * self.block_bytes

    @property
    def cache_tokens(self) -> int:
        """Tokens that the cache holds."""
        return self.num_gpu_blocks * self.block_size

    def require(self, tokens: int, *, what: str = "one request") -> None:
        """InputError unless the cache holds ``tokens`` of one sequence (its prompt, its output, and the lookahead)."""
        needed = math.ceil(tokens / self.block_size)
        if needed > self.num_gpu_blocks:
            raise InputError(
                f"the cache holds {self.cache_tokens:,} tokens ({self.num_gpu_blocks:,} blocks of {self.block_size}) "
                f"and {what} needs {tokens:,}; use more GPUs, a smaller cache precision, or shorter requests",
                field="serving",
            )


def cache_memory(
    target: ModelShape,
    drafter: Drafter | None = None,
    *,
    hardware: Hardware,
    dtype: str,
    k: int = 0,
    tensor_parallel: int = 1,
    kv_dtype: str = "bf16",
    draft_dtype: str | None = None,
    gpu_memory_utilization: float = 0.9,
    max_num_batched_tokens: int = 8192,
    max_num_seqs: int = 256,
    block_size: int = 16,
    beside_weight_bytes: float = 0.0,
    beside_token_bytes: float = 0.0,
) -> Memory:
    """Cache blocks of one replica: usable memory less weights, drafter, and a full step's peak, as vLLM profiles it.

    The peak counts an MLP's input, residual, gate, up and product in 16 bits for every batched token (a mixture of
    experts: those of top_k experts, and their outputs), and the sampler's copies of the logits: one row a sequence,
    two when it speculates. Drafting adds its weights, and its layers' cache to every block; so does what else stands
    beside the target: ``beside_weight_bytes`` on a GPU, ``beside_token_bytes`` of cache a token.
    Raises InputError with the arithmetic where nothing is left for the cache.
    """
    if not 0.0 < gpu_memory_utilization <= 1.0:
        raise InputError(
            f"{gpu_memory_utilization} is not a share of memory; give more than 0 and at most 1",
            field="serving.gpu_memory_utilization",
        )
    tp = tensor_parallel
    drafts = drafter is not None and drafter.on_gpu and k > 0
    speculates = drafts or beside_weight_bytes > 0
    weights = target.weight_bytes(tensor_parallel=tp, dtype=dtype)
    token = target.kv_bytes_per_token(tensor_parallel=tp, kv_dtype=kv_dtype) + beside_token_bytes
    draft_weights = beside_weight_bytes
    if drafter is not None and drafts:
        draft_weights += drafter.weight_bytes(k, tensor_parallel=tp, dtype=draft_dtype or drafter.weight_dtype(dtype))
        token += drafter.kv_bytes_per_token(tensor_parallel=tp, kv_dtype=kv_dtype)
    expert = target.expert_intermediate / tp
    experts = target.top_k * (max(2 * expert, target.hidden) + expert) if target.experts else 0.0
    wide = max(3 * target.intermediate / tp, experts + 3 * target.shared_intermediate / tp)
    activation = 2.0 * max_num_batched_tokens * (2 * target.hidden + wide)
    activation += LOGIT_BYTES * max_num_seqs * (2 if speculates else 1) * padded_vocab(target.vocab)
    runtime = RUNTIME_BYTES + (COLLECTIVE_BYTES if tp > 1 else 0.0)
    usable = VISIBLE * hardware.memory_bytes * gpu_memory_utilization
    left = usable - weights - draft_weights - activation - runtime
    block_bytes = token * block_size
    if left < block_bytes:
        parts = [("weights", weights), ("drafter", draft_weights), ("activations", activation), ("runtime", runtime)]
        sums = " + ".join(f"{value / 1e9:.1f} {what}" for what, value in parts if value)
        raise InputError(
            f"{target.name} at {dtype} on {tp} x {hardware.name} doesn't fit: {sums} = "
            f"{(usable - left) / 1e9:.1f} GB a GPU of {usable / 1e9:.1f} GB usable "
            f"({hardware.memory_bytes / 1e9:.1f} x {VISIBLE} x {gpu_memory_utilization:g}); "
            "use more GPUs (tensor_parallel), a lower precision, or fewer batched tokens",
            field="target",
        )
    return Memory(
        usable, weights, draft_weights, activation, runtime, block_bytes, block_size, int(left // block_bytes)
    )
