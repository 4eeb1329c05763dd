"""A small language model pair, and what it means for an emitted law to be the target's."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError

Number = Any
String = tuple[int, ...]
Law = Mapping[String, Number]


@dataclass(frozen=True)
class Case:
    """A target and a drafter over a small vocabulary: the law of the next token after every prefix.

    ``target[prefix]`` and ``draft[prefix]`` hold one number a token (Fractions, or floats); the target needs every
    prefix of up to ``gamma`` tokens, the drafter of up to ``gamma - 1``; longer prefixes may follow for laws of several
    rounds. ``eos`` ends a text: nothing follows it. Raises InputError where a row isn't a law.
    """

    target: Mapping[String, Sequence[Number]]
    draft: Mapping[String, Sequence[Number]]
    gamma: int
    eos: int | None = None
    name: str = "case"

    def __post_init__(self) -> None:
        if self.gamma < 0:
            raise InputError(f"gamma={self.gamma}: give 0 or more drafted tokens", field=self.name)
        if () not in self.target:
            raise InputError("the target has no law for the empty prefix ()", field=self.name)
        for which, table, depth in (("target", self.target, self.gamma), ("draft", self.draft, self.gamma - 1)):
            for prefix, row in table.items():
                check_row(row, self.vocab, f"{self.name}: {which}[{prefix}]")
            missing = next((prefix for prefix in self.prefixes(depth) if prefix not in table), None)
            if missing is not None:
                raise InputError(f"has no law for prefix {missing}", field=f"{self.name}: {which}")

    @cached_property
    def vocab(self) -> int:
        """Tokens in the vocabulary."""
        return len(self.target[()])

    def prefixes(self, longest: int) -> Iterator[String]:
        """Every string of up to ``longest`` tokens that has not ended, shortest first."""
        for length in range(longest + 1):
            for prefix in itertools.product(range(self.vocab), repeat=length):
                if self.eos is None or self.eos not in prefix:
                    yield prefix

    def drafts(self) -> Iterator[tuple[String, Number]]:
        """Every chain of drafts that can be drawn, with its probability; a chain stops at ``eos``."""

        def grow(prefix: String, mass: Number) -> Iterator[tuple[String, Number]]:
            if len(prefix) == self.gamma or (self.eos is not None and self.eos in prefix):
                yield prefix, mass
                return
            for token, share in enumerate(self.draft[prefix]):
                if share > 0:
                    yield from grow((*prefix, token), mass * share)

        return grow((), 1)

    def rows(self, drafts: String) -> tuple[list[Sequence[Number]], list[Sequence[Number]]]:
        """Target rows (one more than drafts) and draft rows along a chain of drafts."""
        ends = self.eos is not None and self.eos in drafts
        p = [self.target[drafts[:i]] for i in range(len(drafts) + (0 if ends else 1))]
        if ends:  # nothing follows the end: its row is never sampled from
            p.append(tuple(1 if token == self.eos else 0 for token in range(self.vocab)))
        return p, [self.draft[drafts[:i]] for i in range(len(drafts))]

    def full(self, drafts: String) -> tuple[String, list[Sequence[Number]], list[Sequence[Number]]]:
        """A chain of drafts and its rows at full length: after ``eos`` drafts and target give nothing else."""
        drafts = (*drafts, *(() if self.eos is None else (self.eos,) * (self.gamma - len(drafts))))
        end = tuple(int(token == self.eos) for token in range(self.vocab))

        def rows(table: Mapping[String, Sequence[Number]], count: int) -> list[Sequence[Number]]:
            return [end if self.eos in drafts[:i] else table[drafts[:i]] for i in range(count)]

        return drafts, rows(self.target, self.gamma + 1), rows(self.draft, self.gamma)

    @property
    def depth(self) -> int:
        """Longest prefix for which the target has a law."""
        return max(map(len, self.target))

    def floats(self) -> Case:
        """The same case in floats, for speed."""
        return Case(
            {prefix: tuple(map(float, row)) for prefix, row in self.target.items()},
            {prefix: tuple(map(float, row)) for prefix, row in self.draft.items()},
            self.gamma,
            self.eos,
            self.name,
        )


def check_row(row: Sequence[Number], vocab: int, where: str) -> None:
    """Raise InputError unless a row is a law over ``vocab`` tokens."""
    if len(row) != vocab:
        raise InputError(f"has {len(row)} probabilities, the vocabulary {vocab}", field=where)
    if any(isinstance(x, (str, bytes)) or x is None for x in row):
        raise InputError(f"{list(row)}: probabilities must be numbers", field=where)
    if any(not x >= 0 for x in row):  # NaN too
        raise InputError(f"{list(map(str, row))}: probabilities must be 0 or more", field=where)
    total = sum(row)
    exact = all(isinstance(x, (int, Fraction)) for x in row)
    if (total != 1) if exact else abs(total - 1) > 1e-9:
        raise InputError(f"sums to {total}, must be 1", field=where)


def target_law(case: Case, length: int) -> dict[String, Number]:
    """Law of the target's first ``length`` tokens (fewer where ``eos`` came), without any speculation."""
    law: dict[String, Number] = {(): 1}
    for _ in range(length):
        law = _continued(law, case, length)
    return law


