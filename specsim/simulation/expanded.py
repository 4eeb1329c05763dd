"""The expanded executor: any round program on servers and links, one event a batch and a message."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from operator import index

import numpy as np
import simpy

from specsim.errors import InputError
from specsim.simulation.cache_limits import CacheLimits
from specsim.simulation.graph import Graph, batch_seconds
from specsim.simulation.ledger import Ledger, misfit
from specsim.simulation.mixed import Chunk
from specsim.simulation.outcome import Outcome
from specsim.simulation.place import Place
from specsim.simulation.program import RoundProgram
from specsim.simulation.progress import PATIENCE, run_to_end
from specsim.simulation.round_rules import RoundRule
from specsim.simulation.seating import Seating
from specsim.simulation.servers import Job
from specsim.simulation.topology import Topology
from specsim.simulation.walk import Stream, Walk
from specsim.simulation.workload import Requests


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
    lengths as the longest of them, prompts as chunks of at most ``chunk_tokens`` beside it. seats: streams at a time
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
    accepts more than was drafted or emits what it can't (when it happens), and for a run that stops progressing, saying
    who waits for whom.
    """
    by_key = {programs.key: programs} if isinstance(programs, RoundProgram) else dict(programs)
    _check_programs(by_key)
    if chunk_tokens < 1:
        raise InputError(f"{chunk_tokens}; give at least 1", field="chunk_tokens")
    run = _Run(
        by_key,
        rule,
        requests,
        topology,
        rng,
        seats=seats,
        prompt_cached=prompt_cached,
        chunk_tokens=chunk_tokens,
        think_s=think_s,
        together=together,
        priority=priority,
        deadline_s=deadline_s,
    )
    return run.to_end(patience)


def _check_programs(programs: Mapping[int, RoundProgram]) -> None:
    if not programs:
        raise InputError("no round program", field="programs")
    for key, program in programs.items():
        if key != program.key:
            kind = f"drafts {program.k} tokens" if program.kind is None else f"is of kind {program.kind}"
            raise InputError(f"{program.name} {kind}, listed under {key}", field="programs")


