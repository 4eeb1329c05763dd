"""What a serving engine is allowed to put into an iteration: sequences, tokens, cache blocks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError


@dataclass(frozen=True)
class Serving:
    """Limits of one replica, in vLLM's names.

    num_blocks: cache blocks of ``block_size`` tokens. One of them is vLLM's null block and never holds a request
    (vllm/v1/core/block_pool.py), so ``num_blocks - 1`` are usable.
    async_scheduling: an iteration is composed while the one before it runs, so arrivals and freed blocks are seen
    one iteration later. reserve_full_prompt: admit a request only when its whole prompt fits the free blocks
    (vLLM's scheduler_reserve_full_isl). prefix_caching: a preempted request that comes back finds those of its blocks
    that nobody took meanwhile; without it, it computes everything again.
    """

    max_num_seqs: int
    max_num_batched_tokens: int
    num_blocks: int
    block_size: int = 16
    async_scheduling: bool = False
    reserve_full_prompt: bool = True
    prefix_caching: bool = True

    def __post_init__(self) -> None:
        for name in ("max_num_seqs", "max_num_batched_tokens", "block_size"):
            if getattr(self, name) < 1:
                raise InputError(f"must be at least 1, got {getattr(self, name)}", field=f"serving.{name}")
        if self.num_blocks < 2:
            raise InputError(f"must be at least 2, got {self.num_blocks}", field="serving.num_blocks")

    @property
    def usable_blocks(self) -> int:
        """Blocks that requests can hold."""
        return self.num_blocks - 1

    def blocks(self, tokens: int) -> int:
        """Blocks that so many tokens take."""
        return -(-tokens // self.block_size)

    def check(self, prompt_tokens: NDArray[np.int64], output_tokens: NDArray[np.int64], k: int) -> None:
        """Raise InputError where a request could never run: its longest round must fit the cache and the budget."""
        if k + 1 > self.max_num_batched_tokens:
            raise InputError(
                f"{k} drafted tokens and one more exceed the budget of {self.max_num_batched_tokens}; "
                "draft less or raise it",
                field="serving.max_num_batched_tokens",
            )
        # The last round starts at the latest with one token missing.
        slots = prompt_tokens + np.maximum(output_tokens - 2, 0) + np.where(output_tokens > 1, k + 1, 0)
        worst = int(slots.argmax())
        need = self.blocks(int(slots[worst]))
        if need > self.usable_blocks:
            raise InputError(
                f"the cache cannot hold request {worst}: {int(prompt_tokens[worst])} prompt and "
                f"{int(output_tokens[worst])} output tokens with {k} drafted need {need} blocks of {self.block_size}, "
                f"{self.usable_blocks} are usable",
                field="serving.num_blocks",
            )
