"""Three models on one replica: a small one drafts for a middle one until it holds enough for the target to verify."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import AcceptanceProcess
from specsim.cost.drafting import load_draft_host
from specsim.cost.shapes import Segment, StepShape, StepTime
from specsim.simulation.program import Batch, Pass, RoundProgram
from specsim.simulation.round_rules import DrawnRounds
from specsim.systems.beside import memory_with, model_pass, prompt_program
from specsim.systems.composition import Composition, NotApplicable, on_servers

if TYPE_CHECKING:
    from specsim.planning.deployment import Candidate
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]

Held = tuple[int, int]
"""Cycles of the two lower models in a round, and tokens that they hold in the end."""

LONGEST_DRAFT, LONGEST_HOLD = 8, 16
"""Lengths that are considered where a paper leaves them to an optimiser."""


def held_law(rate: float, draft: int, hold: int) -> dict[Held, float]:
    """P(cycles, tokens held) when ``hold`` tokens are first reached; a cycle adds the accepted of ``draft``, and one.

    Acceptance of the small model's tokens by the middle one is i.i.d. with ``rate``.
    """
    accepted = np.arange(draft + 1)
    added = rate**accepted * np.where(accepted < draft, 1.0 - rate, 1.0)
    going: dict[int, float] = {0: 1.0}
    done: dict[Held, float] = {}
    for cycle in range(1, hold + 1):
        still: dict[int, float] = {}
        for at, mass in going.items():
            for n, p in enumerate(added.tolist(), start=1):
                if at + n < hold:
                    still[at + n] = still.get(at + n, 0.0) + mass * p
                else:
                    done[cycle, at + n] = done.get((cycle, at + n), 0.0) + mass * p
        going = still
    return {held: p for held, p in sorted(done.items()) if p > 0}


@dataclass(frozen=True)
class Pair:
    """The drafters that make a stack with the target: ``small`` drafts for ``middle``, a model of its own."""

    small: Candidate
    middle: Candidate

    @classmethod
    def of(cls, setting: Setting) -> Pair:
        """The largest draft model, and the smallest drafter that can serve it: n-gram lookup, else the smallest model.

        Heads on the target's states draft for the target alone. Raises NotApplicable without two such drafters.
        """
        known = setting.deployment.candidates
        models = sorted(
            (c for c in known if c.drafter.method == "draft_model"), key=lambda c: c.drafter.weight_bytes(1)
        )
        lookups = [c for c in known if c.drafter.method == "ngram"]
        if not models or len(models) + len(lookups) < 2:
            raise NotApplicable(
                'stacks two drafters under the target: add a [[drafter]] of method "draft_model", and one of method'
                ' "ngram" or a smaller "draft_model" to draft for it'
            )
        return cls((*lookups, *models)[0], models[-1])

    @property
    def names(self) -> str:
        """Smallest first."""
        return f"{self.small.short} -> {self.middle.short}"


@dataclass(frozen=True)
class Stack:
    """A pair at work: ``draft`` tokens a cycle, cycles until ``hold`` are held, then the target.

    rate: i.i.d. acceptance of small by middle. process: what survives of the held tokens at the target.
    """

    setting: Setting
    pair: Pair
    rate: float
    process: AcceptanceProcess
    draft: int
    hold: int

    def compose(self, assumed: tuple[str, ...] = ()) -> Composition:
        """On the replica, one request at a time."""
        law = held_law(self.rate, self.draft, self.hold)
        programs = {kind: self.round(held, kind) for kind, held in enumerate(law)}
        models = [c.drafter for c in (self.pair.small, self.pair.middle) if c.drafter.on_gpu]
        longest, last = max(p.k for p in programs.values()), len(programs)
        programs[last] = prompt_program(self.setting, models, k=longest, kind=last)
        return on_servers(
            self.setting,
            None,
            programs,
            lambda requests, rng: StackRounds(law, self.process, len(requests), rng),
            ran_with=f"{self.pair.names}, {self.draft} a cycle until {self.hold} are held",
            assumed=(
                "drafted and wasted tokens are those that the target verified",
                f"{self.pair.middle.short} accepts {self.pair.small.short}'s tokens independently of each other",
                *assumed,
            ),
            memory=memory_with(self.setting, [(drafter, self.draft) for drafter in models]),
            one_at_a_time=True,
        )

    def round(self, held: Held, kind: int) -> RoundProgram:
        """A round of so many cycles: the small model's steps, the middle one's passes, the target's."""
        cycles, tokens = held
        verify, host = self.setting.verify_pass(tokens, device="gpu"), self.setting.host(self.pair.middle, tokens)
        passes = (*self._small(cycles), self._middle(cycles), verify)

        def work(batch: Batch) -> StepTime:
            if self.pair.small.drafter.on_gpu:
                return host(batch)
            search = load_draft_host(self.setting.deployment.engine).lookup(batch.sequences, batch.kv_tokens)
            return host(batch) + StepTime({"lookup": search}).scaled(cycles)

        name = f"{cycles} cycles of {self.draft}, {tokens} held"
        return RoundProgram(name, tokens, passes, work, kind)

    def _small(self, cycles: int) -> tuple[Pass, ...]:
        if not self.pair.small.drafter.on_gpu:
            return ()

        def step(batch: Batch) -> StepShape:
            n, cached = self._grown(batch)
            return StepShape((Segment("decode", n, n, cached, n),))

        return (model_pass(self.setting, "small", self.pair.small.drafter, step, repeats=cycles * self.draft),)

    def _middle(self, cycles: int) -> Pass:
        def check(batch: Batch) -> StepShape:
            n, cached = self._grown(batch)
            rows = n * (self.draft + 1.0)
            return StepShape((Segment("verify", n, rows, cached, rows),))

        return model_pass(self.setting, "middle", self.pair.middle.drafter, check, repeats=cycles, checks=self.draft)

    def _grown(self, batch: Batch) -> tuple[Floats, Floats]:
        """Sequences and their cached tokens in the middle of a round."""
        n = np.asarray(batch.sequences, dtype=np.float64)
        return n, np.asarray(batch.kv_tokens, dtype=np.float64) + n * self.hold / 2.0

    def cycle_seconds(self) -> float:
        """Of the two lower models, for one request at the traffic's mean context."""
        return self.setting.seconds_alone((*self._small(1), self._middle(1)))


