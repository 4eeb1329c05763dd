"""The commit of the expanded executor: accept, cut at the requested length, count; and the rows that come of it."""

from __future__ import annotations

import numpy as np

from specsim.errors import InputError
from specsim.simulation.result import Result
from specsim.simulation.work import Tally
from specsim.simulation.workload import Requests


def misfit(drafted: int, accepted: int, emitted: int, bonus: int | None = None) -> str:
    """What is wrong with a round's numbers."""
    if not 0 <= accepted <= drafted:
        return f"accepts {accepted} of {drafted} drafted tokens"
    allowed = "" if bonus is None or emitted < accepted else f"; a bonus of {bonus} is all its program allows"
    return f"emits {emitted} tokens though {accepted} were accepted{allowed}"


class Ledger:
    """What every request has emitted, and when. The one place where tokens are committed."""

    def __init__(self, requests: Requests) -> None:
        n = len(requests)
        self._requests = requests
        self.prompt: list[int] = requests.prompt_tokens.tolist()
        self.output: list[int] = requests.output_tokens.tolist()
        self.arrival_s: list[float] = requests.arrival_s.tolist()
        self.scheduled_s = [float("nan")] * n
        self.first_token_s = [float("nan")] * n
        self.last_token_s = [float("nan")] * n
        self.finish_s = [float("nan")] * n
        self.emitted = [0] * n
        self.rounds = [0] * n
        self.drafted = [0] * n
        self.accepted = [0] * n
        self.preemptions = [0] * n
        self.finished = self.commits = 0
        self.tally = Tally()
        self._gaps: list[float] = []

    def __len__(self) -> int:
        return len(self.output)

    def prefilled(self, i: int, now: float) -> bool:
        """The prompt is done and has yielded a token; returns whether the request is finished."""
        return self._emit(i, 1, now)

    def commit(self, i: int, now: float, *, drafted: int, accepted: int, emitted: int, stage: str) -> bool:
        """One round of request ``i``: returns whether it is finished, its tokens cut at the length asked for.

        Raises InputError, naming the stage, where more was accepted than drafted, or nothing emitted that was accepted.
        """
        if not 0 <= accepted <= drafted or emitted < accepted:
            raise InputError(
                f"{misfit(drafted, accepted, emitted)} (request {i}, {now:.6g} s); the rule is wrong",
                field=f"stage {stage}",
            )
        return self.round(i, now, drafted, accepted, emitted)

    def round(self, i: int, now: float, drafted: int, accepted: int, emitted: int) -> bool:
        """The same for numbers that were checked."""
        self.rounds[i] += 1
        self.drafted[i] += drafted
        self.accepted[i] += accepted
        return self._emit(i, emitted, now) if emitted else False

    def waste(self, i: int, drafted: int) -> None:
        """Tokens drafted in vain, never put to a verification that committed."""
        self.drafted[i] += drafted

    def _emit(self, i: int, tokens: int, now: float) -> bool:
        if self.finish_s[i] == self.finish_s[i]:
            raise RuntimeError(f"request {i} is finished and commits again")
        self.commits += 1
        if self.emitted[i] == 0:
            self.first_token_s[i] = now
        else:
            self._gaps.append(now - self.last_token_s[i])
        self.last_token_s[i] = now
        total = self.emitted[i] + tokens
        if total < self.output[i]:
            self.emitted[i] = total
            return False
        self.emitted[i] = self.output[i]
        self.finish_s[i] = now
        self.finished += 1
        return True

    def result(
        self,
        *,
        iterations: int,
        mixed_iterations: int,
        busy_s: float,
        batch_s: float,
        cache_s: float = 0.0,
        cache_max: float = 0.0,
    ) -> Result:
        """Everything that happened, one row a request. A cache without limit has a share of 0."""
        gaps = np.array(self._gaps)
        return Result(
            arrival_s=np.array(self.arrival_s),
            scheduled_s=np.array(self.scheduled_s),
            first_token_s=np.array(self.first_token_s),
            finish_s=np.array(self.finish_s),
            prompt_tokens=self._requests.prompt_tokens,
            output_tokens=self._requests.output_tokens,
            rounds=np.array(self.rounds, dtype=np.int64),
            drafted=np.array(self.drafted, dtype=np.int64),
            accepted=np.array(self.accepted, dtype=np.int64),
            preemptions=np.array(self.preemptions, dtype=np.int64),
            itl_s=gaps,
            itl_count=np.ones(len(gaps), dtype=np.int64),
            iterations=iterations,
            mixed_iterations=mixed_iterations,
            busy_s=busy_s,
            batch_s=batch_s,
            cache_s=cache_s,
            cache_max=cache_max,
            work=self.tally.work(),
        )
