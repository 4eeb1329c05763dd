"""What the rounds of a request do to the cache, worked out for a block of requests, or for one that was interrupted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specsim.simulation.rounds import BLOCK, RoundSource
from specsim.simulation.workload import Requests

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Decoding:
    """A decoding request: its rounds are iterations ``start .. end``.

    growth, block_growth: what each round but the last adds to its cached tokens and to the blocks that its next round
    needs; shape (rounds - 1,). kv_first, kv_last, blocks_first, blocks_last: both at its first and last round.
    """

    __slots__ = (
        "accepted", "block_growth", "blocks_first", "blocks_last", "end", "growth", "kv_first", "kv_last", "start"
    )  # fmt: skip

    def __init__(
        self,
        growth: Floats,
        block_growth: Floats,
        kv: tuple[int, int],
        blocks: tuple[int, int],
        accepted: int,
    ) -> None:
        self.start = self.end = -1
        self.growth, self.block_growth = growth, block_growth
        self.kv_first, self.kv_last = kv
        self.blocks_first, self.blocks_last = blocks
        self.accepted = accepted

    @property
    def rounds(self) -> int:
        """How many."""
        return len(self.growth) + 1


class PreparedBlock:
    """A block of drawn rounds, for requests that start undisturbed after a prefill that emitted one token."""

    def __init__(self, source: RoundSource, number: int, requests: Requests, k: int, block_size: int) -> None:
        drawn = source.block(number)
        n = len(drawn.count)
        self._first = number * BLOCK
        self.unfinished = n
        self.emitted = drawn.emitted
        self._prompt: list[int] = requests.prompt_tokens[self._first : self._first + n].tolist()
        self._rounds: list[int] = drawn.count.tolist()
        if drawn.emitted.shape[1] == 0:  # every output is one token
            return
        total = np.cumsum(drawn.emitted, axis=1)
        before = requests.prompt_tokens[self._first : self._first + n, None] + total - drawn.emitted
        blocks = (before + (k + block_size)) // block_size
        self._growth = drawn.emitted.astype(np.float64)
        self._block_growth = np.diff(blocks, axis=1).astype(np.float64)
        rows, last = np.arange(n), np.maximum(drawn.count - 1, 0)
        self._first_blocks: list[int] = blocks[:, 0].tolist()
        self._last_blocks: list[int] = blocks[rows, last].tolist()
        self._last_kv: list[int] = before[rows, last].tolist()
        self._accepted: list[int] = (total[:, -1] - drawn.count).tolist()

    def start(self, request: int) -> Decoding:
        """The request's rounds; it needs at least one."""
        row = request - self._first
        last = self._rounds[row] - 1
        return Decoding(
            self._growth[row, :last],
            self._block_growth[row, :last],
            (self._prompt[row], self._last_kv[row]),
            (self._first_blocks[row], self._last_blocks[row]),
            self._accepted[row],
        )

    def rounds_of(self, request: int) -> Ints:
        """Tokens that each of the request's rounds emits, the last one uncut."""
        row = request - self._first
        return self.emitted[row, : self._rounds[row]]


def resume(left: Ints, known_tokens: int, missing: int, k: int, block_size: int) -> Decoding:
    """The rounds of a request that decodes again after a recomputation.

    left: tokens that its remaining drawn rounds emit. known_tokens: prompt and output so far. missing: output to come.
    """
    total = np.cumsum(left)
    count = int(np.searchsorted(total, missing)) + 1
    before = known_tokens - 1 + total[:count] - left[:count]
    need = (before + (k + block_size)) // block_size
    return Decoding(
        left[: count - 1].astype(np.float64),
        np.diff(need).astype(np.float64),
        (int(before[0]), int(before[-1])),
        (int(need[0]), int(need[-1])),
        int(total[count - 1]) - count,
    )
