"""The reference executor: one iteration at a time, in plain Python, as the engine's scheduler reads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from specsim.simulation.dropped import DroppedCaches
from specsim.simulation.mixed import Chunk
from specsim.simulation.pricing import Pricer
from specsim.simulation.result import Result
from specsim.simulation.serving import Serving
from specsim.simulation.work import Tally
from specsim.simulation.workload import Requests

Accepts = Callable[[list[int], int], list[int]]
"""Tokens that each of these requests would emit in its next round of k drafted ones."""


@dataclass
class _Request:
    index: int
    arrival_s: float
    prompt: int
    output: int
    emitted: int = 0
    computed: int = 0
    blocks: int = 0
    decoding: bool = False
    scheduled_s: float = float("nan")
    first_token_s: float = float("nan")
    last_token_s: float = float("nan")
    finish_s: float = float("nan")
    rounds: int = 0
    drafted: int = 0
    accepted: int = 0
    preemptions: int = 0

    @property
    def tokens(self) -> int:
        """Known tokens: the prompt and what has been emitted."""
        return self.prompt + self.emitted


@dataclass
class _Engine:
    serving: Serving
    running: list[_Request] = field(default_factory=list)
    waiting: deque[_Request] = field(default_factory=deque)
    free: int = 0
    leaving_seats: int = 0
    leaving_blocks: int = 0
    dropped: DroppedCaches = field(default_factory=DroppedCaches)

    def allocate(self, request: _Request, slots: int) -> bool:
        """Extend the request's blocks to hold ``slots`` tokens, if there are enough free ones."""
        more = max(0, self.serving.blocks(slots) - request.blocks)
        if more > self.free:
            return False
        self.free -= more
        request.blocks += more
        return True

    def preempt(self, request: _Request) -> None:
        """Drop the request's cache and put it at the head of the queue."""
        self.free += request.blocks
        self.dropped.drop(request.index, request.blocks, request.computed // self.serving.block_size)
        request.blocks = request.computed = 0
        request.decoding = False
        request.preemptions += 1
        self.waiting.appendleft(request)

    def release(self, blocks: int) -> None:
        """Blocks of finished requests are free again."""
        self.free += blocks
        self.dropped.free(blocks)

    def compose(self, k: int, now: float) -> tuple[list[tuple[_Request, int]], list[tuple[_Request, int]]]:
        """Requests of the next iteration with their tokens: those that decode, and those that prefill."""
        serving = self.serving
        budget = serving.max_num_batched_tokens
        decodes: list[tuple[_Request, int]] = []
        prefills: list[tuple[_Request, int]] = []
        preempted = False
        at = 0
        while at < len(self.running) and budget > 0:
            request = self.running[at]
            tokens = min(k + 1 if request.decoding else request.tokens - request.computed, budget)
            while not self.allocate(request, request.computed + tokens):
                last = self.running.pop()
                self.preempt(last)
                preempted = True
                if last is request:
                    break
            else:
                (decodes if request.decoding else prefills).append((request, tokens))
                budget -= tokens
                at += 1
                continue
            break
        while not preempted and self.waiting and budget > 0:
            if len(self.running) + self.leaving_seats >= serving.max_num_seqs:
                break
            request = self.waiting[0]
            kept = 0
            if serving.prefix_caching:
                kept = self.dropped.kept(request.index, self.free, request.tokens, serving.block_size)
            found = kept * serving.block_size
            tokens = min(request.tokens - found, budget)
            if serving.reserve_full_prompt and serving.blocks(request.tokens) > self.free:
                break
            if not self.allocate(request, found + tokens):
                break
            self.dropped.take(request.index, kept)
            request.computed = found
            self.running.append(self.waiting.popleft())
            if request.scheduled_s != request.scheduled_s:
                request.scheduled_s = now
            prefills.append((request, tokens))
            budget -= tokens
        return decodes, prefills


def run_stepwise(
    requests: Requests,
    serving: Serving,
    pricers: dict[int, Pricer],
    choose: Callable[[int, float], int],
    accepts: Accepts,
) -> Result:
    """Run every request to its end. ``choose(decoding requests, mean cached tokens)`` gives the draft length."""
    everyone = [
        _Request(i, float(a), int(p), int(o))
        for i, (a, p, o) in enumerate(
            zip(requests.arrival_s, requests.prompt_tokens, requests.output_tokens, strict=True)
        )
    ]
    engine = _Engine(serving, free=serving.usable_blocks)
    loop = requests.concurrency or len(everyone)
    ahead, later = deque(everyone[:loop]), deque(everyone[loop:])
    now = seen_until = 0.0
    gaps: list[tuple[float, int]] = []
    iterations = mixed = 0
    busy = batch_s = cache_s = cache_max = 0.0
    tally = Tally()
    while True:
        while ahead and ahead[0].arrival_s <= seen_until:
            engine.waiting.append(ahead.popleft())
        decoding = [r for r in engine.running if r.decoding]
        context = sum(r.computed for r in decoding) / len(decoding) if decoding else 0.0
        k = choose(len(decoding), context)
        decodes, prefills = engine.compose(k, now)
        if not decodes and not prefills:
            if engine.leaving_seats or seen_until < now:
                engine.release(engine.leaving_blocks)
                engine.leaving_seats = engine.leaving_blocks = 0
                seen_until = now
            elif ahead:
                now = seen_until = ahead[0].arrival_s
            elif engine.waiting:
                raise RuntimeError("requests wait for an idle engine")
            else:
                break
            continue
        held = serving.usable_blocks - engine.free
        engine.release(engine.leaving_blocks)
        engine.leaving_seats = engine.leaving_blocks = 0
        kv = sum(r.computed for r, _ in decodes)
        tally.decode(k, len(decodes), kv)
        if prefills:
            chunks: tuple[Chunk, ...] = tuple((n, r.computed, r.computed + n == r.tokens) for r, n in prefills)
            took = pricers[k].mixed(len(decodes), kv, chunks)
            tally.prefill(k, chunks)
            mixed += 1
        else:
            took = pricers[k].decode(len(decodes), kv)
        start, now = now, now + took
        iterations += 1
        busy += took
        batch_s += took * len(decodes)
        cache_s += took * held / serving.usable_blocks
        cache_max = max(cache_max, held / serving.usable_blocks)
        emitting: list[_Request] = []
        would_emit = accepts([r.index for r, _ in decodes], k)
        for (request, tokens), emits in zip(decodes, would_emit, strict=True):
            kept = min(emits, tokens)
            request.rounds += 1
            request.drafted += tokens - 1
            request.accepted += kept - 1
            request.computed += kept
            request.emitted = min(request.emitted + kept, request.output)
            emitting.append(request)
        for request, tokens in prefills:
            request.computed += tokens
            if request.computed == request.tokens:
                request.emitted += 1
                request.decoding = True
                emitting.append(request)
        in_step = 0
        for request in emitting:
            if request.first_token_s != request.first_token_s:
                request.first_token_s = now
            elif request.last_token_s == start:
                in_step += 1
            else:
                gaps.append((now - request.last_token_s, 1))
            request.last_token_s = now
            if request.emitted == request.output:
                request.finish_s = now
                engine.running.remove(request)
                if serving.async_scheduling:
                    engine.leaving_seats += 1
                    engine.leaving_blocks += request.blocks
                else:
                    engine.release(request.blocks)
                request.blocks = 0
                if later:
                    later[0].arrival_s = now
                    ahead.append(later.popleft())
        if in_step:
            gaps.append((took, in_step))
        seen_until = start if serving.async_scheduling else now

    if engine.running or engine.free != serving.usable_blocks:
        raise RuntimeError("the run ended with cache held or requests unfinished")

    def column(name: str, kind: type) -> np.ndarray:
        return np.array([getattr(r, name) for r in everyone], dtype=kind)

    return Result(
        arrival_s=column("arrival_s", np.float64),
        scheduled_s=column("scheduled_s", np.float64),
        first_token_s=column("first_token_s", np.float64),
        finish_s=column("finish_s", np.float64),
        prompt_tokens=requests.prompt_tokens,
        output_tokens=requests.output_tokens,
        rounds=column("rounds", np.int64),
        drafted=column("drafted", np.int64),
        accepted=column("accepted", np.int64),
        preemptions=column("preemptions", np.int64),
        itl_s=np.array([g for g, _ in gaps]),
        itl_count=np.array([c for _, c in gaps], dtype=np.int64),
        iterations=iterations,
        mixed_iterations=mixed,
        busy_s=busy,
        batch_s=batch_s,
        cache_s=cache_s,
        cache_max=cache_max,
        work=tally.work(),
    )
