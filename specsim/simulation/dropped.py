"""What is left of a preempted request's cache when it comes back."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class DroppedCaches:
    """Freed blocks in the order in which they will be reused, as far as a preempted request can find its own again.

    vLLM frees a request's blocks last block first to the end of one queue and takes new ones from its front
    (vllm/v1/core/block_pool.py), so its prefix survives longest: of the freed blocks, as many as the queue still holds
    after those freed later. Prompts shared between requests are not modelled.
    """

    _freed: int = 0
    _ends: dict[int, tuple[int, int]] = field(default_factory=dict)

    def free(self, blocks: int) -> None:
        """Blocks of a finished request join the queue."""
        self._freed += blocks

    def drop(self, request: int, blocks: int, full_blocks: int) -> None:
        """Blocks of a preempted request join the queue; ``full_blocks`` of them hold a whole block of its tokens."""
        self._freed += blocks
        self._ends[request] = (self._freed, full_blocks)

    def kept(self, request: int, free_blocks: int, tokens: int, block_size: int) -> int:
        """Blocks from the request's start that still hold its tokens; its last token is always computed again."""
        if request not in self._ends:
            return 0
        end, full = self._ends[request]
        return max(0, min(full, free_blocks - (self._freed - end), (tokens - 1) // block_size))

    def take(self, request: int, blocks: int) -> None:
        """The request is admitted again and takes ``blocks`` of its own out of the queue."""
        end, _ = self._ends.pop(request, (0, 0))
        for other, (place, full) in self._ends.items():
            if place < end:
                self._ends[other] = (place + blocks, full)
