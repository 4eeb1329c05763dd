"""The fast executor: between two boundaries (arrival, finish, cache exhaustion) all iterations at once, in arrays.

With a fixed draft length the rounds of a request are known when it starts to decode, and it decodes in every iteration
until it finishes. So its growing cache is added, once, to a running sum over future iterations; a stretch of
decode-only iterations is then one cumulative sum, one table look-up and one boundary search, whatever the batch.
"""

from __future__ import annotations

from collections import deque
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from specsim.simulation.dropped import DroppedCaches
from specsim.simulation.mixed import Chunk
from specsim.simulation.pricing import Pricer
from specsim.simulation.result import Result
from specsim.simulation.rounds import BLOCK, RoundSource
from specsim.simulation.serving import Serving
from specsim.simulation.workload import Requests

Floats = NDArray[np.float64]

_HORIZON = 1 << 15
"""Future iterations kept in the running sums; grown when a request needs more rounds."""

_LONGEST = 4096
"""Iterations evaluated at once."""


class BudgetBound(Exception):  # noqa: N818 - a signal, not an error
    """The decoding requests alone exceed the token budget, so not every one decodes in every iteration."""


class _Prepared:
    """A block of drawn rounds with what each round needs of the cache, for requests that start undisturbed."""

    def __init__(self, source: RoundSource, number: int, requests: Requests, k: int, block_size: int) -> None:
        drawn = source.block(number)
        n = len(drawn.count)
        self.first = number * BLOCK
        prompt = requests.prompt_tokens[self.first : self.first + n, None]
        self.emitted = drawn.emitted
        total = np.cumsum(drawn.emitted, axis=1)
        before = prompt + total - drawn.emitted
        blocks = (before + (k + block_size)) // block_size
        self.growth = drawn.emitted.astype(np.float64)
        self.block_growth = np.diff(blocks, axis=1).astype(np.float64)
        self.rounds: list[int] = drawn.count.tolist()
        some = drawn.emitted.shape[1] > 0
        rows, last = np.arange(n), np.maximum(drawn.count - 1, 0)
        self.first_blocks: list[int] = blocks[:, 0].tolist() if some else [0] * n
        self.last_blocks: list[int] = blocks[rows, last].tolist() if some else [0] * n
        self.last_kv: list[int] = before[rows, last].tolist() if some else [0] * n
        self.accepted: list[int] = (total[:, -1] - drawn.count).tolist() if some else [0] * n
        self.unfinished = n


class _Decoding:
    """A request that decodes: where its contributions to the running sums lie."""

    __slots__ = ("block_growth", "blocks_first", "blocks_last", "end", "growth", "kv_first", "kv_last", "start")

    def __init__(
        self, start: int, end: int, growth: Floats, block_growth: Floats, kv: tuple[int, int], blocks: tuple[int, int]
    ) -> None:
        self.start, self.end = start, end
        self.growth, self.block_growth = growth, block_growth
        self.kv_first, self.kv_last = kv
        self.blocks_first, self.blocks_last = blocks


