"""Randomness that a rule is handed: enumerated exactly, drawn from a Generator, or injected by a caller.

A rule is written once, over any kind of number. Run on fractions with every branch enumerated it gives its exact law;
run on floats with drawn coins it samples; run with injected coins it shows where its thresholds are.
"""

# ruff: noqa: ARG002 - rules share one signature, whatever each of them reads

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from fractions import Fraction
from typing import Any, Protocol, TypeVar

import numpy as np

Number = Any
"""A Fraction or a float: rules use only arithmetic and comparison, so that either can be put through them."""

Weights = Sequence[Number]

T = TypeVar("T", bound=Hashable)


class Uniform(Protocol):
    """One uniform draw on [0, 1), of which only comparisons are ever seen."""

    def below(self, threshold: Number) -> bool:
        """Whether the draw is less than ``threshold``."""
        ...


class Coins(Protocol):
    """Everything random that a rule may use."""

    def accept(self, key: Hashable) -> Uniform:
        """The acceptance coin of a position (or node); asking again with the same key gives the same draw."""
        ...

    def pick(self, weights: Weights, key: Hashable = None) -> int:
        """An index with probability proportional to its weight."""
        ...


def law_of(program: Callable[[Coins], T], *, unit: Number = Fraction(1)) -> dict[T, Number]:
    """Exact law of what ``program`` returns, by running it once down every branch of its coins.

    ``unit`` is 1 in the numbers wanted: ``Fraction(1)`` (exact) or ``1.0``.
    """
    law: dict[T, Number] = {}
    script: list[_Branch] = []
    while True:
        coins = _Enumerated(script, unit)
        outcome = program(coins)
        law[outcome] = law.get(outcome, 0) + (script[-1].before * script[-1].odds[script[-1].taken] if script else unit)
        while script and script[-1].taken + 1 == len(script[-1].odds):
            script.pop()
        if not script:
            return law
        script[-1].taken += 1


class _Branch:
    """A choice point on the path being run: the odds of its outcomes, the one taken, and the probability before it."""

    __slots__ = ("before", "choices", "odds", "taken")

    def __init__(self, before: Number, choices: Sequence[int], odds: Sequence[Number]) -> None:
        self.before, self.choices, self.odds, self.taken = before, choices, odds, 0


class _Enumerated:
    """Coins that follow a script and lengthen it where it ends."""

    def __init__(self, script: list[_Branch], unit: Number) -> None:
        self._script, self._unit, self._at = script, unit, 0
        self._uniforms: dict[Hashable, _Interval] = {}

    def branch(self, choices: Sequence[int], odds: Sequence[Number]) -> int:
        if len(choices) == 1:
            return choices[0]
        if self._at == len(self._script):
            last = self._script[-1] if self._script else None
            before = self._unit if last is None else last.before * last.odds[last.taken]
            self._script.append(_Branch(before, choices, odds))
        branch = self._script[self._at]
        self._at += 1
        return branch.choices[branch.taken]

    def accept(self, key: Hashable) -> _Interval:
        if key not in self._uniforms:
            self._uniforms[key] = _Interval(self)
        return self._uniforms[key]

    def pick(self, weights: Weights, key: Hashable = None) -> int:
        total = positive_total(weights)
        choices = [i for i, weight in enumerate(weights) if weight > 0]
        return self.branch(choices, [weights[i] / total for i in choices])


class _Interval:
    """A uniform draw known so far to lie in [low, high)."""

    def __init__(self, coins: _Enumerated) -> None:
        self._coins, self._low, self._high = coins, 0, 1

    def below(self, threshold: Number) -> bool:
        if threshold <= self._low:
            return False
        if threshold >= self._high:
            return True
        share = (threshold - self._low) / (self._high - self._low)
        below = self._coins.branch((1, 0), (share, 1 - share)) == 1
        if below:
            self._high = threshold
        else:
            self._low = threshold
        return below


class Drawn:
    """Coins drawn from a Generator."""

    def __init__(self, rng: np.random.Generator) -> None:
        self._rng = rng
        self._uniforms: dict[Hashable, Known] = {}

    def accept(self, key: Hashable) -> Known:
        """The draw kept under ``key``."""
        if key not in self._uniforms:
            self._uniforms[key] = Known(self._rng.random())
        return self._uniforms[key]

    def pick(self, weights: Weights, key: Hashable = None) -> int:
        """Inverse of the cumulative weights at a fresh draw."""
        return inverse(weights, self._rng.random())


class Injected:
    """Coins that a caller chose: ``uniforms[i]`` accepts (or samples) position i, ``final`` picks the last token."""

    def __init__(self, uniforms: Sequence[float], final: float) -> None:
        self._uniforms, self._final = uniforms, final

    def accept(self, key: Hashable) -> Known:
        """The uniform at position ``key``."""
        return Known(self._uniforms[key])  # type: ignore[call-overload]

    def pick(self, weights: Weights, key: Hashable = None) -> int:
        """Inverse of the cumulative weights at the uniform of position ``key``, the final one without a position."""
        own = isinstance(key, int) and key < len(self._uniforms)
        return inverse(weights, self._uniforms[key] if own else self._final)  # type: ignore[call-overload]


class Known:
    """A uniform draw whose value is known."""

    __slots__ = ("value",)

    def __init__(self, value: float) -> None:
        self.value = value

    def below(self, threshold: Number) -> bool:
        """Whether the draw is less than ``threshold``."""
        return bool(self.value < threshold)


def inverse(weights: Weights, u: float) -> int:
    """First index whose cumulative weight exceeds ``u`` times the total; never one of weight zero."""
    total, reached, last = positive_total(weights), 0.0, 0
    for i, weight in enumerate(weights):
        if weight > 0:
            reached, last = reached + weight, i
            if u * total < reached:
                return i
    return last


def pick_with(coin: Uniform, weights: Weights) -> int:
    """The inverse-cumulative pick that one coin makes, whatever else the coin was compared with before."""
    total, reached, last = positive_total(weights), 0, 0
    for i, weight in enumerate(weights):
        if weight > 0:
            reached, last = reached + weight, i
            if coin.below(reached / total):
                return i
    return last


def positive_total(weights: Weights) -> Number:
    """Sum of the weights; raises ValueError where nothing can be drawn."""
    total = sum(weights)
    if not total > 0:
        raise ValueError(f"no token has weight: {list(weights)}")
    return total
