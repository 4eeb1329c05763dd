"""Rows in batches of one and two: code that squeezes or broadcasts a batch is often wrong there alone."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence

import numpy as np

from specsim.verification.batched import Ints
from specsim.verification.case import Case, String
from specsim.verification.chains import rule_name
from specsim.verification.claim import Trial
from specsim.verification.exact import exact_law
from specsim.verification.guarded import Batch, Guarded
from specsim.verification.mutants import controls_of
from specsim.verification.suite import Group
from specsim.verification.verdict import Finding

SIZES = (1, 2)
"""Rows a call."""

CALLS = 900
"""Calls of each size, shared by the cases that tell most."""

_SHARE_OF_BUDGET = 0.05
"""Most of the time budget that the calls of one size may take: a slow sampler gets fewer."""


def small_batch_findings(trial: Trial, sampler: Guarded, rng: np.random.Generator) -> Iterator[Finding]:
    """Whether rows called one by one, and two by two, have the claimed law. Raises SamplerFault."""
    cases = _telling(trial)
    for size in SIZES:
        p_values, rows = [], 0
        until = time.monotonic() + _SHARE_OF_BUDGET * trial.budget_s
        for case in cases:
            counts = called(case, CALLS // len(cases), size, until, trial, sampler, rng)
            p_values.append(trial.claim.fit(counts, trial.laws[case.name], case).p_value if counts else 1.0)
            rows += sum(counts.values())
        p_value = fisher(p_values)
        if p_value <= trial.alpha_each:
            names = ", ".join(case.name for case in cases)
            line = f"{rows:,} rows in batches of {size} ({names}): p = {p_value:.2g} against the law that is claimed"
            yield Finding("small_batches_matter", line)
            return


def _telling(trial: Trial) -> list[Case]:
    """For each of the claim's controls the case on which it is furthest off: few rows must do."""
    claim, found = trial.claim, []
    for mutant in controls_of(None if claim.algorithm is None else rule_name(claim.algorithm)):
        off = [claim.distance(exact_law(mutant.rule, c.floats()), trial.laws[c.name], c) for c in trial.suite]
        found.append(trial.suite[int(np.argmax(off))])
    return list({case.name: case for case in found}.values())


def called(
    case: Case, calls: int, size: int, until: float, trial: Trial, sampler: Guarded, rng: np.random.Generator
) -> dict[String, int]:
    """Counts of what ``calls`` calls of ``size`` rows emit, as many as there is time for. Raises SamplerFault."""
    group = Group((case,))
    _, batch = group.draw(np.array([calls * size]), rng, declared=trial.claim.declares_drafts)
    emitted: list[Ints] = []
    for start in range(0, calls * size, size):
        if time.monotonic() > until:
            break
        emitted.append(sampler(batch.rows(slice(start, start + size)), rng)[0])
    if not emitted:
        return {}
    codes, times = np.unique(group.codes(np.concatenate(emitted)), return_counts=True)
    return {group.string_of(int(code)): int(n) for code, n in zip(codes, times, strict=True)}


def fisher(p_values: Sequence[float]) -> float:
    """P-value of independent tests together: -2 sum log p is chi-square with two degrees of freedom a test."""
    from scipy.special import chdtrc

    return 0.0 if min(p_values) <= 0 else float(chdtrc(2 * len(p_values), -2.0 * np.log(p_values).sum()))


def alone(sampler: Guarded, batch: Batch, uniforms: np.ndarray, final: np.ndarray, whole: Ints) -> Iterator[Finding]:
    """With given coins a row's answer must be what it was in the whole batch, alone and in a pair."""
    for size in SIZES:
        for start in range(0, len(final) - size + 1, size):
            here = slice(start, start + size)
            tokens, _ = sampler.inject(batch.rows(here), uniforms[here], final[here])
            if not np.array_equal(tokens, whole[here]):
                line = f"a row's answer in a batch of {size} isn't what it is among {len(whole)}"
                yield Finding("batch_dependence", line)
                return
