"""DSI on a scenario: requests one after the other, each with all target replicas and a drafter that never waits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import simpy
from simpy.events import Timeout

from specsim.acceptance.process import AcceptanceProcess
from specsim.simulation.free_run import finish
from specsim.simulation.ledger import Ledger
from specsim.simulation.links import Link, LinkLaw
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import Batch, Pass, PrefillChunk, RoundProgram
from specsim.simulation.round_rules import DrawnRounds
from specsim.simulation.servers import Server
from specsim.simulation.timed import no_host
from specsim.simulation.workload import Requests
from specsim.systems.composition import Composition, NotApplicable
from specsim.systems.stretches import Stretches

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

DRAFTING = -1
"""Key of the drafter's program in the tally of work: it runs apart from verification. 0: a target without a draft."""

Seconds = Callable[[float], float]


def compose(setting: Setting) -> Composition:
    """One drafter, several replicas of the target; a verification task checks a block and yields the next token."""
    k, targets = setting.count("lookahead"), setting.count("targets")
    candidate, _ = setting.best(setting.drafters("draft_model"))
    k = setting.most(candidate, k)
    links = setting.other_end.links("drafter", "target")
    process = candidate.process
    assert process is not None
    programs = {
        DRAFTING: _alone(k, setting.other_end.passes(candidate, k, device="drafter")),
        0: _alone(0, (setting.verify_pass(0, device="target"),)),
        k: _alone(k, (setting.verify_pass(k, device="target"),)),
    }
    serving = setting.deployment.serving(None, 0)
    cache_tokens = serving.usable_blocks * serving.block_size
    price = {key: _curve(program, cache_tokens) for key, program in programs.items()}
    if price[DRAFTING](1.0) > k * price[0](1.0):
        raise NotApplicable(f"needs a drafter no slower than its target, and {candidate.short} is slower here")
    sent = setting.other_end.drafted_bytes(candidate)

    def run(requests: Requests, rng: np.random.Generator) -> Outcome:
        serving.check(requests.prompt_tokens, requests.output_tokens, k)
        served = _Serving(programs, price, process, requests, k, targets, links[0].law, sent, cache_tokens, rng)
        return served.to_end()

    replica = replace(setting.replica(None, 0), gpus=targets * setting.replica(None, 0).gpus)
    return Composition(
        ran_with=f"{candidate.short}, lookahead {k}, {targets} targets",
        run=run,
        programs=programs,
        devices=(replica, setting.other_end.device(candidate)),
        assumed=(
            "cancelling is free; a pass that is cancelled midway is counted whole",
            "a drafted token travels with its 16-bit distribution",
            "every replica computes the prompt",
        ),
        one_at_a_time=True,
    )


def _alone(k: int, passes: tuple[Pass, ...]) -> RoundProgram:
    return RoundProgram("+".join(p.name for p in passes), k, passes, no_host)


def _curve(program: RoundProgram, longest: float) -> Seconds:
    """Seconds for one sequence by its cached tokens, between knots 5 % apart."""
    knots = np.unique(np.concatenate([np.arange(1.0, 65.0), np.geomspace(64.0, max(longest, 65.0), 256)]))
    seconds = np.broadcast_to(program.seconds(Batch(np.ones_like(knots), knots)), knots.shape)
    return lambda cached: float(np.interp(cached, knots, seconds))


class _Serving:
    """Requests in order of arrival, one at a time: its prompt everywhere, then stretches until it is answered."""

    def __init__(
        self,
        programs: dict[int, RoundProgram],
        price: dict[int, Seconds],
        process: AcceptanceProcess,
        requests: Requests,
        k: int,
        targets: int,
        law: LinkLaw,
        token_bytes: float,
        cache_tokens: int,
        rng: np.random.Generator,
    ) -> None:
        for_rounds, for_link = rng.spawn(2)
        self.env, self.ledger = simpy.Environment(), Ledger(requests)
        self.programs, self.price, self.k, self.targets = programs, price, k, targets
        self.drawn = DrawnRounds(process, len(requests), for_rounds)
        self.drafter = Server(self.env, "drafter", lambda _: self.took(DRAFTING))
        self.pool = [
            Server(self.env, f"target[{n}]", lambda jobs: self.took(self.k if jobs[0].what else 0))
            for n in range(targets)
        ]
        self.link = Link(self.env, "drafter -> targets", law, for_link)
        self.token_bytes, self.cache_tokens = token_bytes, cache_tokens
        self.closed = requests.concurrency is not None
        self.known = min(requests.concurrency or len(requests), len(requests))
        self.waiting: deque[int] = deque()
        self.serving: int | None = None
        for i in range(self.known):
            Timeout(self.env, self.ledger.arrival_s[i]).callbacks.append(partial(self.arrived, i))

    def to_end(self) -> Outcome:
        scheduled: list[float] = self.ledger.scheduled_s
        made = finish(self.env, self.ledger, [*self.pool, self.drafter], [self.link])
        longest = int((made.result.prompt_tokens + made.result.output_tokens).max())
        held = min(1.0, longest / self.cache_tokens)
        result = replace(made.result, scheduled_s=np.array(scheduled), cache_max=held)
        servers = tuple(replace(use, cache_max=held) for use in made.servers)
        return replace(made, result=result, servers=servers, by_prefill=1)

    def took(self, program: int) -> float:
        """Seconds of a pass that begins now, counted."""
        assert self.serving is not None
        cached = float(self.ledger.prompt[self.serving] + self.ledger.emitted[self.serving])
        self.ledger.tally.decode(program, 1, cached)
        return self.price[program](cached)

    def arrived(self, i: int, _: simpy.Event) -> None:
        self.waiting.append(i)
        self.next()

    def next(self) -> None:
        if self.serving is not None or not self.waiting:
            return
        i = self.serving = self.waiting.popleft()
        self.ledger.scheduled_s[i] = self.env.now
        chunk = (self.ledger.prompt[i], 0, True)
        for program, copies in ((0, self.targets), (DRAFTING, 1)):
            self.ledger.tally.prefill(program, [chunk] * copies)
        batch = Batch(0.0, 0.0, prefill=(PrefillChunk(chunk[0], 0),))
        seconds = max(float(self.programs[program].seconds(batch)) for program in (0, DRAFTING))
        Timeout(self.env, seconds).callbacks.append(lambda _: self.prefilled(i))

    def prefilled(self, i: int) -> None:
        if self.ledger.prefilled(i, self.env.now):
            self.finished()
            return
        Stretches(
            self.env, self.ledger, self.drafter, self.pool, self.drawn, self.k, compares_bonus=True, stream=i,
            tested=self.k, send=self.sent, ended=self.finished,
        )  # fmt: skip

    def sent(self, tokens: int, there: Callable[[], None]) -> None:
        self.link.send(tokens * self.token_bytes, lambda _: there())

    def finished(self) -> None:
        self.serving = None
        if self.closed and self.known < len(self.ledger):
            self.ledger.arrival_s[self.known] = self.env.now
            self.waiting.append(self.known)
            self.known += 1
        Timeout(self.env, 0.0).callbacks.append(lambda _: self.next())
