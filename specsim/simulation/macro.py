"""The fast executor: between two boundaries (arrival, finish, cache exhaustion) all iterations at once, in arrays.

With a fixed draft length the rounds of a request are known when it starts to decode, and it decodes in every iteration
until it finishes. So its growing cache is added, once, to running sums over the iterations to come; a stretch of
decode-only iterations is then one cumulative sum, one table look-up and one boundary search, whatever the batch.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from specsim.simulation.ahead import Ahead
from specsim.simulation.dropped import DroppedCaches
from specsim.simulation.gaps import Gaps
from specsim.simulation.mixed import Chunk
from specsim.simulation.prepared import Decoding, PreparedBlock, resume
from specsim.simulation.pricing import Pricer
from specsim.simulation.result import Result
from specsim.simulation.rounds import BLOCK, RoundSource
from specsim.simulation.serving import Serving
from specsim.simulation.work import Tally
from specsim.simulation.workload import Requests

_LONGEST = 4096
"""Iterations evaluated at once."""


class BudgetBound(Exception):  # noqa: N818 - a signal, not an error
    """The decoding requests alone exceed the token budget, so not every one decodes in every iteration."""


def run_macro(requests: Requests, serving: Serving, pricer: Pricer, source: RoundSource) -> Result:
    """Run every request to its end at the fixed draft length of the pricer's program.

    Raises BudgetBound when the decoding requests need more tokens than an iteration may carry.
    """
    engine = _Engine(requests, serving, pricer, source)
    while engine.done < len(requests):
        engine.next()
    return engine.result()


class _Engine:
    """The engine between two iterations. Blocks count what the next iteration needs; ``partial`` is the one request
    whose prompt is unfinished (always the last in running order), -1 for none.
    """

    def __init__(self, requests: Requests, serving: Serving, pricer: Pricer, source: RoundSource) -> None:
        n = len(requests)
        self.requests, self.serving, self.pricer, self.source = requests, serving, pricer, source
        self.k = pricer.program.k
        self.prompt: list[int] = requests.prompt_tokens.tolist()
        self.output: list[int] = requests.output_tokens.tolist()
        self.arrival: list[float] = requests.arrival_s.tolist()
        self.scheduled = [-1.0] * n
        self.first_token = [-1.0] * n
        self.finish = [0.0] * n
        self.rounds = [0] * n
        self.accepted = [0] * n
        self.preemptions = [0] * n
        self.last_token: dict[int, float] = {}  # of preempted requests
        self.resumed: dict[int, tuple[NDArray[np.int64], int]] = {}  # theirs: rounds left, tokens emitted
        self.prepared: dict[int, PreparedBlock] = {}
        self.active: dict[int, Decoding] = {}
        self.ahead = Ahead()
        self.dropped = DroppedCaches()
        self.order: list[int] = []  # in the order of admission, finished ones included
        self.admitted = 0
        self.turn: dict[int, int] = {}  # the last admission of each
        self.finishing: list[tuple[int, int, int]] = []  # last iteration, turn, request; some stale
        self.waiting: deque[int] = deque()
        self.arrived = 0  # requests whose arrival has been seen
        self.known = min(requests.concurrency or n, n)  # requests whose time of arrival is known
        self.partial = -1
        self.partial_total = self.partial_done = self.partial_blocks = 0
        self.leaving_seats = self.leaving_blocks = 0
        self.now = self.seen = 0.0
        self.gaps = Gaps(4 * n + 1024)
        self.iterations = self.mixed = self.done = 0
        self.busy_s = self.batch_s = self.cache_s = self.cache_max = 0.0
        self.recent_s = 0.0
        self.tally = Tally()

    def next(self) -> None:
        """One iteration that carries prefill, a stretch of decode-only ones, or a jump to the next arrival."""
        arrival = self.arrival
        while self.arrived < self.known and arrival[self.arrived] <= self.seen:
            self.waiting.append(self.arrived)
            self.arrived += 1
        chunk, preempted = self._make_room()
        prefilling: list[int] = []
        chunks: list[Chunk] = []
        beside = 0  # blocks of prompts that end in this iteration, next to the partial one's
        if chunk:
            prefilling.append(self.partial)
            chunks.append((chunk, self.partial_done, self.partial_done + chunk == self.partial_total))
            self.partial_done += chunk
        blocked = preempted
        if not preempted:
            blocked, beside = self._admit(chunk, prefilling, chunks)
        if chunks:
            self._mixed(prefilling, tuple(chunks), beside)
        elif self.active:
            self._stretch(blocked=blocked, preempted=preempted)
        elif self.leaving_seats or self.seen < self.now:
            self._release()
            self.seen = self.now
        elif self.arrived < self.known:
            self.now = self.seen = arrival[self.arrived]
        else:
            raise RuntimeError("requests wait for an idle engine")

    # What the next iteration holds

    def _make_room(self) -> tuple[int, bool]:
        """Give running requests the blocks they need, preempting the last ones where there are too few.

        Returns the tokens that the partial prompt goes on with, and whether anyone was preempted.
        """
        usable, size = self.serving.usable_blocks, self.serving.block_size
        preempted = False
        while True:
            budget = self.serving.max_num_batched_tokens - len(self.active) * (self.k + 1)
            if budget < 0:
                raise BudgetBound
            chunk = 0
            if self.partial >= 0:
                chunk = min(self.partial_total - self.partial_done, budget)
                if chunk:
                    self.partial_blocks = max(self.partial_blocks, -(-(self.partial_done + chunk) // size))
            if self.ahead.blocks + self.partial_blocks + self.leaving_blocks <= usable:
                return chunk, preempted
            self._preempt_last()
            preempted = True

    def _preempt_last(self) -> None:
        """Drop the cache of the last running request and put it at the head of the queue."""
        i = self.order.pop()
        while i != self.partial and i not in self.active:
            i = self.order.pop()
        size = self.serving.block_size
        self.preemptions[i] += 1
        self.waiting.appendleft(i)
        if i == self.partial:
            self.dropped.drop(i, -(-self.partial_done // size), self.partial_done // size)
            self.partial, self.partial_blocks = -1, 0
            return
        state = self.active.pop(i)
        self.ahead.drop(state)
        gone = self.ahead.at - state.start
        left, emitted = self.resumed.get(i) or (self._block(i).rounds_of(i), 1)
        used = int(left[:gone].sum())
        cached = state.kv_first + used
        held = state.blocks_first + int(state.block_growth[: gone - 1].sum()) if gone else -(-cached // size)
        self.dropped.drop(i, held, cached // size)
        self.rounds[i] -= state.rounds - gone
        self.accepted[i] -= state.accepted - (used - gone)
        self.resumed[i] = (left[gone:], emitted + used)
        self.last_token[i] = self.now

    def _admit(self, chunk: int, prefilling: list[int], chunks: list[Chunk]) -> tuple[bool, int]:
        """Take waiting requests while there are tokens, seats and blocks.

        Returns whether one more could not be taken, and the blocks of prompts that end in this iteration.
        """
        serving, size = self.serving, self.serving.block_size
        budget = serving.max_num_batched_tokens - len(self.active) * (self.k + 1) - chunk
        seats = serving.max_num_seqs - len(self.active) - self.leaving_seats - (self.partial >= 0)
        beside = 0
        while self.waiting and budget > 0 and seats > 0:
            i = self.waiting[0]
            total = self.prompt[i] + (self.resumed[i][1] if i in self.resumed else 0)
            free = int(serving.usable_blocks - self.ahead.blocks) - self.partial_blocks - self.leaving_blocks - beside
            found = 0
            if self.preemptions[i] and serving.prefix_caching:
                found = size * self.dropped.kept(i, free, total, size)
            take = min(total - found, budget)
            if -(-(total if serving.reserve_full_prompt else found + take) // size) > free:
                return True, beside
            if self.preemptions[i]:
                self.dropped.take(i, found // size)
            self.waiting.popleft()
            self.order.append(i)
            self.admitted += 1
            self.turn[i] = self.admitted
            if self.scheduled[i] < 0:
                self.scheduled[i] = self.now
            seats -= 1
            budget -= take
            prefilling.append(i)
            chunks.append((take, found, found + take == total))
            if found + take == total:
                beside += -(-total // size)
                continue
            if self.partial >= 0:
                beside += self.partial_blocks  # the earlier one ends in this iteration
            self.partial, self.partial_total, self.partial_done = i, total, found + take
            self.partial_blocks = -(-self.partial_done // size)
        return budget <= 0 or seats <= 0, beside

    # Running it

    def _mixed(self, prefilling: list[int], chunks: tuple[Chunk, ...], beside: int) -> None:
        """One iteration in which some prompts are computed."""
        ahead, decoding = self.ahead, len(self.active)
        took = self.pricer.mixed(decoding, ahead.kv, chunks)
        self.tally.decode(self.k, decoding, ahead.kv)
        self.tally.prefill(self.k, chunks)
        start, self.now = self.now, self.now + took
        held = ahead.blocks + self.partial_blocks + self.leaving_blocks + beside
        self.mixed += 1
        self._account(1, took, took * held, held)
        if decoding:
            self.gaps.add(took, decoding)
        self._release()
        ahead.advance(1, ahead.kv, ahead.blocks)
        self._finish_due()
        for i, (_, _, last) in zip(prefilling, chunks, strict=True):
            if last:
                self._emit_by_prefill(i)
        self.seen = start if self.serving.async_scheduling else self.now
        self.recent_s = took

    def _stretch(self, *, blocked: bool, preempted: bool) -> None:
        """Decode-only iterations up to the first that ends with a finish, an arrival, or too few blocks."""
        ahead, decoding = self.ahead, len(self.active)
        lag = self.serving.async_scheduling
        awaited = -1.0
        if preempted or self.leaving_seats:
            most = 1
        else:
            most = min(self._next_finish() - ahead.at + 1, _LONGEST)
            if self.arrived < self.known and not blocked:
                awaited = self.arrival[self.arrived]
                if self.recent_s > 0:
                    most = min(most, int((awaited - self.seen) / self.recent_s) + 2)
        kv, blocks = ahead.paths(most)
        others = self.partial_blocks + self.leaving_blocks
        if blocks[-1] + others > self.serving.usable_blocks:
            most = max(1, int(blocks.searchsorted(self.serving.usable_blocks - others, "right")))
        knots, table = self.pricer.decode_table(decoding)
        steps = np.interp(kv[:most], knots, table)
        ends = steps.copy()
        ends[0] += self.now
        ends = ends.cumsum()
        if awaited >= 0.0:
            enough = int(ends.searchsorted(awaited)) + (2 if lag and awaited > self.now else 1)
            if enough < most:
                most = enough
                steps = steps[:most]
        end = float(ends[most - 1])
        held = float(blocks[most - 1]) + others
        took = end - self.now
        self._account(most, took, float(steps.dot(blocks[:most])) + took * others, held)
        self.tally.decode(self.k, most * decoding, float(kv[:most].sum()))
        self.gaps.extend(steps, decoding)
        self._release()
        self.seen = end if not lag else float(ends[most - 2]) if most > 1 else self.now
        self.now = end
        self.recent_s = float(steps[-1])
        ahead.advance(most, float(kv[most - 1]), float(blocks[most - 1]))
        self._finish_due()

    def _account(self, iterations: int, took_s: float, block_s: float, held: float) -> None:
        self.iterations += iterations
        self.busy_s += took_s
        self.batch_s += took_s * len(self.active)
        self.cache_s += block_s
        self.cache_max = max(self.cache_max, held)

    def _release(self) -> None:
        """What finished one iteration ago is free now (with asynchronous scheduling; else at once)."""
        if self.leaving_seats:
            self.dropped.free(self.leaving_blocks)
            self.leaving_seats = self.leaving_blocks = 0

    # Events of requests

    def _emit_by_prefill(self, i: int) -> None:
        """The request's prompt, or its recomputation, is complete and yields one token."""
        if i == self.partial:
            self.partial, self.partial_blocks = -1, 0
        if self.first_token[i] < 0:
            self.first_token[i] = self.now
        else:
            self.gaps.add(self.now - self.last_token.pop(i), 1)
        left, emitted = self.resumed.get(i, (None, 0))
        block = self._block(i)
        if emitted + 1 == self.output[i]:
            self._leave(i, -(-(self.prompt[i] + emitted) // self.serving.block_size))
            return
        if left is None:
            state = block.start(i)
        else:
            emitted += 1
            self.resumed[i] = (left, emitted)
            known = self.prompt[i] + emitted
            state = resume(left, known, self.output[i] - emitted, self.k, self.serving.block_size)
        self.rounds[i] += state.rounds
        self.accepted[i] += state.accepted
        self.active[i] = state
        self.ahead.start(state)
        heappush(self.finishing, (state.end, self.turn[i], i))

    def _next_finish(self) -> int:
        """The iteration in which the next request finishes."""
        while True:
            end, _, i = self.finishing[0]
            state = self.active.get(i)
            if state is not None and state.end == end:
                return end
            heappop(self.finishing)

    def _finish_due(self) -> None:
        """Requests whose last round is over leave, in running order."""
        while self.finishing and self.finishing[0][0] < self.ahead.at:
            end, _, i = heappop(self.finishing)
            state = self.active.get(i)
            if state is not None and state.end == end:
                del self.active[i]
                self.ahead.finish(state)
                self._leave(i, state.blocks_last)

    def _leave(self, i: int, held: int) -> None:
        """The request has its last token."""
        self.finish[i] = self.now
        self.done += 1
        if self.serving.async_scheduling:
            self.leaving_seats += 1
            self.leaving_blocks += held
        else:
            self.dropped.free(held)
        block = self._block(i)
        block.unfinished -= 1
        if block.unfinished == 0:
            del self.prepared[i // BLOCK]
        self.resumed.pop(i, None)
        if self.known < len(self.output):  # a closed loop: the next one arrives
            self.arrival[self.known] = self.now
            self.known += 1

    def _block(self, i: int) -> PreparedBlock:
        block = self.prepared.get(i // BLOCK)
        if block is None:
            block = PreparedBlock(self.source, i // BLOCK, self.requests, self.k, self.serving.block_size)
            self.prepared[i // BLOCK] = block
        return block

    def result(self) -> Result:
        """Everything that happened."""
        if self.active or self.waiting or self.partial >= 0 or self.ahead.kv or self.ahead.blocks:
            raise RuntimeError("the run ended with cache held or requests unfinished")
        rounds = np.array(self.rounds, dtype=np.int64)
        itl_s, itl_count = self.gaps.arrays()
        return Result(
            arrival_s=np.array(self.arrival),
            scheduled_s=np.array(self.scheduled),
            first_token_s=np.array(self.first_token),
            finish_s=np.array(self.finish),
            prompt_tokens=self.requests.prompt_tokens,
            output_tokens=self.requests.output_tokens,
            rounds=rounds,
            drafted=rounds * self.k,
            accepted=np.array(self.accepted, dtype=np.int64),
            preemptions=np.array(self.preemptions, dtype=np.int64),
            itl_s=itl_s,
            itl_count=itl_count,
            iterations=self.iterations,
            mixed_iterations=self.mixed,
            busy_s=self.busy_s,
            batch_s=self.batch_s,
            cache_s=self.cache_s / self.serving.usable_blocks,
            cache_max=self.cache_max / self.serving.usable_blocks,
            work=self.tally.work(),
        )