class StackRounds:
    """How many cycles a round takes and what they hold, drawn from their law; then what of it the target keeps."""

    def __init__(
        self, law: Mapping[Held, float], process: AcceptanceProcess, streams: int, rng: np.random.Generator
    ) -> None:
        self._held, self._p = list(law), np.array(list(law.values()))
        self._rng, self._drawn = rng, DrawnRounds(process, streams, rng)
        self._ahead: list[int] = []

    def length(self, stream: int) -> int:  # noqa: ARG002 - requests don't differ
        """A kind of round."""
        if not self._ahead:
            self._ahead = self._rng.choice(len(self._p), size=1024, p=self._p / self._p.sum()).tolist()
        return self._ahead.pop()

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """The prefix that survives, and one more."""
        accepted = self._drawn.accepted(stream, self._held[k][1])
        return accepted, accepted + 1


def fastest_lengths(setting: Setting, pair: Pair, rate: float, process: AcceptanceProcess) -> tuple[int, int]:
    """(draft, hold) with the fewest seconds a token for one request alone: E[seconds of a round] / E[its tokens]."""
    most = LONGEST_DRAFT + LONGEST_HOLD if process.max_k is None else process.max_k
    longest = min(most, LONGEST_DRAFT + LONGEST_HOLD)
    if longest < 2:
        raise NotApplicable(f"needs {pair.middle.label}'s acceptance for 2 drafted tokens or more")
    checks = range(longest + 1)
    verify_s = np.array([setting.seconds_alone((setting.verify_pass(n, device="gpu"),)) for n in checks])
    tokens = np.array([1.0 + (float(process.survival(n).sum()) if n else 0.0) for n in checks])
    best, found = np.inf, (1, 1)
    for draft in range(1, min(LONGEST_DRAFT, longest - 1) + 1):
        cycle_s = Stack(setting, pair, rate, process, draft, 1).cycle_seconds()
        for hold in range(1, min(LONGEST_HOLD, longest - draft) + 1):
            law = held_law(rate, draft, hold)
            p = np.array(list(law.values()))
            cycles, held = np.array(list(law)).T
            each = float(p @ (cycles * cycle_s + verify_s[held])) / float(p @ tokens[held])
            if each < best:
                best, found = each, (draft, hold)
    return found
