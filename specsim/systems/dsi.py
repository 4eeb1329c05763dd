"""DSI: the drafter never waits; every block is verified by a target of its own, and a mismatch cancels the rest."""

from __future__ import annotations

import math

import numpy as np
import simpy

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation.expanded import Outcome
from specsim.simulation.free_run import finish, streams
from specsim.simulation.ledger import Ledger
from specsim.simulation.round_rules import DrawnRounds
from specsim.simulation.servers import Job, Server
from specsim.systems.descriptor import Parameter, System


def servers_needed(lookahead: int, *, draft_s: float, target_s: float) -> int:
    """ceil(target / (lookahead draft)): targets busy at once while nothing is rejected (the paper's SP)."""
    return math.ceil(target_s / (lookahead * draft_s) - 1e-9)


def seconds_per_token(
    alpha: float, lookahead: int, *, draft_s: float, target_s: float, compares_bonus: bool = True
) -> float:
    """Closed form with enough targets, for lookahead * draft <= target.

    A stretch ends at its first wrong token, (1-a)^-1 tokens on average. It lasts a target step plus the drafting of the
    blocks before the task that shows the mistake: k c a / (1 - a^k) on average where a task's own next token is
    compared with the next block's first (at k = 1 the paper's theorem), k c (a + a^k / (1 - a^k)) where it is not (the
    rule of the authors' simulator).
    """
    full = alpha**lookahead
    blocks = alpha / (1 - full) if compares_bonus else alpha + full / (1 - full)
    return (1 - alpha) * (target_s + lookahead * draft_s * blocks)


class _Stretch:
    """A drafter and targets working on one stream, from the last correction to the next."""

    def __init__(
        self,
        env: simpy.Environment,
        ledger: Ledger,
        drafter: Server,
        targets: list[Server],
        drawn: DrawnRounds,
        lookahead: int,
        *,
        compares_bonus: bool,
    ) -> None:
        self.env, self.ledger, self.drafter, self.targets, self.drawn = env, ledger, drafter, targets, drawn
        self.k, self.compares_bonus = lookahead, compares_bonus
        self.start()

    def start(self) -> None:
        """Everything emitted is right: draft from here, and let a target take the next step at once."""
        self.tasks: list[tuple[Server, Job]] = []
        self.drafted = self.emitted = self.right = 0
        self.wrong: int | None = None  # position of the first wrong token, once somebody looked so far
        self.verify(0)
        self.draft()

    def draft(self) -> None:
        self.drafting = Job(self, self.k, self.block_drafted)
        self.drafter.submit(self.drafting)

    def block_drafted(self, _: Job) -> None:
        self.drafted += self.k
        self.verify(self.drafted)
        self.draft()

    def verify(self, prefix: int) -> None:
        """Have a target check the first ``prefix`` tokens; it also yields its own next one."""
        target = min(self.targets, key=lambda server: server.load)
        job = Job(self, prefix, self.verified)
        self.tasks.append((target, job))
        target.submit(job)

    def verified(self, job: Job) -> None:
        self.tasks = [task for task in self.tasks if task[1] is not job]
        prefix: int = job.what
        known = prefix + 1 if self.compares_bonus or prefix == 0 else prefix
        self.look(known)
        if self.wrong is not None and self.wrong <= known:
            self.correct(self.wrong)
            return
        if self.emit(known, known):
            self.stop()
        elif self.compares_bonus and not any(other.what >= self.emitted for _, other in self.tasks):
            self.verify(self.emitted)

    def look(self, through: int) -> None:
        """Whether the drafter's tokens up to there are right; each is decided once."""
        while self.wrong is None and self.right < through:
            if self.drawn.accepted(0, 1):
                self.right += 1
            else:
                self.wrong = self.right + 1

    def stop(self) -> None:
        """Cancel all that is under way."""
        for server, task in self.tasks:
            server.cancel(task)
        self.drafter.cancel(self.drafting)

    def correct(self, wrong: int) -> None:
        """The token at ``wrong`` is replaced by the target's; all that was built on it is cancelled."""
        self.stop()
        self.ledger.waste(0, max(0, self.drafted - (wrong - 1)))
        if not self.emit(wrong, wrong - 1):
            self.start()

    def emit(self, through: int, accepted: int) -> bool:
        new = through - self.emitted
        if new <= 0:
            return False
        kept = max(0, accepted - self.emitted)
        self.emitted = through
        return self.ledger.commit(0, self.env.now, drafted=kept, accepted=kept, emitted=new, stage="verify")


def simulate(
    rng: np.random.Generator,
    *,
    alpha: float = 0.8,
    lookahead: int = 5,
    draft_s: float = 0.1,
    target_s: float = 1.0,
    targets: int = 7,
    tokens: int = 20_000,
    compares_bonus: bool = True,
) -> Outcome:
    """One stream. Raises InputError for a drafter slower than the target, or no target."""
    if not 0 < draft_s <= target_s:
        raise InputError(f"{draft_s} s; DSI needs a drafter no slower than its target ({target_s} s)", field="draft_s")
    if targets < 1 or lookahead < 1:
        raise InputError("needs at least one target and one token of lookahead", field="targets, lookahead")
    env, ledger = simpy.Environment(), Ledger(streams(1, tokens))
    drafter = Server(env, "drafter", lambda jobs: sum(job.what for job in jobs) * draft_s)
    pool = [Server(env, f"target[{n}]", lambda jobs: target_s) for n in range(targets)]  # noqa: ARG005
    drawn = DrawnRounds(Iid(alpha), 1, rng)
    _Stretch(env, ledger, drafter, pool, drawn, lookahead, compares_bonus=compares_bonus)
    return finish(env, ledger, [drafter, *pool])


SYSTEM = System(
    name="dsi",
    title="Distributed Speculative Inference: Speculation Parallelism for Provably Faster Lossless Inference",
    paper="2405.14105",
    year=2025,
    lossless="yes",
    topology="one drafter, several targets, each on a device of its own",
    pipeline="draft x k -> verify on a free target, while the drafter goes on; a mismatch cancels what follows",
    rule="the first wrong token is replaced by the target's; tasks built on it are cancelled",
    parameters=(
        Parameter("alpha", 0.8, "acceptance per position", "assumed"),
        Parameter("lookahead", 5, "drafted tokens a verification task", "assumed"),
        Parameter("draft_s", 0.1, "seconds of a drafting step", "assumed"),
        Parameter("target_s", 1.0, "seconds of a target pass", "unit"),
        Parameter("targets", 7, "target servers", "the authors' default: an 8-GPU node with one drafter"),
    ),
    assumptions=("verification takes one target step", "acceptance is i.i.d.", "cancelling is free"),
    batches="a stream takes all targets; it cannot batch",
    simulate=simulate,
    study="dsi",
)