class _Run:
    """A stream is seated, begins a pass, asks for its cache, walks, is over, begins the next, and is finished."""

    def __init__(
        self,
        programs: dict[int, RoundProgram],
        rule: RoundRule,
        requests: Requests,
        topology: Topology,
        rng: np.random.Generator,
        *,
        seats: int | None,
        prompt_cached: bool,
        chunk_tokens: int,
        think_s: Callable[[int], float] | None,
        together: bool,
        priority: Callable[[int, str, float], float] | None,
        deadline_s: float,
    ) -> None:
        self.rule, self.ledger = rule, Ledger(requests)
        self.prompt_cached, self.chunk_tokens, self.deadline_s = prompt_cached, chunk_tokens, deadline_s
        self.env = simpy.Environment()
        self.place = Place(self.env, topology, self._seconds, rng.spawn(1)[0])
        self.walk = Walk(self.env, self.place, priority, self._over)
        longest = int((requests.prompt_tokens + requests.output_tokens).max()) + 2
        longest += max(program.k for program in programs.values())
        most = max(spec.batching.max_batch for spec in topology.servers)
        self.graphs = {k: Graph(program, topology, longest * most) for k, program in programs.items()}
        self.limits = CacheLimits(self._begin, self._go, self._preempted) if self.place.limited else None
        self.seating = Seating(
            self.env,
            self.ledger,
            requests.concurrency,
            self._seated,
            seats=seats,
            think_s=think_s,
            together=together,
        )
        self.place.check_batches(self.seating.seats)
        self.active: dict[int, Stream] = {}
        self.iterations = self.mixed = self.recomputed = 0
        self.batch_s = 0.0

    def to_end(self, patience: int) -> Outcome:
        ledger = self.ledger
        self._check_caches()
        self.seating.open()
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

    def _seated(self, i: int, seat: int) -> None:
        """Request ``i`` has a seat."""
        at, prompt = self.place.seat(seat), self.ledger.prompt[i]
        left, kv = (0, prompt) if self.prompt_cached else (prompt, 0)
        stream = self.active[i] = Stream(i, seat, at, prompt_left=left, kv=kv)
        if self.limits is None:
            self.ledger.scheduled_s[i] = self.env.now
            self._begin(stream)
        else:
            stream.pools = tuple(server.pool for server, _ in at.values() if server.pool is not None)
            stream.starts_with = prompt
            self.limits.enter(stream)

    def _begin(self, stream: Stream) -> None:
        """Choose its next pass: a chunk of its prompt while that is not done, else a round."""
        if stream.prompt_left:
            tokens = min(stream.prompt_left, self.chunk_tokens)
            stream.k = max(self.graphs)
            stream.chunk = (tokens, stream.kv, tokens == stream.prompt_left)
        else:
            stream.k = self.rule.length(stream.i) if stream.next_k < 0 else stream.next_k
            stream.chunk, stream.next_k = None, -1
        try:
            graph = self.graphs[stream.k]
        except (KeyError, TypeError):
            raise InputError(
                f"asks for {stream.k!r} drafted tokens (request {stream.i}, {self.env.now:.6g} s); programs are given"
                f" for {', '.join(map(str, sorted(self.graphs)))}",
                field=f"rule {type(self.rule).__name__}: length",
            ) from None
        stream.graph = graph
        if self.limits is None:
            self.walk.start(stream)
        else:
            stream.needs = stream.kv + (graph.k + 1 if stream.chunk is None else stream.chunk[0])
            self.limits.grow(stream)

    def _go(self, stream: Stream) -> None:
        """It has the blocks that it needs."""
        if np.isnan(self.ledger.scheduled_s[stream.i]):
            self.ledger.scheduled_s[stream.i] = self.env.now
        self.walk.start(stream)

    def _preempted(self, stream: Stream) -> None:
        """Its caches are gone: it computes prompt and output again, and then runs the round that it had chosen."""
        self.ledger.preemptions[stream.i] += 1
        if stream.chunk is None:
            stream.next_k = stream.k
        stream.prompt_left = stream.starts_with = self.ledger.prompt[stream.i] + self.ledger.emitted[stream.i]
        stream.kv = 0

    def _over(self, stream: Stream) -> None:
        """Its pass has come home."""
        if stream.chunk is None:
            i, graph, now = stream.i, stream.graph, self.env.now
            ledger = self.ledger
            ledger.tally.decode(stream.k, 1, stream.kv)
            made = self.rule.settle(i, stream.k)
            try:
                accepted, emitted = made if len(made) == 2 else self._less_dropped(i, *made)
                if accepted.__class__ is not int or emitted.__class__ is not int:
                    accepted, emitted = index(accepted), index(emitted)
            except (TypeError, ValueError):
                raise self._unsettled(stream, f"gives {made!r}, not two or three whole numbers") from None
            if not (0 <= accepted <= graph.k and accepted <= emitted <= accepted + graph.bonus):
                raise self._unsettled(stream, misfit(graph.k, accepted, emitted, graph.bonus))
            if now - stream.sent_s > self.deadline_s + 1e-12:
                accepted = emitted = 0
            finished = ledger.round(i, now, graph.k, accepted, emitted)
            stream.kv += emitted
        else:
            finished = self._computed(stream, stream.chunk)
        if finished:
            self._finish(stream)
        else:
            self._begin(stream)

    def _less_dropped(self, i: int, accepted: int, emitted: int, dropped: int) -> tuple[int, int]:
        """Count what a round drafted ahead in vain."""
        if index(dropped) < 0:
            raise ValueError
        self.ledger.waste(i, dropped)
        return accepted, emitted

    def _unsettled(self, stream: Stream, what: str) -> InputError:
        return InputError(
            f"{what} (request {stream.i}, {self.env.now:.6g} s)", field=f"rule {type(self.rule).__name__}: settle"
        )

    def _computed(self, stream: Stream, chunk: Chunk) -> bool:
        """Count a chunk of the prompt; returns whether the request is finished."""
        tokens, _, last = chunk
        self.ledger.tally.prefill(stream.k, (chunk,))
        stream.kv += tokens
        stream.prompt_left -= tokens
        self.recomputed += last and (self.prompt_cached or self.ledger.emitted[stream.i] > 0)
        return last and self.ledger.prefilled(stream.i, self.env.now)

    def _finish(self, stream: Stream) -> None:
        del self.active[stream.i]
        if self.limits is not None:
            self.limits.leave(stream)
        self.place.leave(stream.at)
        self.seating.leave(stream.seat)

    def _seconds(self, factor: float, jobs: Sequence[Job]) -> float:
        """Seconds of a batch on an instance with this time factor."""
        seconds, decoding = batch_seconds(jobs)
        seconds *= factor
        self.iterations += 1
        self.mixed += decoding < len(jobs)
        self.batch_s += seconds * decoding
        return seconds

    def _check_caches(self) -> None:
        """Every request's longest round must fit alone: it starts at the latest with one token missing."""
        prompt, output = np.array(self.ledger.prompt), np.array(self.ledger.output)
        k = max(graph.k for graph in self.graphs.values())
        rounds = output if self.prompt_cached else output - 1
        slots = prompt + np.maximum(rounds - 1, 0) + np.where(rounds > 0, k + 1, 0)
        longest = int(slots.argmax())
        self.place.check_cache(int(slots[longest]), request=longest)

    def _who_waits(self) -> list[str]:
        seated = [f"request {stream.i} {self._where(stream)}" for stream in self.active.values()]
        return seated + [f"request {i} waits for a seat" for i in self.seating.waiting]

    def _where(self, stream: Stream) -> str:
        if self.limits is not None and (blocks := self.limits.waits_for(stream)):
            return blocks
        if waits := self.walk.where(stream):
            return waits
        return f"runs stage {stream.graph.last} ({self.ledger.rounds[stream.i]} rounds so far)"
