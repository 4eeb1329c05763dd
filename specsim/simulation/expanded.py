"""The expanded executor: any round program on servers and links, one event a batch and a message."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import simpy

from specsim.errors import InputError
from specsim.simulation.after import After
from specsim.simulation.cache_limits import BlockPool, CacheLimits
from specsim.simulation.graph import Graph
from specsim.simulation.ledger import Ledger
from specsim.simulation.links import Link, LinkUse
from specsim.simulation.mixed import Chunk
from specsim.simulation.place import Place, Seats
from specsim.simulation.program import RoundProgram
from specsim.simulation.progress import PATIENCE, run_to_end
from specsim.simulation.result import Result
from specsim.simulation.round_rules import RoundRule
from specsim.simulation.servers import Job, ServerUse
from specsim.simulation.topology import Topology
from specsim.simulation.workload import Requests


@dataclass(frozen=True)
class Outcome:
    """A run: one row a request, and what servers and links did. ``result`` counts batches as iterations.

    by_prefill: tokens of each request that its prefill emitted (0 where prompts were cached). recomputed: tokens that
    the recomputations of preempted requests emitted, all together.
    """

    result: Result
    servers: tuple[ServerUse, ...]
    links: tuple[LinkUse, ...]
    by_prefill: int = 1
    recomputed: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens over the time from the first arrival to the last finish."""
        return float(self.result.output_tokens.sum()) / self.result.duration_s

    @property
    def tokens_per_round(self) -> float:
        """Tokens that rounds emitted (cut at the requested length) over rounds; prompts' own tokens not counted."""
        by_rounds = (self.result.output_tokens - self.by_prefill).sum() - self.recomputed
        return float(by_rounds / self.result.rounds.sum())

    @property
    def wasted_tokens(self) -> int:
        """Drafted tokens that did not survive, those drafted ahead in vain included."""
        return int((self.result.drafted - self.result.accepted).sum())


def run_expanded(
    programs: RoundProgram | Mapping[int, RoundProgram],
    rule: RoundRule,
    requests: Requests,
    topology: Topology,
    rng: np.random.Generator,
    *,
    seats: int | None = None,
    prompt_cached: bool = False,
    chunk_tokens: int = 8192,
    think_s: Callable[[int], float] | None = None,
    together: bool = False,
    priority: Callable[[int, str, float], float] | None = None,
    deadline_s: float = np.inf,
    patience: int = PATIENCE,
) -> Outcome:
    """Run requests as streams of rounds over servers and links, and return when each was answered and finished.

    programs: by draft length (or by kind, where rounds of one length differ); ``rule`` chooses each round's and says
    what survives. Prompts run the program of the largest key. A round runs its legs as their predecessors end, then
    commits; a stream has one round at a time. A server prices the batch that it formed: decoding jobs of different
    lengths as the longest of them, prompts beside them as chunks of at most ``chunk_tokens``. seats: streams at a time
    (None: a closed loop's concurrency, else all); a request waits for a seat in order of arrival. prompt_cached: no
    prefill; all tokens come from rounds. think_s: a closed loop's pause before request i; together: it forks and joins,
    the next ``concurrency`` requests arriving when all have ended. priority: of a job on priority servers, from
    (stream, stage, now). deadline_s: a round whose reply is home later than that after its draft had left emits nothing
    and is drafted again.

    Where a server has ``num_blocks``, a request with a seat begins when its prompt fits the free blocks of all such
    servers that it is on, in order of arrival on each; its blocks grow with its passes (a round looks ``k`` + 1 tokens
    ahead) and are free when it is finished. Where they run out, the youngest request on that server gives up all of its
    own once its round is over, and computes its prompt and its output again, as in the folded executor without prefix
    caching; nothing of it is found again.

    Raises InputError for programs and places that don't fit (at once), for a length that has no program or a rule that
    accepts more than was drafted (when it happens), and for a run that stops progressing, saying who waits for whom.
    """
    by_key = {programs.key: programs} if isinstance(programs, RoundProgram) else dict(programs)
    run = _Run(by_key, rule, requests, topology, rng, seats, chunk_tokens, think_s, priority)
    run.prompt_cached = prompt_cached
    if together and requests.concurrency is None:
        raise InputError("forks and joins need a concurrency", field="together")
    run.together, run.deadline_s = together, deadline_s
    return run.to_end(patience)


