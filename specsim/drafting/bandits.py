"""Which drafter of a pool to use next: bandits over rounds, vectorised over requests.

Each rule picks an arm from the statistics of a request's own rounds. What a reward is lies outside:
``block_efficiency`` and ``block_divergence`` are MetaSD's (arXiv 2604.05417).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass
class Pulls:
    """What a request has seen of each arm: pulls and rewards, arrays of shape (requests, arms); all start at 0.

    ``weights`` is for rules that keep more than means (EXP3's importance-weighted sums, halving's dropped arms).
    """

    count: Ints
    total: Floats
    weights: Floats

    @classmethod
    def none(cls, requests: int, arms: int) -> Pulls:
        """No pulls yet."""
        zero = np.zeros((requests, arms))
        return cls(zero.astype(np.int64), zero.copy(), zero.copy())

    @property
    def mean(self) -> Floats:
        """Mean reward of each arm; 0 where it was never pulled."""
        return np.asarray(self.total / np.maximum(self.count, 1))


class Bandit(Protocol):
    """Picks an arm for every request, and learns from the reward of the arm it picked."""

    def pick(self, pulls: Pulls, rng: np.random.Generator) -> Ints:
        """Arms to use now, shape (requests,)."""
        ...

    def learn(self, pulls: Pulls, arms: Ints, rewards: Floats) -> None:
        """Record rewards in 0..1 of the arms picked; ``pulls`` is updated in place."""
        ...


def _record(pulls: Pulls, arms: Ints, rewards: Floats) -> None:
    rows = np.arange(len(arms))
    pulls.count[rows, arms] += 1
    pulls.total[rows, arms] += rewards


@dataclass(frozen=True)
class Ucb:
    """Every arm once, then argmax of mean + exploration * sqrt(2 ln t / n) (UCB1; MetaSD's rule).

    exploration: MetaSD never reports its value; 1 is UCB1's.
    """

    exploration: float = 1.0

    def __post_init__(self) -> None:
        if self.exploration < 0:
            raise InputError(f"{self.exploration} must be 0 or more", field="exploration")

    def pick(self, pulls: Pulls, rng: np.random.Generator) -> Ints:  # noqa: ARG002 (the interface's argument)
        """The unpulled arm of lowest index, else the largest upper confidence bound."""
        played = np.maximum(pulls.count.sum(axis=1, keepdims=True), 1)
        bonus = self.exploration * np.sqrt(2.0 * np.log(played) / np.maximum(pulls.count, 1))
        return np.asarray(np.argmax(np.where(pulls.count == 0, np.inf, pulls.mean + bonus), axis=1), dtype=np.int64)

    def learn(self, pulls: Pulls, arms: Ints, rewards: Floats) -> None:
        """Count and sum."""
        _record(pulls, arms, rewards)


@dataclass(frozen=True)
class Exp3:
    """Draws arm i with (1 - mix) softmax(mix * R_i / arms) + mix / arms, R_i summed reward / probability.

    Auer, Cesa-Bianchi, Freund and Schapire, 2002; for rewards that may change adversarially.
    """

    mix: float = 0.1

    def __post_init__(self) -> None:
        if not 0 < self.mix <= 1:
            raise InputError(f"{self.mix} is not in (0, 1]", field="mix")

    def probabilities(self, pulls: Pulls) -> Floats:
        """Law of the arm of each request, shape (requests, arms)."""
        arms = pulls.weights.shape[1]
        scaled = self.mix * pulls.weights / arms
        scaled = np.exp(scaled - scaled.max(axis=1, keepdims=True))
        return np.asarray((1.0 - self.mix) * scaled / scaled.sum(axis=1, keepdims=True) + self.mix / arms)

    def pick(self, pulls: Pulls, rng: np.random.Generator) -> Ints:
        """One draw a request."""
        steps = np.cumsum(self.probabilities(pulls), axis=1)
        drawn = (rng.random((len(steps), 1)) >= steps).sum(axis=1)
        return np.asarray(np.minimum(drawn, steps.shape[1] - 1), dtype=np.int64)

    def learn(self, pulls: Pulls, arms: Ints, rewards: Floats) -> None:
        """Importance-weighted sums: unbiased for every arm."""
        rows = np.arange(len(arms))
        pulls.weights[rows, arms] += rewards / self.probabilities(pulls)[rows, arms]
        _record(pulls, arms, rewards)


@dataclass(frozen=True)
class SequentialHalving:
    """Halves the arms left after equal shares of ``budget`` rounds, then stays with the last (Karnin et al., 2013).

    Stage s of ceil(log2 arms) pulls each surviving arm floor(budget / (left * stages)) times, at least once.
    """

    budget: int

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise InputError(f"{self.budget}; give 1 or more rounds", field="budget")

    def pick(self, pulls: Pulls, rng: np.random.Generator) -> Ints:  # noqa: ARG002 (the interface's argument)
        """The surviving arm with fewest pulls; after the budget, the last survivor."""
        alive = pulls.weights == 0
        fewest = np.argmin(np.where(alive, pulls.count, np.iinfo(np.int64).max), axis=1)
        return np.asarray(fewest, dtype=np.int64)

    def learn(self, pulls: Pulls, arms: Ints, rewards: Floats) -> None:
        """Count and sum; where a stage ends, drop the worse half (``weights`` 1: dropped)."""
        _record(pulls, arms, rewards)
        played = pulls.count.sum(axis=1)
        for end, keep in self._stages(pulls.count.shape[1]):
            rows = played == end
            if rows.any():
                order = np.argsort(np.where(pulls.weights == 0, -pulls.mean, np.inf), axis=1, kind="stable")
                dropped = np.ones_like(pulls.weights)
                np.put_along_axis(dropped, order[:, :keep], 0.0, axis=1)
                pulls.weights[rows] = dropped[rows]

    def _stages(self, arms: int) -> list[tuple[int, int]]:
        """(rounds played when a stage ends, arms it keeps)."""
        count = max(int(np.ceil(np.log2(arms))), 1)
        ends, end, left = [], 0, arms
        for _ in range(count if arms > 1 else 0):
            end += left * max(self.budget // (left * count), 1)
            left = (left + 1) // 2
            ends.append((end, left))
        return ends


def block_efficiency(accepted: Ints, k: int) -> Floats:
    """Accepted over drafted tokens of a round: MetaSD's first reward, 0 in many rounds even for a good drafter."""
    return np.asarray(accepted / k)


def block_divergence(tv: Floats) -> Floats:
    """Mean over the k drafted positions of 1 - TV(p, q), from laws that verification computes anyway; tv: (rounds, k).

    Its mean is the acceptance rate and its variance far below that of ``block_efficiency``: MetaSD's second reward.
    """
    return np.asarray(1.0 - tv.mean(axis=1))
