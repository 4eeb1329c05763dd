"""What the folded executor's next iteration holds: who decodes, whose prompt is computed, who gives way or waits."""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush
from typing import NamedTuple

from specsim.simulation.ahead import Ahead
from specsim.simulation.dropped import DroppedCaches
from specsim.simulation.mixed import Chunk
from specsim.simulation.prepared import Decoding, PreparedRounds
from specsim.simulation.serving import Serving


class BudgetBound(Exception):  # noqa: N818 - a signal, not an error
    """The decoding requests alone exceed the token budget, so not every one decodes in every iteration."""


class Composed(NamedTuple):
    """An iteration beside the decoding requests: prefilling requests with their chunks, and why there are not more.

    beside: blocks of prompts that end in this iteration, next to the partial one's. preempted: somebody had to give
    way. blocked: nobody waiting could be taken, whoever comes.
    """

    prefilling: list[int]
    chunks: tuple[Chunk, ...]
    beside: int
    blocked: bool
    preempted: bool


class Scheduler:
    """The engine's seats, tokens and blocks between two iterations. Blocks count what the next iteration needs.

    ``partial`` is the one request whose prompt is unfinished (always the last in running order), -1 for none.
    scheduled_s, preemptions: of each request. stopped_s: when preempted requests stopped to decode, until they go on.
    """

    def __init__(self, serving: Serving, rounds: PreparedRounds, k: int, requests: int) -> None:
        self.serving, self.rounds, self.k = serving, rounds, k
        self.ahead = Ahead()
        self.active: dict[int, Decoding] = {}
        self.waiting: deque[int] = deque()
        self.partial = -1
        self.partial_blocks = self.leaving_seats = self.leaving_blocks = 0
        self.scheduled_s = [-1.0] * requests
        self.preemptions = [0] * requests
        self.stopped_s: dict[int, float] = {}
        self._partial_total = self._partial_done = 0
        self._dropped = DroppedCaches()
        self._order: list[int] = []  # in the order of admission, finished ones included
        self._admitted = 0
        self._turn: dict[int, int] = {}  # the last admission of each
        self._finishing: list[tuple[int, int, int]] = []  # last iteration, turn, request; some stale

    @property
    def other_blocks(self) -> int:
        """Blocks that requests hold which do not decode."""
        return self.partial_blocks + self.leaving_blocks

    def compose(self, now: float) -> Composed:
        """Give running requests what they need, then take waiting ones while there are tokens, seats and blocks.

        Raises BudgetBound when the decoding requests need more tokens than an iteration may carry.
        """
        chunk, preempted = self._make_room(now)
        prefilling: list[int] = []
        chunks: list[Chunk] = []
        if chunk:
            prefilling.append(self.partial)
            chunks.append((chunk, self._partial_done, self._partial_done + chunk == self._partial_total))
            self._partial_done += chunk
        blocked, beside = (True, 0) if preempted else self._admit(chunk, prefilling, chunks, now)
        return Composed(prefilling, tuple(chunks), beside, blocked, preempted)

    def _make_room(self, now: float) -> tuple[int, bool]:
        """Give running requests the blocks they need, preempting the last ones where there are too few.

        Returns the tokens that the partial prompt goes on with, and whether anyone was preempted.
        """
        preempted = False
        while True:
            budget = self.serving.max_num_batched_tokens - len(self.active) * (self.k + 1)
            if budget < 0:
                raise BudgetBound
            chunk = 0
            if self.partial >= 0:
                chunk = min(self._partial_total - self._partial_done, budget)
                if chunk:
                    self.partial_blocks = max(self.partial_blocks, self.serving.blocks(self._partial_done + chunk))
            if self.ahead.blocks + self.other_blocks <= self.serving.usable_blocks:
                return chunk, preempted
            self._preempt_last(now)
            preempted = True

    def _preempt_last(self, now: float) -> None:
        """Drop the cache of the last running request and put it at the head of the queue."""
        i = self._order.pop()
        while i != self.partial and i not in self.active:
            i = self._order.pop()
        self.preemptions[i] += 1
        self.waiting.appendleft(i)
        if i == self.partial:
            cached, held = self._partial_done, self.serving.blocks(self._partial_done)
            self.partial, self.partial_blocks = -1, 0
        else:
            state = self.active.pop(i)
            self.ahead.drop(state)
            cached, held = self.rounds.interrupt(i, state, self.ahead.at - state.start)
            self.stopped_s[i] = now
        self._dropped.drop(i, held, cached // self.serving.block_size)

    def _admit(self, chunk: int, prefilling: list[int], chunks: list[Chunk], now: float) -> tuple[bool, int]:
        """Take waiting requests while there are tokens, seats and blocks.

        Returns whether one more could not be taken, and the blocks of prompts that end in this iteration.
        """
        serving, size = self.serving, self.serving.block_size
        budget = serving.max_num_batched_tokens - len(self.active) * (self.k + 1) - chunk
        seats = serving.max_num_seqs - len(self.active) - self.leaving_seats - (self.partial >= 0)
        beside = 0
        while self.waiting and budget > 0 and seats > 0:
            i = self.waiting[0]
            total = self.rounds.known_tokens(i)
            free = int(serving.usable_blocks - self.ahead.blocks) - self.other_blocks - beside
            found = 0
            if self.preemptions[i] and serving.prefix_caching:
                found = size * self._dropped.kept(i, free, total, size)
            take = min(total - found, budget)
            if serving.blocks(total if serving.reserve_full_prompt else found + take) > free:
                return True, beside
            if self.preemptions[i]:
                self._dropped.take(i, found // size)
            self.waiting.popleft()
            self._order.append(i)
            self._admitted += 1
            self._turn[i] = self._admitted
            if self.scheduled_s[i] < 0:
                self.scheduled_s[i] = now
            seats -= 1
            budget -= take
            prefilling.append(i)
            chunks.append((take, found, found + take == total))
            if found + take == total:
                beside += serving.blocks(total)
                continue
            if self.partial >= 0:
                beside += self.partial_blocks  # the earlier one ends in this iteration
            self.partial, self._partial_total, self._partial_done = i, total, found + take
            self.partial_blocks = serving.blocks(self._partial_done)
        return budget <= 0 or seats <= 0, beside

    def prefilled(self, i: int) -> Decoding | None:
        """The request's prompt, or its recomputation, is complete: it decodes from now on (None: it is finished)."""
        if i == self.partial:
            self.partial, self.partial_blocks = -1, 0
        state = self.rounds.begin(i)
        if state is not None:
            self.active[i] = state
            self.ahead.start(state)
            heappush(self._finishing, (state.end, self._turn[i], i))
        return state

    def next_finish(self) -> int:
        """The iteration in which the next decoding request finishes."""
        while True:
            end, _, i = self._finishing[0]
            state = self.active.get(i)
            if state is not None and state.end == end:
                return end
            heappop(self._finishing)

    def finished(self) -> list[tuple[int, int]]:
        """Take out the requests whose last round is over, in running order, each with the blocks that it holds."""
        over = []
        while self._finishing and self._finishing[0][0] < self.ahead.at:
            end, _, i = heappop(self._finishing)
            state = self.active.get(i)
            if state is not None and state.end == end:
                del self.active[i]
                self.ahead.finish(state)
                over.append((i, state.blocks_last))
        return over

    def leave(self, i: int, held: int) -> None:
        """The request is finished; with asynchronous scheduling its seat and blocks are free one iteration later."""
        if self.serving.async_scheduling:
            self.leaving_seats += 1
            self.leaving_blocks += held
        else:
            self._dropped.free(held)
        self.rounds.end(i)

    def release(self) -> None:
        """What finished one iteration ago is free now."""
        if self.leaving_seats:
            self._dropped.free(self.leaving_blocks)
            self.leaving_seats = self.leaving_blocks = 0