def batch_seconds(jobs: Sequence[Job]) -> tuple[float, int]:
    """Seconds of a batch, its decoding jobs as long as the longest and its prompts as chunks beside them; and how many
    jobs decode.
    """
    if len(jobs) == 1:
        price, kv, chunk, _ = jobs[0].what
        if chunk is None:
            return float(price.decode(1, kv)), 1
    chunks: list[Chunk] = []
    decoding, cached, longest = 0, 0, jobs[0].what[0]
    for job in jobs:
        price, kv, chunk, _ = job.what
        if chunk is None:
            decoding += 1
            cached += kv
        else:
            chunks.append(chunk)
        if price.k > longest.k:
            longest = price
    if not chunks:
        return float(longest.decode(decoding, cached)), decoding
    return float(longest.mixed(decoding, cached, tuple(chunks))), decoding


class _Stream:
    """One request on its seat, within a round."""

    __slots__ = (
        "at", "chunk", "graph", "i", "k", "kv", "left", "links", "missing", "needs", "next_k", "pools", "prompt_left",
        "seat", "sent_s", "starts_with", "turn",
    )  # fmt: skip

    def __init__(self, i: int, seat: int, at: Seats, prompt: int) -> None:
        self.i, self.seat, self.at, self.prompt_left = i, seat, at, prompt
        self.pools: tuple[BlockPool, ...] = ()
        self.links: dict[tuple[str, str], Link] = {}
        self.k = self.kv = self.left = self.starts_with = self.needs = self.turn = 0
        self.sent_s = np.inf
        """When its round last left home."""
        self.next_k = -1
        """Length of a round that was chosen and could not run; -1: none."""
        self.chunk: Chunk | None = None
        self.missing: list[int] = []
        self.graph: Graph


