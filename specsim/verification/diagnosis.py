"""Which known mistakes explain what a wrong sampler emitted: every mutant has an exact law that it must fit."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from specsim.verification import statistics
from specsim.verification.batch_mutants import BATCH_MUTANTS, BatchMutant
from specsim.verification.case import Case, String, tv
from specsim.verification.chains import chain_law, law_given_drafts
from specsim.verification.claim import Claim, Law
from specsim.verification.exact import CHAIN_RULES, LOSSLESS_CHAINS
from specsim.verification.mutants import MUTANTS, Mutant

MISFIT = 1e-3
"""A candidate is dropped where counts like these, or worse, have this chance under its law, all cases together."""

NATS = 5.0
"""Candidates that fit are named as far as this below the likeliest of them: a likelihood ratio of 150."""

_LARGEST = 250
"""Strings of a case that is compared: every candidate's law is enumerated on it."""


@dataclass(frozen=True)
class Diagnosis:
    """Names of the known mistakes that fit, the likeliest first, and what is said of them."""

    causes: tuple[str, ...]
    line: str


def comparable(case: Case) -> bool:
    """Whether a case is small enough for every candidate's law."""
    return bool(case.vocab ** (case.gamma + 1) <= _LARGEST)


def diagnosed(
    counts: Sequence[Mapping[String, int]], cases: Sequence[Case], claim: Claim, groups: Sequence[Sequence[Case]]
) -> Diagnosis:
    """The candidates whose law passes a goodness of fit test on all counts (p above ``MISFIT``), the likeliest and
    those within ``NATS`` of it.

    Mistakes about the declared rule are tried first, those about others only where none of these fits. ``groups`` are
    the cases that shared batches.
    """
    for candidates in _candidates(cases, claim, groups):
        fitting = {
            candidate: sum(n * math.log(law[s]) for row, law in zip(counts, laws, strict=True) for s, n in row.items())
            for candidate, laws in candidates
            if statistics.fit_together(counts, laws).p_value > MISFIT
        }
        if fitting:
            ranked = sorted(fitting, key=lambda one: -fitting[one])
            return _said([one for one in ranked if fitting[one] >= fitting[ranked[0]] - NATS])
    return _said([])


def recognised(laws: Sequence[Law], cases: Sequence[Case], claim: Claim, tolerance: float) -> Diagnosis:
    """The candidates whose law is the one that was found exactly, to a total variation of ``tolerance`` on each case.

    Mistakes of batches have no law of a row to compare.
    """
    for candidates in _candidates(cases, claim, ()):
        off = {cause: max(float(tv(a, b)) for a, b in zip(laws, own, strict=True)) for cause, own in candidates}
        if near := [cause for cause in sorted(off, key=lambda one: off[one]) if off[cause] <= tolerance]:
            return _said(near)
    return _said([])


@dataclass(frozen=True)
class _Cause:
    name: str
    wrong: str
    seen: str

    def __str__(self) -> str:
        told = "; as in ".join(part for part in (self.wrong, self.seen) if part)
        return f"{self.name} ({told})" if told else self.name


def _said(causes: Sequence[_Cause]) -> Diagnosis:
    told = ", or ".join(map(str, causes)) or "none of the known mistakes"
    return Diagnosis(tuple(cause.name for cause in causes), told)


def _candidates(
    cases: Sequence[Case], claim: Claim, groups: Sequence[Sequence[Case]]
) -> Iterator[list[tuple[_Cause, Sequence[Law]]]]:
    """Causes with their laws on the cases: those about the declared rule, then the rest."""
    floats = [case.floats() for case in cases]
    declared = [mutant for mutant in MUTANTS if claim.algorithm in (mutant.claims, None)]
    others = [mutant for mutant in MUTANTS if mutant not in declared]
    of_token = claim.algorithm in ("token", None)
    named = {mutant.rule for mutant in declared}
    rules = [name for name in LOSSLESS_CHAINS if CHAIN_RULES[name] not in named]
    yield [
        *_of_mutants(declared, floats, claim),
        *(
            (_Cause(f"it runs the {name} rule", "", ""), [chain_law(CHAIN_RULES[name], case) for case in floats])
            for name in rules
            if name != claim.algorithm
        ),
        *(_of_batches(cases, groups) if of_token else ()),
    ]
    yield [*_of_mutants(others, floats, claim), *(() if of_token else _of_batches(cases, groups))]


def _of_mutants(
    mutants: Sequence[Mutant], cases: Sequence[Case], claim: Claim
) -> Iterator[tuple[_Cause, Sequence[Law]]]:
    for mutant in mutants:
        if not claim.is_of(mutant.rule):
            laws = [chain_law(mutant.rule, case) for case in cases]
            yield _Cause(mutant.name, mutant.wrong, mutant.seen), laws


def _of_batches(cases: Sequence[Case], groups: Sequence[Sequence[Case]]) -> Iterator[tuple[_Cause, Sequence[Law]]]:
    for batch in BATCH_MUTANTS if groups else ():
        if batch.mixes != "first":
            laws = {
                id(case): law
                for members in groups
                for case, law in zip(members, mixed_laws(batch, members), strict=True)
            }
            yield _Cause(batch.name, batch.wrong, batch.seen), [laws[id(case)] for case in cases]


def mixed_laws(mutant: BatchMutant, cases: Sequence[Case]) -> list[Counter[String]]:
    """Law of a batch mutant on each case when the row that it is mixed with is of a random case with random drafts."""
    floats = [case.floats() for case in cases]
    partners = [(*case.full(d)[1:], mass / len(floats)) for case in floats for d, mass in case.drafts()]
    laws = []
    for case in floats:
        law: Counter[String] = Counter()
        for (drafts, mass), (p, q, share) in itertools.product(case.drafts(), partners):
            whole, own_p, own_q = case.full(drafts)
            rule = mutant.rule(own_p, own_q, p, q)
            for string, odds in law_given_drafts(rule, own_p, own_q, whole, unit=1.0, eos=case.eos).items():
                law[string] += mass * share * odds
        laws.append(law)
    return laws
