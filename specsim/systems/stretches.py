"""DSI's drafter and targets on one stream: blocks drafted ahead, each verified by a target, cancelled at a mistake."""

from __future__ import annotations

from collections.abc import Callable

import simpy

from specsim.simulation.ledger import Ledger
from specsim.simulation.round_rules import DrawnRounds
from specsim.simulation.servers import Job, Server


class Stretches:
    """A drafter and targets working on one stream, from one correction to the next.

    tested: tokens whose fate one draw decides, up to the first that is wrong. send: takes a block of so many tokens to
    a target and calls back when it is there; None: at once. ended: called when the stream has all its tokens.
    """

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
        stream: int = 0,
        tested: int = 1,
        send: Callable[[int, Callable[[], None]], None] | None = None,
        ended: Callable[[], None] | None = None,
    ) -> None:
        self.env, self.ledger, self.drafter, self.targets, self.drawn = env, ledger, drafter, targets, drawn
        self.k, self.compares_bonus = lookahead, compares_bonus
        self.stream, self.tested, self.send, self.ended = stream, tested, send, ended
        self.turn = 0
        self._start()

    def _start(self) -> None:
        """Everything emitted is right: draft from here, and let a target take the next step at once."""
        self.tasks: list[tuple[Server, Job]] = []
        self.drafted = self.emitted = self.right = 0
        self.wrong: int | None = None  # position of the first wrong token, once somebody looked so far
        self.turn += 1
        self._verify(0)
        self._draft()

    def _draft(self) -> None:
        self.drafting = Job(self, self.k, self._block_drafted)
        self.drafter.submit(self.drafting)

    def _block_drafted(self, _: Job) -> None:
        self.drafted += self.k
        prefix, turn = self.drafted, self.turn
        if self.send is None:
            self._verify(prefix)
        else:
            self.send(self.k, lambda: self._verify(prefix) if turn == self.turn else None)
        self._draft()

    def _verify(self, prefix: int) -> None:
        """Have a target check the first ``prefix`` tokens; it also yields its own next one."""
        target = min(self.targets, key=lambda server: server.load)
        job = Job(self, prefix, self._verified)
        self.tasks.append((target, job))
        target.submit(job)

    def _verified(self, job: Job) -> None:
        self.tasks = [task for task in self.tasks if task[1] is not job]
        prefix: int = job.what
        known = prefix + 1 if self.compares_bonus or prefix == 0 else prefix
        self._look(known)
        if self.wrong is not None and self.wrong <= known:
            self._correct(self.wrong)
            return
        if self._emit(known, known):
            self.turn += 1
            self._stop()
            self._end()
        elif self.compares_bonus and not any(other.what >= self.emitted for _, other in self.tasks):
            self._verify(self.emitted)

    def _look(self, through: int) -> None:
        """Whether the drafter's tokens up to there are right; each is decided once."""
        while self.wrong is None and self.right < through:
            run = self.drawn.accepted(self.stream, self.tested)
            self.right += run
            if run < self.tested:
                self.wrong = self.right + 1

    def _stop(self) -> None:
        """Cancel all that is under way."""
        for server, task in self.tasks:
            server.cancel(task)
        self.drafter.cancel(self.drafting)

    def _correct(self, wrong: int) -> None:
        """The token at ``wrong`` is replaced by the target's; all that was built on it is cancelled."""
        self._stop()
        self.ledger.waste(self.stream, max(0, self.drafted - (wrong - 1)))
        if self._emit(wrong, wrong - 1):
            self.turn += 1
            self._end()
        else:
            self._start()

    def _end(self) -> None:
        """All tokens are there."""
        if self.ended is not None:
            self.ended()

    def _emit(self, through: int, accepted: int) -> bool:
        new = through - self.emitted
        if new <= 0:
            return False
        kept = max(0, accepted - self.emitted)
        self.emitted = through
        now = self.env.now
        return self.ledger.commit(self.stream, now, drafted=kept, accepted=kept, emitted=new, stage="verify")
