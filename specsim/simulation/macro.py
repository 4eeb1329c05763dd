"""The fast executor: between two boundaries (arrival, finish, cache exhaustion) all iterations at once, in arrays.

With a fixed draft length the rounds of a request are known when it starts to decode, and it decodes in every iteration
until it finishes. So its growing cache is added, once, to running sums over the iterations to come; a stretch of
decode-only iterations is then one cumulative sum, one table look-up and one boundary search, whatever the batch.
"""

from __future__ import annotations

import numpy as np

from specsim.simulation.gaps import Gaps
from specsim.simulation.prepared import PreparedRounds
from specsim.simulation.pricing import Pricer
from specsim.simulation.result import Result
from specsim.simulation.rounds import RoundSource
from specsim.simulation.scheduler import Composed, Scheduler
from specsim.simulation.serving import Serving
from specsim.simulation.work import Tally
from specsim.simulation.workload import Requests

_LONGEST = 4096
"""Iterations evaluated at once."""


def run_macro(requests: Requests, serving: Serving, pricer: Pricer, source: RoundSource) -> Result:
    """Run every request to its end at the fixed draft length of the pricer's program.

    Raises BudgetBound when the decoding requests need more tokens than an iteration may carry.
    """
    engine = _Engine(requests, serving, pricer, source)
    while engine.done < len(requests):
        engine.next()
    return engine.result()


class _Engine:
    """The engine between two iterations: the time, what the scheduler has seen of it, and what was counted so far."""

    def __init__(self, requests: Requests, serving: Serving, pricer: Pricer, source: RoundSource) -> None:
        n = len(requests)
        self.requests, self.serving, self.pricer = requests, serving, pricer
        self.k = pricer.program.k
        self.rounds = PreparedRounds(source, requests, self.k, serving.block_size)
        self.scheduler = Scheduler(serving, self.rounds, self.k, n)
        self.ahead, self.active = self.scheduler.ahead, self.scheduler.active
        self.arrival: list[float] = requests.arrival_s.tolist()
        self.first_token = [-1.0] * n
        self.finish = [0.0] * n
        self.arrived = 0  # requests whose arrival has been seen
        self.known = min(requests.concurrency or n, n)  # requests whose time of arrival is known
        self.now = self.seen = 0.0
        self.gaps = Gaps(4 * n + 1024)
        self.iterations = self.mixed = self.done = 0
        self.busy_s = self.batch_s = self.cache_s = self.cache_max = 0.0
        self.recent_s = 0.0
        self.tally = Tally()

    def next(self) -> None:
        """One iteration that carries prefill, a stretch of decode-only ones, or a jump to the next arrival."""
        arrival, scheduler = self.arrival, self.scheduler
        while self.arrived < self.known and arrival[self.arrived] <= self.seen:
            scheduler.waiting.append(self.arrived)
            self.arrived += 1
        composed = scheduler.compose(self.now)
        if composed.chunks:
            self._mixed(composed)
        elif self.active:
            self._stretch(composed)
        elif scheduler.leaving_seats or self.seen < self.now:
            scheduler.release()
            self.seen = self.now
        elif self.arrived < self.known:
            self.now = self.seen = arrival[self.arrived]
        else:
            raise RuntimeError("requests wait for an idle engine")

    def _mixed(self, composed: Composed) -> None:
        """One iteration in which some prompts are computed."""
        ahead, decoding = self.ahead, len(self.active)
        took = self.pricer.mixed(decoding, ahead.kv, composed.chunks)
        self.tally.decode(self.k, decoding, ahead.kv)
        self.tally.prefill(self.k, composed.chunks)
        start, self.now = self.now, self.now + took
        held = ahead.blocks + self.scheduler.other_blocks + composed.beside
        self.mixed += 1
        self._account(1, took, took * held, held)
        if decoding:
            self.gaps.add(took, decoding)
        self.scheduler.release()
        ahead.advance(1, ahead.kv, ahead.blocks)
        self._finish_due()
        for i, (_, _, last) in zip(composed.prefilling, composed.chunks, strict=True):
            if last:
                self._emit_by_prefill(i)
        self.seen = start if self.serving.async_scheduling else self.now
        self.recent_s = took

    def _stretch(self, composed: Composed) -> None:
        """Decode-only iterations up to the first that ends with a finish, an arrival, or too few blocks."""
        ahead, decoding = self.ahead, len(self.active)
        lag = self.serving.async_scheduling
        awaited = -1.0
        if composed.preempted or self.scheduler.leaving_seats:
            most = 1
        else:
            most = min(self.scheduler.next_finish() - ahead.at + 1, _LONGEST)
            if self.arrived < self.known and not composed.blocked:
                awaited = self.arrival[self.arrived]
                if self.recent_s > 0:
                    most = min(most, int((awaited - self.seen) / self.recent_s) + 2)
        kv, blocks = ahead.paths(most)
        others = self.scheduler.other_blocks
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
        self.scheduler.release()
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

    def _emit_by_prefill(self, i: int) -> None:
        """The request's prompt, or its recomputation, is complete and yields one token."""
        if self.first_token[i] < 0:
            self.first_token[i] = self.now
        else:
            self.gaps.add(self.now - self.scheduler.stopped_s.pop(i), 1)
        if self.scheduler.prefilled(i) is None:
            self._leave(i, self.serving.blocks(self.rounds.known_tokens(i)))

    def _finish_due(self) -> None:
        """Requests whose last round is over leave, in running order."""
        for i, held in self.scheduler.finished():
            self._leave(i, held)

    def _leave(self, i: int, held: int) -> None:
        """The request has its last token."""
        self.finish[i] = self.now
        self.done += 1
        self.scheduler.leave(i, held)
        if self.known < len(self.finish):  # a closed loop: the next one arrives
            self.arrival[self.known] = self.now
            self.known += 1

    def result(self) -> Result:
        """Everything that happened."""
        scheduler = self.scheduler
        if self.active or scheduler.waiting or scheduler.partial >= 0 or self.ahead.kv or self.ahead.blocks:
            raise RuntimeError("the run ended with cache held or requests unfinished")
        rounds = np.array(self.rounds.count, dtype=np.int64)
        itl_s, itl_count = self.gaps.arrays()
        return Result(
            arrival_s=np.array(self.arrival),
            scheduled_s=np.array(scheduler.scheduled_s),
            first_token_s=np.array(self.first_token),
            finish_s=np.array(self.finish),
            prompt_tokens=self.requests.prompt_tokens,
            output_tokens=self.requests.output_tokens,
            rounds=rounds,
            drafted=rounds * self.k,
            accepted=np.array(self.rounds.accepted, dtype=np.int64),
            preemptions=np.array(scheduler.preemptions, dtype=np.int64),
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