def run_macro(requests: Requests, serving: Serving, pricer: Pricer, source: RoundSource) -> Result:
    """Run every request to its end at the fixed draft length of the pricer's program.

    Raises BudgetBound when the decoding requests need more tokens than an iteration may carry.
    """
    k = pricer.program.k
    size, usable, seats = serving.block_size, serving.usable_blocks, serving.max_num_seqs
    lag, reserve, caching = serving.async_scheduling, serving.reserve_full_prompt, serving.prefix_caching
    budget_all, per_sequence = serving.max_num_batched_tokens, k + 1
    n = len(requests)
    prompt: list[int] = requests.prompt_tokens.tolist()
    output: list[int] = requests.output_tokens.tolist()
    arrival: list[float] = requests.arrival_s.tolist()
    loop = requests.concurrency or n
    scheduled = [-1.0] * n
    first_token = [-1.0] * n
    last_token: dict[int, float] = {}
    finish = [0.0] * n
    rounds = [0] * n
    accepted = [0] * n
    preemptions = [0] * n

    prepared: dict[int, _Prepared] = {}
    resumed: dict[int, tuple[NDArray[np.int64], int]] = {}  # rounds left, tokens emitted, of preempted requests
    active: dict[int, _Decoding] = {}
    order: list[int] = []  # running order, with finished ones still in it
    waiting: deque[int] = deque()
    arrived, known = 0, min(loop, n)  # requests whose arrival has been seen; those whose arrival time is set
    finishing: list[tuple[int, int, int]] = []
    admitted = 0
    turn: dict[int, int] = {}

    kv_ahead = np.zeros(_HORIZON)
    blocks_ahead = np.zeros(_HORIZON)
    at = 0  # the next iteration, as an index into the running sums
    shifted = 0  # iterations dropped from their front
    kv = blocks = 0.0  # cached tokens attended and blocks needed in the next iteration, decoding requests only
    decoding = 0
    partial = -1  # the request whose prompt is unfinished, always the last in order
    partial_total = partial_done = partial_blocks = 0
    dropped = DroppedCaches()
    leaving_seats = leaving_blocks = 0
    now = seen = 0.0
    gap_s = np.empty(4 * n + 1024)
    gap_count = np.empty(4 * n + 1024, dtype=np.int64)
    gaps = 0
    iterations = mixed = done = 0
    busy = batch_s = cache_s = cache_max = 0.0
    recent = 0.0

    def emitted_before(i: int) -> int:
        return resumed[i][1] if i in resumed else 0

    def start_decoding(i: int) -> None:
        """The request emitted a token by prefill; it decodes from iteration ``at`` on."""
        nonlocal kv, blocks, decoding, kv_ahead, blocks_ahead
        if i in resumed:
            left, emitted = resumed[i]
            emitted += 1
            resumed[i] = (left, emitted)
            total = np.cumsum(left)
            count = int(np.searchsorted(total, output[i] - emitted)) + 1
            before = prompt[i] + emitted - 1 + total[:count] - left[:count]
            need = (before + (k + size)) // size
            state = _Decoding(
                at,
                at + count - 1,
                left[: count - 1].astype(np.float64),
                np.diff(need).astype(np.float64),
                (int(before[0]), int(before[-1])),
                (int(need[0]), int(need[-1])),
            )
            accepted[i] += int(total[count - 1]) - count
        else:
            block = prepared[i // BLOCK]
            row = i - block.first
            count = block.rounds[row]
            state = _Decoding(
                at,
                at + count - 1,
                block.growth[row, : count - 1],
                block.block_growth[row, : count - 1],
                (prompt[i], block.last_kv[row]),
                (block.first_blocks[row], block.last_blocks[row]),
            )
            accepted[i] = block.accepted[row]
        rounds[i] += count
        if at + count >= len(kv_ahead):
            grown = np.zeros(2 * (at + count))
            grown[: len(kv_ahead)] = kv_ahead
            kv_ahead = grown
            grown = np.zeros(2 * (at + count))
            grown[: len(blocks_ahead)] = blocks_ahead
            blocks_ahead = grown
        if count > 1:
            kv_ahead[at + 1 : at + count] += state.growth
            blocks_ahead[at + 1 : at + count] += state.block_growth
        kv += state.kv_first
        blocks += state.blocks_first
        decoding += 1
        active[i] = state
        state.end += shifted
        state.start += shifted
        heappush(finishing, (state.end, turn[i], i))

    def preempt_last() -> None:
        """Drop the cache of the last running request and put it at the head of the queue."""
        nonlocal kv, blocks, decoding, partial, partial_blocks
        while True:
            i = order.pop()
            if i == partial or i in active:
                break
        preemptions[i] += 1
        waiting.appendleft(i)
        if i == partial:
            dropped.drop(i, -(-partial_done // size), partial_done // size)
            partial, partial_blocks = -1, 0
            return
        state = active.pop(i)
        gone = at + shifted - state.start  # rounds done
        count = state.end - state.start + 1
        kv -= state.kv_first + float(state.growth[:gone].sum())
        blocks -= state.blocks_first + float(state.block_growth[:gone].sum())
        if count - gone > 1:
            kv_ahead[at + 1 : at + count - gone] -= state.growth[gone:]
            blocks_ahead[at + 1 : at + count - gone] -= state.block_growth[gone:]
        decoding -= 1
        if i in resumed:
            left, emitted = resumed[i]
        else:
            block = prepared_of(i)
            row = i - block.first
            left, emitted = block.emitted[row, : block.rounds[row]], 1
        used = int(left[:gone].sum())
        computed = state.kv_first + used
        held = state.blocks_first + int(state.block_growth[: gone - 1].sum()) if gone else -(-computed // size)
        dropped.drop(i, held, computed // size)
        rest = left[gone:]
        rounds[i] -= count - gone
        accepted[i] -= int(left[gone:count].sum()) - (count - gone)
        resumed[i] = (rest, emitted + used)
        last_token[i] = now

    def prepared_of(i: int) -> _Prepared:
        block = prepared.get(i // BLOCK)
        if block is None:
            block = prepared[i // BLOCK] = _Prepared(source, i // BLOCK, requests, k, size)
        return block

    def leave(i: int, held: float) -> None:
        """The request has its last token."""
        nonlocal done, leaving_seats, leaving_blocks, known
        finish[i] = now
        done += 1
        if lag:
            leaving_seats += 1
            leaving_blocks += int(held)
        else:
            dropped.free(int(held))
        block = prepared_of(i)
        block.unfinished -= 1
        if block.unfinished == 0:
            del prepared[i // BLOCK]
        resumed.pop(i, None)
        if known < n:
            arrival[known] = now
            known += 1

    while done < n:
        while arrived < known and arrival[arrived] <= seen:
            waiting.append(arrived)
            arrived += 1

        # What the running requests need; the last ones make room when it is too much.
        budget = budget_all - decoding * per_sequence
        if budget < 0:
            raise BudgetBound
        preempted = False
        chunk = 0
        while True:
            if partial >= 0:
                chunk = min(partial_total - partial_done, budget)
                partial_blocks = max(partial_blocks, -(-(partial_done + chunk) // size)) if chunk else partial_blocks
            if blocks + partial_blocks + leaving_blocks <= usable:
                break
            preempt_last()
            preempted = True
            chunk = 0
            budget = budget_all - decoding * per_sequence
        chunks: list[Chunk] = []
        prefilling: list[int] = []
        extra_blocks = 0
        if partial >= 0 and chunk:
            last = partial_done + chunk == partial_total
            chunks.append((chunk, partial_done, last))
            prefilling.append(partial)
            partial_done += chunk
            budget -= chunk
        blocked = preempted or budget <= 0
        if not preempted:
            running = decoding + leaving_seats + (partial >= 0)
            while waiting and budget > 0:
                if running >= seats:
                    blocked = True
                    break
                i = waiting[0]
                total = prompt[i] + emitted_before(i)
                free = int(usable - blocks - partial_blocks - leaving_blocks - extra_blocks)
                found = dropped.kept(i, free, total, size) * size if caching and preemptions[i] else 0
                take = min(total - found, budget)
                if -(-(total if reserve else found + take) // size) > free:
                    blocked = True
                    break
                if preemptions[i]:
                    dropped.take(i, found // size)
                waiting.popleft()
                order.append(i)
                admitted += 1
                turn[i] = admitted
                if scheduled[i] < 0:
                    scheduled[i] = now
                running += 1
                budget -= take
                prefilling.append(i)
                chunks.append((take, found, found + take == total))
                if found + take < total:
                    if partial >= 0:
                        extra_blocks += partial_blocks  # the earlier one ends in this iteration
                    partial, partial_total, partial_done = i, total, found + take
                    partial_blocks = -(-partial_done // size)
                else:
                    extra_blocks += -(-total // size)
            if running >= seats:
                blocked = True

        if not decoding and not chunks:
            if leaving_seats or seen < now:
                dropped.free(leaving_blocks)
                leaving_seats = leaving_blocks = 0
                seen = now
            elif arrived < known:
                now = seen = arrival[arrived]
            else:
                raise RuntimeError("requests wait for an idle engine")
            continue

        if chunks:
            took = pricer.mixed(decoding, kv, tuple(chunks))
            start = now
            now += took
            iterations += 1
            mixed += 1
            busy += took
            batch_s += took * decoding
            held = blocks + partial_blocks + leaving_blocks + extra_blocks
            cache_s += took * held
            if held > cache_max:
                cache_max = held
            if gaps + len(chunks) + 1 > len(gap_s):
                gap_s = np.concatenate([gap_s, np.empty(len(gap_s))])
                gap_count = np.concatenate([gap_count, np.empty(len(gap_count), dtype=np.int64)])
            dropped.free(leaving_blocks)
            leaving_seats = leaving_blocks = 0
            in_step = decoding
            ended = at + shifted
            at += 1
            kv += float(kv_ahead[at])
            blocks += float(blocks_ahead[at])
            while finishing and finishing[0][0] <= ended:
                end, _, i = heappop(finishing)
                state = active.get(i)
                if state is None or state.end != end:
                    continue
                del active[i]
                kv -= state.kv_last
                blocks -= state.blocks_last
                decoding -= 1
                leave(i, state.blocks_last)
            for i, (_, _, last) in zip(prefilling, chunks, strict=True):
                if not last:
                    continue
                if i == partial:
                    partial, partial_blocks = -1, 0
                if first_token[i] < 0:
                    first_token[i] = now
                else:
                    gap_s[gaps] = now - last_token.pop(i)
                    gap_count[gaps] = 1
                    gaps += 1
                prepared_of(i)
                if emitted_before(i) + 1 >= output[i]:
                    leave(i, -(-(prompt[i] + emitted_before(i)) // size))
                else:
                    start_decoding(i)
            if in_step:
                gap_s[gaps] = took
                gap_count[gaps] = in_step
                gaps += 1
            seen = start if lag else now
            recent = took
        else:
            # Only decoding requests until something changes.
            stretch = finishing[0][0] - shifted - at + 1
            while active.get(finishing[0][2]) is None or active[finishing[0][2]].end != finishing[0][0]:
                heappop(finishing)
                stretch = finishing[0][0] - shifted - at + 1
            awaited = -1.0
            if preempted or leaving_seats:
                stretch = 1
            elif arrived < known and not blocked and not waiting:
                awaited = arrival[arrived]
                if recent > 0:
                    stretch = min(stretch, int((awaited - seen) / recent) + 2)
            stretch = min(stretch, _LONGEST)
            knots, table = pricer.decode_table(decoding)
            kv_ahead[at] = kv
            blocks_ahead[at] = blocks
            block_path = blocks_ahead[at : at + stretch].cumsum()
            if block_path[-1] + leaving_blocks + partial_blocks > usable:
                stretch = max(1, int(block_path.searchsorted(usable - leaving_blocks - partial_blocks, "right")))
                block_path = block_path[:stretch]
            kv_path = kv_ahead[at : at + stretch].cumsum()
            steps = np.interp(kv_path, knots, table)
            clock = steps.copy()
            clock[0] += now
            clock = clock.cumsum()
            if awaited >= 0.0:
                enough = int(clock.searchsorted(awaited)) + 1
                if lag and awaited > now:
                    enough += 1
                if enough < stretch:
                    stretch = enough
                    steps = steps[:stretch]
                    block_path = block_path[:stretch]
            last_step = float(steps[-1])
            end_s = float(clock[stretch - 1])
            iterations += stretch
            busy += end_s - now
            batch_s += (end_s - now) * decoding
            cache_s += float(steps.dot(block_path)) + (end_s - now) * (leaving_blocks + partial_blocks)
            held = float(block_path[-1]) + leaving_blocks + partial_blocks
            if held > cache_max:
                cache_max = held
            if gaps + stretch > len(gap_s):
                more = max(len(gap_s), stretch)
                gap_s = np.concatenate([gap_s, np.empty(more)])
                gap_count = np.concatenate([gap_count, np.empty(more, dtype=np.int64)])
            gap_s[gaps : gaps + stretch] = steps
            gap_count[gaps : gaps + stretch] = decoding
            gaps += stretch
            dropped.free(leaving_blocks)
            leaving_seats = leaving_blocks = 0
            start = float(clock[stretch - 2]) if stretch > 1 else now
            now = end_s
            seen = start if lag else now
            kv = float(kv_path[stretch - 1])
            blocks = float(block_path[-1])
            at += stretch
            kv += float(kv_ahead[at])
            blocks += float(blocks_ahead[at])
            ended = at + shifted - 1
            while finishing and finishing[0][0] <= ended:
                end, _, i = heappop(finishing)
                state = active.get(i)
                if state is None or state.end != end:
                    continue
                del active[i]
                kv -= state.kv_last
                blocks -= state.blocks_last
                decoding -= 1
                leave(i, state.blocks_last)
            recent = last_step

        if at > _HORIZON // 2:
            for path in (kv_ahead, blocks_ahead):
                rest = len(path) - at
                path[:rest] = path[at:].copy()
                path[rest:] = 0.0
            shifted += at
            at = 0

    if active or kv or blocks or partial >= 0 or waiting:
        raise RuntimeError("the run ended with cache held or requests unfinished")
    counts = np.array(rounds, dtype=np.int64)
    return Result(
        arrival_s=np.array(arrival[:n]),
        scheduled_s=np.array(scheduled),
        first_token_s=np.array(first_token),
        finish_s=np.array(finish),
        prompt_tokens=requests.prompt_tokens,
        output_tokens=requests.output_tokens,
        rounds=counts,
        drafted=counts * k,
        accepted=np.array(accepted, dtype=np.int64),
        preemptions=np.array(preemptions, dtype=np.int64),
        itl_s=gap_s[:gaps].copy(),
        itl_count=gap_count[:gaps].copy(),
        iterations=iterations,
        mixed_iterations=mixed,
        busy_s=busy,
        batch_s=batch_s,
        cache_s=cache_s / usable,
        cache_max=cache_max / usable,
    )
