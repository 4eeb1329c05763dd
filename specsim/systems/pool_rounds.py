"""Rounds over a pool of drafters on one target, a bandit picking the drafter of each: a rule of the executors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.drafting.bandits import Bandit, Pulls

NO_PROPOSAL = 0
"""Kind of a round whose drafter found nothing to propose."""


class PoolRounds:
    """The bandit picks a drafter, each request with statistics of its own; rewards are the paper's.

    A token's 1 - TV is Beta with its position's rate as its mean and ``concentration`` as a + b; concentration None:
    the reward is the accepted share. A round without a proposal is of kind 0 and rewards nothing.
    """

    def __init__(
        self, arms: Sequence[Arm], bandit: Bandit, concentration: float | None, streams: int, rng: np.random.Generator
    ) -> None:
        self._arms, self._bandit, self._concentration, self._rng = arms, bandit, concentration, rng
        self._pulls = [Pulls.none(1, len(arms)) for _ in range(streams)]
        self._now = np.zeros(streams, dtype=np.int64)

    def length(self, stream: int) -> int:
        """The kind of the next round."""
        self._now[stream] = self._bandit.pick(self._pulls[stream], self._rng)[0]
        arm = self._arms[int(self._now[stream])]
        if self._rng.random() < arm.proposes:
            return arm.kind
        self._bandit.learn(self._pulls[stream], self._now[[stream]], np.zeros(1))
        return NO_PROPOSAL

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """What survives, and the bandit learns it."""
        if k == NO_PROPOSAL:
            return 0, 1
        agree = rates = np.array(self._arms[self._now[stream]].rates)
        if self._concentration is not None:
            agree = self._rng.beta(rates * self._concentration, (1.0 - rates) * self._concentration)
        failed = self._rng.random(len(rates)) >= agree
        count = int(np.argmax(failed)) if failed.any() else len(rates)
        reward = count / len(rates) if self._concentration is None else float(agree.mean())
        self._bandit.learn(self._pulls[stream], self._now[[stream]], np.array([reward]))
        return count, count + 1


@dataclass(frozen=True)
class Arm:
    """A drafter of the pool: acceptance of its positions where it proposes, which it does in a ``proposes`` of rounds.

    kind: of the round that it drafts.
    """

    rates: tuple[float, ...]
    proposes: float
    kind: int
