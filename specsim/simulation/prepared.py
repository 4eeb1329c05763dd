"""What the rounds of a request do to the cache, worked out for a block of requests, or for one that was interrupted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specsim.simulation.rounds import BLOCK, RoundSource
from specsim.simulation.workload import Requests

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class PreparedRounds:
    """Every request's rounds: those drawn for it, or what an interruption left of them.

    count, accepted: rounds of each request and drafted tokens that survived in them, those ahead of it included.
    """

    def __init__(self, source: RoundSource, requests: Requests, k: int, block_size: int) -> None:
        self._source, self._requests, self._k, self._block_size = source, requests, k, block_size
        self._prompt: list[int] = requests.prompt_tokens.tolist()
        self._output: list[int] = requests.output_tokens.tolist()
        self._blocks: dict[int, PreparedBlock] = {}
        self._left: dict[int, tuple[Ints, int]] = {}  # of interrupted requests: what their rounds emit, emitted before
        self.count = [0] * len(requests)
        self.accepted = [0] * len(requests)

    def known_tokens(self, i: int) -> int:
        """Tokens that the request's prefill computes: its prompt, and its output where it was interrupted."""
        return self._prompt[i] + (self._left[i][1] if i in self._left else 0)

    def begin(self, i: int) -> Decoding | None:
        """The rounds that follow the request's prefill, which emits one token; None: that is its last."""
        left, emitted = self._left.get(i, (None, 0))
        emitted += 1
        if emitted == self._output[i]:
            return None
        if left is None:
            state = self._block(i).start(i)
        else:
            self._left[i] = (left, emitted)
            state = resume(left, self._prompt[i] + emitted, self._output[i] - emitted, self._k, self._block_size)
        self.count[i] += state.rounds
        self.accepted[i] += state.accepted
        return state

    def interrupt(self, i: int, state: Decoding, gone: int) -> tuple[int, int]:
        """The request stops after ``gone`` of its rounds; returns its cached tokens and the blocks that it holds."""
        left, emitted = self._left.get(i) or (self._block(i).rounds_of(i), 1)
        used = int(left[:gone].sum())
        self._left[i] = (left[gone:], emitted + used)
        self.count[i] -= state.rounds - gone
        self.accepted[i] -= state.accepted - (used - gone)
        cached = state.kv_first + used
        if gone:
            return cached, state.blocks_first + int(state.block_growth[: gone - 1].sum())
        return cached, -(-cached // self._block_size)

    def end(self, i: int) -> None:
        """The request is finished: nobody asks for its rounds again."""
        self._left.pop(i, None)
        block = self._block(i)
        block.unfinished -= 1
        if block.unfinished == 0:
            del self._blocks[i // BLOCK]

    def _block(self, i: int) -> PreparedBlock:
        block = self._blocks.get(i // BLOCK)
        if block is None:
            block = PreparedBlock(self._source, i // BLOCK, self._requests, self._k, self._block_size)
            self._blocks[i // BLOCK] = block
        return block


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