def complete(law: Law, case: Case, length: int | None = None) -> dict[String, Number]:
    """Law of the first ``length`` tokens when each emitted string is continued by the target itself.

    Default length: gamma + 1. The rule that emitted ``law`` is lossless at this length iff the result equals
    ``target_law(case, length)``. Strings longer than ``length`` are cut.
    """
    length = case.gamma + 1 if length is None else length
    whole: dict[String, Number] = {}
    for string, mass in law.items():
        whole[string[:length]] = whole.get(string[:length], 0) + mass
    for _ in range(length):
        whole = _continued(whole, case, length)
    return whole


def _continued(law: dict[String, Number], case: Case, length: int) -> dict[String, Number]:
    grown: dict[String, Number] = {}
    for string, mass in law.items():
        if len(string) >= length or (case.eos is not None and case.eos in string):
            grown[string] = grown.get(string, 0) + mass
            continue
        for token, share in enumerate(case.target[string]):
            if share > 0:
                longer = (*string, token)
                grown[longer] = grown.get(longer, 0) + mass * share
    return grown


def is_lossless(law: Law, case: Case, *, tolerance: Number = 0) -> bool:
    """Whether completion restores the target's law at every length up to gamma + 1, within a total variation.

    It is tested through the innovations: ``G_j(x_1..x_j) = p(x_j | x_1..x_{j-1}) P(N >= j, Y_1..Y_{j-1})`` for all j
    and prefixes, which holds iff the completed law of every length is the target's.
    """
    if tolerance == 0:
        return all(excess == 0 for _, excess in innovations(law, case))
    return all(tv(complete(law, case, j), target_law(case, j)) <= tolerance for j in range(1, case.gamma + 2))


def innovations(law: Law, case: Case) -> Iterator[tuple[String, Number]]:
    """For each string x_1..x_j: G_j(x_1..x_j) - p(x_j | ...) P(N >= j and the prefix), which is 0 iff lossless."""
    reached: dict[String, Number] = {}
    passed: dict[String, Number] = {}
    for string, mass in law.items():
        for j in range(1, len(string) + 1):
            reached[string[:j]] = reached.get(string[:j], 0) + mass
            passed[string[: j - 1]] = passed.get(string[: j - 1], 0) + mass
    for prefix, mass in passed.items():
        for token, share in enumerate(case.target[prefix]):
            yield (*prefix, token), reached.get((*prefix, token), 0) - share * mass


def tv(one: Mapping[Any, Number], other: Mapping[Any, Number]) -> Number:
    """Total variation between two laws: half the sum of absolute differences."""
    return sum((abs(one.get(key, 0) - other.get(key, 0)) for key in {*one, *other}), start=Fraction(0)) / 2


def distortion(law: Law, case: Case, length: int | None = None) -> Number:
    """Total variation between the completed law and the target's, at ``length`` tokens (default gamma + 1)."""
    length = case.gamma + 1 if length is None else length
    return tv(complete(law, case, length), target_law(case, length))


def expected_tokens(law: Law) -> Number:
    """Mean number of tokens emitted a round, the last (bonus or correction) included."""
    return sum(len(string) * mass for string, mass in law.items())


def random_case(
    rng: np.random.Generator,
    *,
    vocab: int,
    gamma: int,
    zeros: float = 0.0,
    depth: int | None = None,
    denominator: int = 12,
) -> Case:
    """A case with small rational weights, different at every prefix; ``zeros`` is the share of tokens without mass.

    ``depth`` is the longest prefix that has laws (default gamma), for laws over several rounds. Raises InputError where
    ``rng`` is no Generator or the vocabulary is empty.
    """
    if not isinstance(rng, np.random.Generator):
        raise InputError(f"is a {type(rng).__name__}; give numpy.random.default_rng(seed)", field="rng")
    if vocab < 1:
        raise InputError(f"{vocab}: give 1 or more tokens", field="vocab")
    depth = gamma if depth is None else depth

    def law() -> tuple[Fraction, ...]:
        weights: NDArray[np.int64] = rng.integers(1, denominator + 1, size=vocab)
        weights[rng.random(vocab) < zeros] = 0
        if not weights.any():
            weights[rng.integers(vocab)] = 1
        total = int(weights.sum())
        return tuple(Fraction(int(weight), total) for weight in weights)

    strings = [s for length in range(depth + 1) for s in itertools.product(range(vocab), repeat=length)]
    return Case({s: law() for s in strings}, {s: law() for s in strings}, gamma, name=f"random V={vocab} gamma={gamma}")
