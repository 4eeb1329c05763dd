"""Hierarchical speculative decoding: a stack of drafters, each verified by the next (arXiv 2510.19705). Lossless.

M_0 .. M_K of rising cost on one device. Level 0 writes T_0 tokens; level i asks the one below for blocks, verifies each
in one pass and appends what survives plus one token, until it holds T_i; the target does so once a round.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.outcome import Outcome
from specsim.systems.composition import Composition
from specsim.systems.descriptor import Parameter, System
from specsim.systems.stack import Pair, Stack, fastest_lengths
from specsim.theory.tokens import expected_tokens_iid

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Hierarchy:
    """A stack in use: costs of one pass of each model (the target last), acceptance between neighbours, thresholds.

    costs: n + 1 of them; rates, thresholds: n. Acceptance is i.i.d. unless ``resampled_ratio`` says otherwise: the
    survival at the level above of a token that was resampled (or a bonus), over that of an accepted one. Their mean is
    kept at ``rates``: a lossless level hands up its own model's text, whatever is below it (the decoupling identity),
    so only the place of rejections changes.
    """

    costs: tuple[float, ...]
    rates: tuple[float, ...]
    thresholds: tuple[int, ...]
    resampled_ratio: float = 1.0

    def __post_init__(self) -> None:
        if not len(self.costs) == len(self.rates) + 1 == len(self.thresholds) + 1 >= 2:
            raise InputError("n + 1 costs go with n rates and n thresholds, n >= 1", field="costs, rates, thresholds")
        if min(self.costs) <= 0 or not all(0 <= a <= 1 for a in self.rates) or min(self.thresholds) < 1:
            raise InputError("needs costs above 0, rates in 0..1, thresholds of 1 or more", field="costs, rates")


def seconds_per_token(hierarchy: Hierarchy) -> float:
    """Exact seconds per token of the described loop under i.i.d. acceptance, overshoot included.

    A call to level i runs inner rounds until T_i tokens are held. Each adds n of a law made from the block lengths of
    the level below; tokens held are a renewal process, so by Wald a call takes E[inner rounds] (c_i + time below).
    """
    block, seconds = np.zeros(hierarchy.thresholds[0] + 1), hierarchy.thresholds[0] * hierarchy.costs[0]
    block[-1] = 1.0
    levels = zip(hierarchy.costs[1:], hierarchy.rates, (*hierarchy.thresholds[1:], None), strict=True)
    for cost, rate, threshold in levels:
        added = added_law(block, rate)
        if threshold is None:
            return float((cost + seconds) / (added @ np.arange(len(added))))
        block, rounds = accumulated_law(added, threshold)
        seconds = rounds * (cost + seconds)
    raise AssertionError("the target has no threshold")


def added_law(block: Floats, rate: float) -> Floats:
    """Law of the tokens that verifying a block adds: accepted and one more. ``block[m]`` = P(block of m tokens)."""
    added = np.zeros(len(block) + 1)
    for m, mass in enumerate(block):
        if mass:
            accepted = np.arange(m)
            added[1 : m + 1] += mass * (1.0 - rate) * rate**accepted
            added[m + 1] += mass * rate**m
    return added


def accumulated_law(added: Floats, threshold: int) -> tuple[Floats, float]:
    """(law of tokens held when ``threshold`` is first reached, mean inner rounds) for i.i.d. additions of that law."""
    visits, held = np.zeros(threshold), np.zeros(threshold + len(added) - 1)
    visits[0] = 1.0
    for at in range(threshold):
        for n in range(1, len(added)):
            if at + n < threshold:
                visits[at + n] += visits[at] * added[n]
            else:
                held[at + n] += visits[at] * added[n]
    return held, float(visits.sum())


@dataclass(frozen=True)
class Ran:
    """A simulated stack: seconds per token, and for each pair of levels the share of all tokens handed up that pass."""

    seconds_per_token: float
    acceptance: tuple[float, ...]


def run(hierarchy: Hierarchy, *, rounds: int, rng: np.random.Generator) -> Ran:
    """``rounds`` target passes of the loop, token by token, each token marked as accepted or not by the level below."""
    loop = _Loop(hierarchy, rng)
    tokens = sum(len(loop.verified(len(hierarchy.costs) - 1)) for _ in range(rounds))
    return Ran(loop.seconds / tokens, tuple(float(x) for x in loop.passed / loop.offered))


def target_rounds(hierarchy: Hierarchy, *, rounds: int, rng: np.random.Generator) -> Drawn:
    """The same loop as rounds of the target: tokens offered to it, kept, emitted, and seconds since its last pass."""
    loop, top = _Loop(hierarchy, rng), len(hierarchy.costs) - 1
    drafted, emitted, seconds = [], [], []
    for _ in range(rounds):
        offered, before = loop.offered[-1], loop.seconds
        emitted.append(len(loop.verified(top)))
        drafted.append(int(loop.offered[-1] - offered))
        seconds.append(loop.seconds - before)
    kept = np.array(emitted, dtype=np.int64)
    return Drawn(np.array(drafted, dtype=np.int64), kept - 1, kept, np.array(seconds))


class _Loop:
    """The recursion: a level asks the one below for blocks; ``passed`` of ``offered`` tokens survive at each level."""

    def __init__(self, hierarchy: Hierarchy, rng: np.random.Generator) -> None:
        self.stack, self.coins, self.seconds = hierarchy, _Coins(rng), 0.0
        self.passed, self.offered = np.zeros(len(hierarchy.rates)), np.zeros(len(hierarchy.rates))
        self.survival = _two_valued(hierarchy)

    def verified(self, level: int) -> list[bool]:
        """Tokens that one pass of a level adds, each True if it was resampled (or a bonus)."""
        block = self.held(level - 1)
        self.seconds += self.stack.costs[level]
        fates = [self.coins.next() < self.survival[level - 1][fresh] for fresh in block]
        self.passed[level - 1] += sum(fates)
        self.offered[level - 1] += len(fates)
        accepted = next((i for i, fate in enumerate(fates) if not fate), len(fates))
        return [False] * accepted + [True]

    def held(self, level: int) -> list[bool]:
        """A block of a level: tokens held once its threshold is reached."""
        if level == 0:
            self.seconds += self.stack.thresholds[0] * self.stack.costs[0]
            return [False] * self.stack.thresholds[0]
        out: list[bool] = []
        while len(out) < self.stack.thresholds[level]:
            out += self.verified(level)
        return out


def best_hierarchy(
    costs: Sequence[float], rates: ArrayLike, *, longest: int
) -> tuple[float, tuple[int, ...], tuple[int, ...]]:
    """(seconds per token, models used with the target last, their thresholds) of the fastest stack, without overshoot.

    costs: one pass of each model, the target last. rates[i, j]: acceptance of model i's tokens at model j > i.
    L_j = (c_j + T L_i) / E(a_ij, T) rises in L_i, so the best stack under each model is part of the best stack:

        L*_j = min(c_j, min_{i < j, T <= longest} (c_j + T L*_i) / E(a_ij, T)).

    O(K^2 longest): the generalised shortest path the paper reduces to (its printed formula was not found).
    """
    a = np.asarray(rates, dtype=np.float64)
    n = len(costs)
    if a.shape != (n, n) or longest < 1:
        raise InputError("needs an n x n matrix of rates and longest >= 1", field="rates, longest")
    lengths = np.arange(1, longest + 1)
    best = [float(c) for c in costs]
    below: list[tuple[int, int] | None] = [None] * n
    for j in range(n):
        for i in range(j):
            options = (costs[j] + lengths * best[i]) / expected_tokens_iid(a[i, j], lengths)
            t = int(np.argmin(options))
            if options[t] < best[j]:
                best[j], below[j] = float(options[t]), (i, int(lengths[t]))
    models, thresholds, at = [n - 1], [], n - 1
    while (step := below[at]) is not None:
        at = step[0]
        models.append(at)
        thresholds.append(step[1])
    return best[-1], tuple(models[::-1]), tuple(thresholds[::-1])


def best_by_enumeration(costs: Sequence[float], rates: ArrayLike, *, longest: int) -> float:
    """The same minimum over every subset of models and every threshold: for checking, exponential."""
    a = np.asarray(rates, dtype=np.float64)
    n, best = len(costs), float(costs[-1])
    lengths = np.arange(1, longest + 1)
    for size in range(1, n):
        for used in itertools.combinations(range(n - 1), size):
            seconds = np.array([float(costs[used[0]])])
            for i, j in itertools.pairwise((*used, n - 1)):
                tokens = expected_tokens_iid(a[i, j], lengths)
                seconds = ((costs[j] + lengths[None, :] * seconds[:, None]) / tokens).ravel()
            best = min(best, float(seconds.min()))
    return best


def _two_valued(hierarchy: Hierarchy) -> list[tuple[float, float]]:
    """Acceptance at each level of (an accepted token, a resampled one) of the level below, their mean kept."""
    pairs = [(hierarchy.rates[0], hierarchy.rates[0])]
    block = np.zeros(hierarchy.thresholds[0] + 1)
    block[-1] = 1.0
    if hierarchy.resampled_ratio != 1.0 and len(hierarchy.rates) > 2:
        raise InputError("two-valued acceptance is defined here for one middle level", field="resampled_ratio")
    for rate in hierarchy.rates[1:]:
        added = added_law(block, hierarchy.rates[0])
        resampled = 1.0 / float(added @ np.arange(len(added)))
        accepted = rate / (1.0 - resampled + resampled * hierarchy.resampled_ratio)
        if not 0 <= accepted <= 1 or not 0 <= accepted * hierarchy.resampled_ratio <= 1:
            raise InputError(
                f"{hierarchy.resampled_ratio} with mean {rate} needs an acceptance of {accepted:.3f}",
                field="resampled_ratio",
            )
        pairs.append((accepted, accepted * hierarchy.resampled_ratio))
    return pairs


class _Coins:
    """Uniform numbers one at a time, drawn in blocks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._left: Iterator[float] = iter(())

    def next(self) -> float:
        for u in self._left:
            return float(u)
        self._left = iter(self._rng.random(65536).tolist())
        return self.next()


