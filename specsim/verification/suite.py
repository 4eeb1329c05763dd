"""The cases that samplers are judged on, and their rows: small, exact, and different at every prefix."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from specsim.verification.batched import Floats, Ints
from specsim.verification.case import Case, String, random_case
from specsim.verification.guarded import Batch


def standard_cases() -> tuple[Case, ...]:
    """Twelve cases by what they catch: contexts (indexing), zeros (support), tails (coins), near-equal and wide rows
    (residuals), late positions, rare drafts.

    Vocabularies of 2 to 8 and 1 to 5 drafts, with as few strings as tell mistakes apart: a total variation of 0.01
    takes fewest rows then.
    """
    rng = np.random.default_rng(20_240_131)
    dense = random_case(rng, vocab=3, gamma=2)
    return (
        _renamed(dense, "dense"),
        _renamed(random_case(rng, vocab=3, gamma=2, zeros=0.35), "sparse"),
        _map_draft(random_case(rng, vocab=3, gamma=2), "near equal", lambda p, _: _nudged(p)),
        _map_draft(random_case(rng, vocab=3, gamma=2), "reversed", lambda p, _: p[::-1]),
        _map_draft(random_case(rng, vocab=3, gamma=2), "certain drafts", lambda _, q: _one_hot(q)),
        _map_draft(random_case(rng, vocab=3, gamma=2), "target's mode undrafted", lambda p, q: _undrafted(p, q)),
        _disjoint(random_case(rng, vocab=4, gamma=1)),
        _tails(),
        _renamed(random_case(rng, vocab=2, gamma=3), "binary, three drafts"),
        _wide_residuals(),
        _rare_drafts(),
        _late(random_case(rng, vocab=2, gamma=5)),
    )


def small_cases() -> tuple[Case, ...]:
    """The cases on which every cell is found by interception."""
    return tuple(case for case in standard_cases() if is_small(case))


def is_small(case: Case) -> bool:
    """Whether interception takes a case: up to two drafts are left to chance, of up to six.

    A position is not if target and draft allow the same single token there, wherever the drafts lead.
    """
    return case.gamma <= 2 or (case.gamma <= 6 and sum(_left_to_chance(case, i) for i in range(case.gamma)) <= 2)


def _left_to_chance(case: Case, position: int) -> bool:
    reached = {drafts[:position] for drafts, _ in case.drafts() if len(drafts) > position}
    return any(max(case.target[s]) != 1 or list(case.target[s]) != list(case.draft[s]) for s in reached)


def _renamed(case: Case, name: str) -> Case:
    return Case(case.target, case.draft, case.gamma, case.eos, name)


Row = Sequence[Fraction]


def _map_draft(case: Case, name: str, new: Callable[[Row, Row], Row]) -> Case:
    draft = {prefix: new(case.target[prefix], row) for prefix, row in case.draft.items()}
    return Case(case.target, draft, case.gamma, case.eos, name)


def _nudged(p: Row) -> tuple[Fraction, ...]:
    shift = min(p[0], p[1]) / 10
    return (p[0] + shift, p[1] - shift, *p[2:])


def _one_hot(q: Row) -> tuple[Fraction, ...]:
    top = max(range(len(q)), key=lambda x: q[x])
    return tuple(Fraction(x == top) for x in range(len(q)))


def _undrafted(p: Row, q: Row) -> tuple[Fraction, ...]:
    top = max(range(len(p)), key=lambda x: p[x])
    rest = [Fraction(0) if x == top else mass for x, mass in enumerate(q)]
    return tuple(mass / sum(rest) for mass in rest)


def _disjoint(case: Case) -> Case:
    def half(row: Row, odd: int) -> tuple[Fraction, ...]:
        kept = [mass if x % 2 == odd else Fraction(0) for x, mass in enumerate(row)]
        return tuple(mass / sum(kept) for mass in kept)

    target: dict[String, Row] = {s: half(row, 0) if len(s) == 0 else row for s, row in case.target.items()}
    return Case(target, {s: half(row, 1) for s, row in case.draft.items()}, case.gamma, None, "disjoint supports")


def _tails() -> Case:
    """Drafts that the target hardly allows: acceptance 0.008, where a coarse or non-strict coin shows."""
    f = Fraction
    after: dict[String, Row] = {(x,): (f(x + 1, 10), f(1, 10), f(8 - x, 10)) for x in range(3)}
    target: dict[String, Row] = {(): (f(4, 1000), f(6, 1000), f(990, 1000)), **after}
    return Case(target, {(): (f(49, 100), f(49, 100), f(2, 100))}, 1, None, "tails")


def _wide_residuals() -> Case:
    """Six tokens of which three are drafted and one too often: five are left to replace it, after every draft too."""
    rng = np.random.default_rng(20_251_125)

    def shared(weights: Sequence[int]) -> tuple[Fraction, ...]:
        order, total = rng.permutation(len(weights)), sum(weights)
        return tuple(Fraction(weights[x], total) for x in order)

    prefixes = [(), *((x,) for x in range(6))]
    target: dict[String, Row] = {s: shared((2, 3, 4, 5, 6, 8)) for s in prefixes}
    draft: dict[String, Row] = {}
    for s, row in target.items():
        low, *_, high = sorted(range(6), key=lambda x: row[x])
        other = next(x for x in range(6) if x not in (low, high))
        draft[s] = tuple(Fraction({low: 7, other: 1, high: 2}.get(x, 0), 10) for x in range(6))
    target |= {(x, y): shared((0, 0, 0, 0, 3, 5)) for x in range(6) for y in range(6)}
    return Case(target, draft, 2, None, "wide residuals")


def _rare_drafts() -> Case:
    """Eight tokens of which six are drafted once in 200: three as rare in the target, three left to replace others."""
    f = Fraction
    target: dict[String, Row] = {(): (f(300, 1000), f(235, 1000), *[f(5, 1000)] * 3, *(f(x, 20) for x in (4, 3, 2)))}
    target |= {(x,): tuple(f((y in (x, (x + 3) % 8)) * (1 + (y == x)), 3) for y in range(8)) for x in range(8)}
    return Case(target, {(): (*[f(485, 1000)] * 2, *[f(5, 1000)] * 6)}, 1, None, "rare drafts")


def _late(case: Case) -> Case:
    """Five drafts of which the first three are certain to be accepted, so that the others are always reached."""
    target, draft = dict(case.target), dict(case.draft)
    for i, x in enumerate(chain := (0, 1, 1)):
        target[chain[:i]] = draft[chain[:i]] = tuple(Fraction(y == x) for y in range(2))
    return Case(target, draft, case.gamma, None, "late positions")


@dataclass(frozen=True)
class Group:
    """Cases of one shape, laid out as arrays so that a batch of mixed rows is two gathers.

    Where a text has ended the rows say that it goes on with ``eos`` for certain, drafts too: what a sampler answers
    there isn't emitted.
    """

    cases: tuple[Case, ...]

    @property
    def vocab(self) -> int:
        """Tokens in the vocabulary."""
        return self.cases[0].vocab

    @property
    def gamma(self) -> int:
        """Drafts a row."""
        return self.cases[0].gamma

    @property
    def eos(self) -> int | None:
        """The token that ends a text."""
        return self.cases[0].eos

    @cached_property
    def strings(self) -> Ints:
        """Every chain of drafts, [V^G, G]."""
        every = list(itertools.product(range(self.vocab), repeat=self.gamma))
        return np.array(every, dtype=np.int64).reshape(len(every), self.gamma)

    @cached_property
    def _tables(self) -> tuple[Floats, Floats, Floats]:
        strings = [tuple(map(int, s)) for s in self.strings]
        shape = (len(self.cases), len(strings))
        target = np.zeros((*shape, self.gamma + 1, self.vocab))
        draft = np.zeros((*shape, self.gamma, self.vocab))
        mass = np.ones(shape)
        for c, case in enumerate(self.cases):
            for s, string in enumerate(strings):
                _, p, q = case.full(string)
                target[c, s] = [[float(x) for x in row] for row in p]
                draft[c, s] = np.array([[float(x) for x in row] for row in q]).reshape(draft.shape[2:])
                mass[c, s] = np.prod(draft[c, s, range(self.gamma), list(string)])
        return target, draft, np.cumsum(mass / mass.sum(axis=1, keepdims=True), axis=1)

    def draw(self, rows: Ints, rng: np.random.Generator, *, declared: bool = True) -> tuple[Ints, Batch]:
        """A shuffled batch with ``rows[c]`` rows of case c, each with its own drafts: (case of each row, batch).

        ``declared`` False leaves the drafts' law out.
        """
        target, draft, reached = self._tables
        case = np.repeat(np.arange(len(self.cases)), rows)
        rng.shuffle(case)
        u = rng.random(len(case))
        string = np.zeros(len(case), dtype=np.int64)
        for c in range(len(self.cases)):
            here = case == c
            found = np.searchsorted(reached[c], u[here], side="right")
            string[here] = np.minimum(found, reached.shape[1] - 1)
        at = case * len(self.strings) + string

        def picked(table: Floats) -> Floats:  # a flat take: half the time of an index by case and string
            return table.reshape(len(self.cases) * len(self.strings), *table.shape[2:]).take(at, axis=0)

        return case, Batch(picked(target), picked(draft) if declared else None, self.strings.take(string, axis=0))

    def every(self, c: int, *, declared: bool = True) -> tuple[Floats, Batch]:
        """One row for every chain of drafts that case c can draw: (their probabilities, batch)."""
        target, draft, reached = self._tables
        mass = np.diff(reached[c], prepend=0.0)
        can = np.flatnonzero(mass > 0)
        return mass[can], Batch(target[c, can], draft[c, can] if declared else None, self.strings[can])

    def codes(self, tokens: Ints) -> Ints:
        """One number a row for the emitted string (-1 padded tokens, [B, G+1]), which ends at ``eos``."""
        if self.eos is not None:
            ended = np.cumsum(tokens[:, :-1] == self.eos, axis=1) > 0
            tokens = np.where(np.insert(ended, 0, False, axis=1), -1, tokens)
        return np.asarray((tokens + 1) @ (self.vocab + 1) ** np.arange(self.gamma + 1), dtype=np.int64)

    def counts(self, case: Ints, tokens: Ints) -> Ints:
        """How often each case's rows emitted each string, by code: [cases, code_space]."""
        codes = case * self.code_space + self.codes(tokens)
        size = len(self.cases) * self.code_space
        return np.bincount(codes, minlength=size).reshape(len(self.cases), self.code_space)

    @property
    def code_space(self) -> int:
        """Numbers that ``codes`` may take."""
        return int((self.vocab + 1) ** (self.gamma + 1))

    def string_of(self, code: int) -> String:
        """The string behind a code."""
        digits = []
        while code:
            code, digit = divmod(code, self.vocab + 1)
            digits.append(digit - 1)
        return tuple(digits)


def groups(cases: Sequence[Case]) -> Iterator[Group]:
    """Cases of equal shape, and of the same ``eos``, together."""
    shapes = dict.fromkeys((case.vocab, case.gamma, case.eos) for case in cases)
    for shape in shapes:
        yield Group(tuple(case for case in cases if (case.vocab, case.gamma, case.eos) == shape))