class _Run:
    def __init__(
        self,
        programs: dict[int, RoundProgram],
        rule: RoundRule,
        requests: Requests,
        topology: Topology,
        rng: np.random.Generator,
        seats: int | None,
        chunk_tokens: int,
        think_s: Callable[[int], float] | None,
        priority: Callable[[int, str, float], float] | None,
    ) -> None:
        if not programs:
            raise InputError("no round program", field="programs")
        for key, program in programs.items():
            if key != program.key:
                kind = f"drafts {program.k} tokens" if program.kind is None else f"is of kind {program.kind}"
                raise InputError(f"{program.name} {kind}, listed under {key}", field="programs")
        if chunk_tokens < 1:
            raise InputError(f"{chunk_tokens}; give at least 1", field="chunk_tokens")
        self.env = simpy.Environment()
        self.place = Place(self.env, topology, self._seconds, rng.spawn(1)[0])
        self.ledger, self.rule, self.topology = Ledger(requests), rule, topology
        self.chunk_tokens, self.think_s, self.priority = chunk_tokens, think_s, priority
        self.prompt_cached = self.together = False
        self.deadline_s = np.inf
        longest = int((requests.prompt_tokens + requests.output_tokens).max()) + 2
        longest += max(program.k for program in programs.values())
        most = max(spec.batching.max_batch for spec in topology.servers)
        self.graphs = {k: Graph(program, topology, longest * most) for k, program in programs.items()}
        self.limits = CacheLimits(self._begin, self._go, self._preempted) if self.place.limited else None
        loop = requests.concurrency
        places = seats if seats is not None else (loop or len(requests))
        if places < 1:
            raise InputError(f"{places}; give at least 1", field="seats")
        places = min(places, len(requests))
        self.place.check_batches(places)
        self.free_seats = list(range(places))[::-1]
        self.waiting: deque[int] = deque()
        self.known = min(loop or len(requests), len(requests))
        self.requests_at_once = loop
        self.active: dict[int, _Stream] = {}
        self.iterations = self.mixed = self.recomputed = 0
        self.batch_s = 0.0

    def _check_caches(self) -> None:
        """Every request's longest round must fit alone: it starts at the latest with one token missing."""
        prompt, output = np.array(self.ledger.prompt), np.array(self.ledger.output)
        k = max(graph.k for graph in self.graphs.values())
        rounds = output if self.prompt_cached else output - 1
        slots = prompt + np.maximum(rounds - 1, 0) + np.where(rounds > 0, k + 1, 0)
        longest = int(slots.argmax())
        self.place.check_cache(int(slots[longest]), request=longest)

    def to_end(self, patience: int) -> Outcome:
        ledger = self.ledger
        self._check_caches()
        for i in range(self.known):
            self._arrive_at(i, ledger.arrival_s[i])
        run_to_end(
            self.env,
            finished=lambda: ledger.finished == len(ledger),
            commits=lambda: ledger.commits,
            who_waits=self._who_waits,
            patience=patience,
        )
        pools = self.place.pools
        uses, links = self.place.uses()
        result = ledger.result(
            iterations=self.iterations,
            mixed_iterations=self.mixed,
            busy_s=sum(use.busy_s for use in uses),
            batch_s=self.batch_s,
            cache_s=sum(pool.block_s for pool in pools) / max(sum(pool.usable for pool in pools), 1),
            cache_max=max((use.cache_max for use in uses), default=0.0),
        )
        return Outcome(result, uses, links, int(not self.prompt_cached), self.recomputed)

    # Requests

    def _arrive_at(self, i: int, when_s: float) -> None:
        After(self.env, when_s - self.env.now, lambda _: self._arrive(i))

    def _arrive(self, i: int) -> None:
        self.waiting.append(i)
        self._seat()

    def _seat(self) -> None:
        while self.waiting and self.free_seats:
            i, seat = self.waiting.popleft(), self.free_seats.pop()
            at = self.place.seat(seat)
            prompt = self.ledger.prompt[i]
            stream = self.active[i] = _Stream(i, seat, at, 0 if self.prompt_cached else prompt)
            stream.kv = prompt if self.prompt_cached else 0
            if self.limits is None:
                self.ledger.scheduled_s[i] = self.env.now
                self._begin(stream)
            else:
                stream.pools = tuple(server.pool for server, _ in at.values() if server.pool is not None)
                stream.starts_with = prompt
                self.limits.enter(stream)

    def _preempted(self, stream: _Stream) -> None:
        """Its caches are gone: it computes prompt and output again, and then runs the round that it had chosen."""
        self.ledger.preemptions[stream.i] += 1
        if stream.chunk is None:
            stream.next_k = stream.k
        stream.prompt_left = stream.starts_with = self.ledger.prompt[stream.i] + self.ledger.emitted[stream.i]
        stream.kv = 0

    def _finish(self, stream: _Stream) -> None:
        del self.active[stream.i]
        if self.limits is not None:
            self.limits.leave(stream)
        self.place.leave(stream.at)
        self.free_seats.append(stream.seat)
        joined = not self.together or not self.active
        wave = (self.requests_at_once or 1) if self.together else 1
        for _ in range(min(wave, len(self.ledger) - self.known) if joined else 0):  # a closed loop: the next arrives
            pause = self.think_s(self.known) if self.think_s is not None else 0.0
            if not pause >= 0:
                raise InputError(f"{pause} s before request {self.known}; give 0 or more", field="think_s")
            self.ledger.arrival_s[self.known] = self.env.now + pause
            if pause > 0:
                self._arrive_at(self.known, self.env.now + pause)
            else:
                self.waiting.append(self.known)
            self.known += 1
        self._seat()

    # Rounds

    def _begin(self, stream: _Stream) -> None:
        if stream.prompt_left:
            tokens = min(stream.prompt_left, self.chunk_tokens)
            stream.k = max(self.graphs)
            stream.chunk = (tokens, stream.kv, tokens == stream.prompt_left)
        else:
            stream.k = self.rule.length(stream.i) if stream.next_k < 0 else stream.next_k
            stream.chunk, stream.next_k = None, -1
        graph = self.graphs.get(stream.k)
        if graph is None:
            raise InputError(
                f"asks for {stream.k} drafted tokens (request {stream.i}, {self.env.now:.6g} s); programs are given"
                f" for {', '.join(map(str, sorted(self.graphs)))}",
                field=f"policy {type(self.rule).__name__}",
            )
        stream.graph = graph
        if self.limits is None:
            self._start(stream)
        else:
            stream.needs = stream.kv + (graph.k + 1 if stream.chunk is None else stream.chunk[0])
            self.limits.grow(stream)

    def _go(self, stream: _Stream) -> None:
        """It has the blocks that it needs."""
        if np.isnan(self.ledger.scheduled_s[stream.i]):
            self.ledger.scheduled_s[stream.i] = self.env.now
        self._start(stream)

    def _start(self, stream: _Stream) -> None:
        graph = stream.graph
        stream.left = graph.sinks
        stream.missing = graph.missing.copy()
        home = self.topology.home
        for root in graph.roots:
            if graph.at_home[root]:
                self._run_leg(stream, root)
            else:
                assert home is not None
                self._carry(stream, home, root)

    def _run_leg(self, stream: _Stream, leg: int) -> None:
        graph = stream.graph
        server = stream.at[graph.legs[leg].device][0]
        job = Job(stream, (graph.prices[leg], stream.kv, stream.chunk, leg), self._leg_done)
        if self.priority is not None:
            job.priority = self.priority(stream.i, graph.legs[leg].name, self.env.now)
        server.submit(job)

    def _leg_done(self, job: Job) -> None:
        stream: _Stream = job.owner
        leg: int = job.what[3]
        graph = stream.graph
        for other in graph.after_here[leg]:
            self._arrived(stream, other)
        for other in graph.after_away[leg]:
            self._carry(stream, graph.legs[leg].device, other)
        if graph.after[leg]:
            return
        if graph.at_home[leg]:
            self._sink(stream)
        else:
            assert self.topology.home is not None
            link = self._link(stream, graph.legs[leg].device, self.topology.home)
            link.send(self.topology.reply_bytes, lambda _: self._sink(stream))

    def _carry(self, stream: _Stream, origin: str, leg: int) -> None:
        to = stream.graph.legs[leg]
        if origin == self.topology.home:
            stream.sent_s = self.env.now
        size = to.bytes_in if stream.chunk is None else to.prompt_bytes_in * stream.chunk[0]
        self._link(stream, origin, to.device).send(size, lambda _: self._arrived(stream, leg))

    def _arrived(self, stream: _Stream, leg: int) -> None:
        missing = stream.missing
        missing[leg] -= 1
        if missing[leg] <= 0:
            self._run_leg(stream, leg)

    def _sink(self, stream: _Stream) -> None:
        stream.left -= 1
        if stream.left:
            return
        if stream.chunk is not None:
            tokens, _, last = stream.chunk
            self.ledger.tally.prefill(stream.k, (stream.chunk,))
            stream.kv += tokens
            stream.prompt_left -= tokens
            self.recomputed += last and (self.prompt_cached or self.ledger.emitted[stream.i] > 0)
            finished = last and self.ledger.prefilled(stream.i, self.env.now)
        else:
            self.ledger.tally.decode(stream.k, 1, stream.kv)
            accepted, emitted = self.rule.settle(stream.i, stream.k)
            if self.env.now - stream.sent_s > self.deadline_s + 1e-12:
                accepted = emitted = 0
            finished = self.ledger.commit(
                stream.i,
                self.env.now,
                drafted=stream.graph.k,
                accepted=accepted,
                emitted=emitted,
                stage=stream.graph.last,
            )
            stream.kv += emitted
        if finished:
            self._finish(stream)
        else:
            self._begin(stream)

    def _link(self, stream: _Stream, origin: str, to: str) -> Link:
        link = stream.links.get((origin, to))
        if link is None:
            link = stream.links[origin, to] = self.place.link(stream.at, origin, to)
        return link

    # Servers

    def _seconds(self, factor: float, jobs: Sequence[Job]) -> float:
        """Seconds of a batch on an instance with this time factor."""
        seconds, decoding = batch_seconds(jobs)
        seconds *= factor
        self.iterations += 1
        self.mixed += decoding < len(jobs)
        self.batch_s += seconds * decoding
        return seconds

    # Diagnosis

    def _who_waits(self) -> list[str]:
        lines = []
        for stream in self.active.values():
            lines.append(f"request {stream.i} {self._where(stream)}")
        lines += [f"request {i} waits for a seat" for i in self.waiting]
        return lines

    def _where(self, stream: _Stream) -> str:
        if self.limits is not None and (blocks := self.limits.waits_for(stream)):
            return blocks
        if waits := self.place.where(stream, lambda job: stream.graph.legs[job.what[3]].name):
            return waits
        return f"runs stage {stream.graph.last} ({self.ledger.rounds[stream.i]} rounds so far)"