def simulate(
    rng: np.random.Generator,
    *,
    small_cost: float = 0.05,
    middle_cost: float = 0.3,
    small_rate: float = 0.75,
    middle_rate: float = 0.85,
    small_threshold: int = 4,
    middle_threshold: int = 6,
    resampled_ratio: float = 1.0,
    tokens: int = 20_000,
) -> Outcome:
    """One stream through three levels; seconds are target steps."""
    stack = Hierarchy(
        (small_cost, middle_cost, 1.0), (small_rate, middle_rate), (small_threshold, middle_threshold), resampled_ratio
    )
    return in_series(lambda n: target_rounds(stack, rounds=n, rng=rng), tokens=tokens)


def _compose(setting: Setting) -> Composition:
    pair = Pair.of(setting)
    setting.with_evidence((pair.middle,))
    rate, process = setting.number("lower_rate", most=1.0), pair.middle.process
    assert process is not None
    draft, hold = fastest_lengths(setting, pair, rate, process)
    stack = Stack(setting, pair, rate, process, draft, hold)
    return stack.compose(
        ("both lengths are the fastest in closed form for a request alone, as the paper's optimiser would choose",)
    )


SYSTEM = System(
    name="hsd",
    title="Fast Inference via Hierarchical Speculative Decoding",
    paper="2510.19705",
    year=2025,
    lossless="yes",
    topology="three (or more) models of rising size on one device",
    pipeline="[small x T0 -> middle verifies] until T1 are held -> target verifies -> commit",
    rule="min(1, p/q) and residual at every level, against the level below",
    parameters=(
        Parameter("small_cost", 0.05, "a small step over a target step", "assumed (none printed)"),
        Parameter("middle_cost", 0.3, "a middle pass over a target pass", "assumed"),
        Parameter("small_rate", 0.75, "acceptance of small by middle", "assumed"),
        Parameter("middle_rate", 0.85, "acceptance of middle by target", "assumed"),
        Parameter("small_threshold", 4, "T0", "optimal for these costs"),
        Parameter("middle_threshold", 6, "T1", "optimal for these costs"),
        Parameter("resampled_ratio", 1.0, "survival of a resampled over an accepted token", "1: i.i.d."),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=("acceptance is i.i.d., or two-valued with its mean kept", "a pass costs the same at every length"),
    batches="one stream: levels hold different numbers of tokens",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("lower_rate", None, "acceptance of the smaller drafter's tokens by the larger one, a position", "-"),
    ),
    study="hsd",
)
