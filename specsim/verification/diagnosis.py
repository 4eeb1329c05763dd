"""Which known mistake explains a histogram best: every mutant has an exact law, so likelihoods decide."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from specsim.verification.batch_mutants import BATCH_MUTANTS, BatchMutant
from specsim.verification.case import Case, String
from specsim.verification.chains import chain_law, law_given_drafts
from specsim.verification.exact import LOSSLESS_CHAINS, exact_law
from specsim.verification.mutants import MUTANTS

_FLOOR = 1e-9
"""Probability given to what a law excludes, so that one stray row doesn't silence every explanation."""


def likeliest(
    counts: Sequence[Mapping[String, int]],
    cases: Sequence[Case],
    *,
    claimed: Sequence[Mapping[String, Any]] | None,
    groups: Sequence[Sequence[Case]],
) -> str | None:
    """The mutant under whose law the counts are likeliest, and by how much (natural log odds); None where none fits.

    ``claimed`` are the declared rule's laws, which the mutant must beat; ``groups`` are the cases that shared batches.
    """
    floats = [case.floats() for case in cases]
    scores: dict[str, float] = {}
    for mutant in MUTANTS:
        name = f"{mutant.name} ({mutant.wrong}{f'; as in {mutant.seen}' if mutant.seen else ''})"
        scores[name] = _score(counts, [chain_law(mutant.rule, case) for case in floats])
    for other in LOSSLESS_CHAINS:
        scores[f"it runs the {other} rule"] = _score(counts, [exact_law(other, case) for case in floats])
    for batch in BATCH_MUTANTS:
        if batch.mixes != "first":
            laws = {
                id(case): law
                for members in groups
                for case, law in zip(members, mixed_laws(batch, members), strict=True)
            }
            scores[f"{batch.name} ({batch.wrong})"] = _score(counts, [laws[id(case)] for case in cases])
    ranked = sorted(scores, key=lambda name: -scores[name])
    own = _score(counts, claimed) if claimed else -math.inf
    best = ranked[0]
    if scores[best] <= own:
        return None
    perfect = sum(n * math.log(n / sum(row.values())) for row in counts for n in row.values() if n)
    cells = sum(len(row) for row in counts)
    if perfect - scores[best] > 10 * cells + 50:
        return f"none of the known mistakes; nearest: {best}"
    next_best = next((name for name in ranked[1:] if scores[name] < scores[best] - 1e-6), None)
    odds = f", log-odds +{scores[best] - scores[next_best]:.0f} over {next_best}" if next_best else ""
    return f"{best}{odds}"


def mixed_laws(mutant: BatchMutant, cases: Sequence[Case]) -> list[Counter[String]]:
    """Law of a batch mutant on each case when the row that it is mixed with is of a random case with random drafts."""
    floats = [case.floats() for case in cases]
    partners = [(*case.rows(d), mass / len(floats)) for case in floats for d, mass in case.drafts()]
    laws = []
    for case in floats:
        law: Counter[String] = Counter()
        for (drafts, mass), (p, q, share) in itertools.product(case.drafts(), partners):
            own_p, own_q = case.rows(drafts)
            rule = mutant.rule(own_p, own_q, p, q)
            for string, odds in law_given_drafts(rule, own_p, own_q, drafts, unit=1.0).items():
                law[string] += mass * share * odds
        laws.append(law)
    return laws


def _score(counts: Sequence[Mapping[String, int]], laws: Sequence[Mapping[String, Any]]) -> float:
    return sum(
        n * math.log(max(float(law.get(string, 0)), _FLOOR))
        for row, law in zip(counts, laws, strict=True)
        for string, n in row.items()
    )
