"""The statistical level: run rows until an error of the declared size would show, with a fixed test or e-values."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from specsim.verification import statistics
from specsim.verification.batched import Ints
from specsim.verification.case import Case, String
from specsim.verification.claim import Trial
from specsim.verification.guarded import Guarded, SamplerFault
from specsim.verification.statistics import Fit
from specsim.verification.suite import Group
from specsim.verification.verdict import Finding, Verdict, Witness

_FIRST_LOOK = 4_000
"""Rows a case of the first look, which ends the check early for most broken samplers."""

_DIAGNOSIS = 40_000
"""Rows a case on which the cause of a rejection is looked for."""

_LARGEST_BATCH = 20_000_000
"""Probabilities in the rows of one call: 160 MB."""

_FIXED: Sequence[float | None] = (None, 1.0, 1.2, 1.5)
_ANYTIME: Sequence[float | None] = (0.02, *np.linspace(0.1, 1.2, 12))


@dataclass(frozen=True)
class Counted:
    """Rows that were run and what came out, by group and case."""

    groups: tuple[Group, ...]
    counts: list[Ints]

    @classmethod
    def nothing(cls, groups: tuple[Group, ...]) -> Counted:
        """No rows yet."""
        return cls(groups, [np.zeros((len(group.cases), group.code_space), dtype=np.int64) for group in groups])

    def rows(self, g: int, c: int) -> int:
        """Rows of a case."""
        return int(self.counts[g][c].sum())

    def strings(self, g: int, c: int) -> dict[String, int]:
        """Emitted strings of a case with their numbers."""
        row = self.counts[g][c]
        return {self.groups[g].string_of(int(code)): int(row[code]) for code in np.flatnonzero(row)}

    def cases(self) -> list[tuple[int, int, Case]]:
        """Every case with its group's and its own number."""
        return [(g, c, case) for g, group in enumerate(self.groups) for c, case in enumerate(group.cases)]

    @property
    def total(self) -> int:
        """Rows in all."""
        return int(sum(count.sum() for count in self.counts))


def sampled(
    trial: Trial, sampler: Guarded, rng: np.random.Generator, verdict: Verdict, *, anytime: bool
) -> tuple[Verdict, Counted]:
    """The verdict after rows were drawn and judged, and what they were. Raises SamplerFault."""
    wanted = [np.array([trial.rows_wanted(case, anytime=anytime) for case in group.cases]) for group in trial.groups]
    over = sum(int(rows.sum()) for rows in wanted) / trial.max_rows
    if over > 1:
        wanted = [np.floor(rows / over).astype(np.int64) for rows in wanted]
    counted = Counted.nothing(trial.groups)
    verdict = replace(verdict, levels=(*verdict.levels, "anytime" if anytime else "statistical"))
    limit = trial.started + 0.8 * trial.budget_s
    judge: Callable[[Trial, Counted], dict[str, Any]] = _by_evidence if anytime else _by_fit
    for share in _ANYTIME if anytime else _FIXED:
        goals = [np.minimum(rows, _FIRST_LOOK) if share is None else np.ceil(rows * share) for rows in wanted]
        in_time = _fill(trial, sampler, counted, goals, rng, limit)
        verdict = replace(verdict, rows=counted.total, **judge(trial, counted))
        if verdict.status == "rejected":
            return replace(verdict, min_detectable_tv=None), counted
        enough = share is not None and _powerful(trial, verdict)
        if not in_time or enough or counted.total >= trial.max_rows:
            break
    if not _powerful(trial, verdict):
        line = (
            f"{verdict.rows:,} rows detect a total variation of {verdict.min_detectable_tv:.3g}, not"
            f" {trial.detect_tv:g}; raise max_rows, budget_s or detect_tv, or give"
            " cases of fewer tokens or drafts"
        )
        finding = Finding("power_not_reached", line, "stops")
        verdict = replace(verdict, status="inconclusive", findings=(*verdict.findings, finding))
    return verdict, counted


def topped_up(trial: Trial, sampler: Guarded, counted: Counted, rng: np.random.Generator) -> Counted:
    """What was counted and up to ``_DIAGNOSIS`` rows a case, in a tenth of the budget at most: a first look rejects on
    counts that fit several causes.
    """
    goals = [np.full(len(group.cases), _DIAGNOSIS) for group in trial.groups]
    with suppress(SamplerFault):  # the verdict stands; what was counted before is kept
        _fill(trial, sampler, counted, goals, rng, time.monotonic() + 0.1 * trial.budget_s)
    return counted


def _powerful(trial: Trial, verdict: Verdict) -> bool:
    blind = verdict.min_detectable_tv  # 0 where every law of the suite is certain
    return blind is not None and blind <= trial.detect_tv * 1.01


def _fill(
    trial: Trial, sampler: Guarded, counted: Counted, goals: Sequence[Any], rng: np.random.Generator, limit: float
) -> bool:
    """Run rows until every case has its number; False where time ran out first."""
    for g, group in enumerate(counted.groups):
        chunk = 1_000
        while True:
            left = np.maximum(goals[g] - counted.counts[g].sum(axis=1), 0).astype(np.int64)
            if not left.any():
                break
            if time.monotonic() > limit:
                return False
            rows = np.ceil(left * min(1.0, chunk / left.sum())).astype(np.int64)
            case, batch = group.draw(rows, rng, declared=trial.claim.declares_drafts)
            start = time.monotonic()
            tokens, _ = sampler(batch, rng)
            spent = time.monotonic() - start
            counted.counts[g] += group.counts(case, tokens)
            most = min(200_000, _LARGEST_BATCH // (group.vocab * (2 * group.gamma + 1)))
            chunk = int(min(most, max(1, chunk * min(8.0, 1.0 / max(spent, 1e-3)))))
    return True


def _by_fit(trial: Trial, counted: Counted) -> dict[str, Any]:
    """Chi-square of every case, Bonferroni over them."""
    fits: list[tuple[Case, Fit]] = []
    blind = 0.0
    for g, c, case in counted.cases():
        rows, strings = counted.rows(g, c), counted.strings(g, c)
        if not rows:
            blind = 1.0
            continue
        fit = trial.claim.fit(strings, trial.laws[case.name], case)
        tokens = 1.0 if trial.claim.algorithm else sum(len(s) * n for s, n in strings.items()) / rows
        fits.append((case, fit))
        seen = statistics.detectable(fit.degrees, trial.alpha_each, trial.power, rows, tokens=tokens)
        blind = max(blind, seen + fit.pooled / rows)
    if not fits:
        return {"min_detectable_tv": 1.0, "status": "consistent"}
    case, worst = min(fits, key=lambda item: item[1].p_value)
    p_value = min(1.0, worst.p_value * len(fits))
    judged: dict[str, Any] = {"p_value": p_value, "min_detectable_tv": blind, "status": "consistent"}
    return judged | (_against(trial, case, worst) if worst.p_value <= trial.alpha_each else {})


def _by_evidence(trial: Trial, counted: Counted) -> dict[str, Any]:
    """The mean of the cases' e-values, which is one itself."""
    evidence, blind = [], 0.0
    each = counted.cases()
    for g, c, case in each:
        evidence.append(trial.claim.evidence(counted.strings(g, c), trial.laws[case.name], case))
        cells = trial.cells(case)[1] + 1
        blind = max(blind, statistics.evidence_detectable(cells, trial.alpha / len(each), counted.rows(g, c)))
    top = int(np.argmax(evidence))
    mean = evidence[top] + math.log(
        sum(math.exp(e - evidence[top]) if e < evidence[top] else 1.0 for e in evidence) / len(each)
    )
    judged: dict[str, Any] = {
        "p_value": min(1.0, math.exp(-mean)) if mean < 700 else 0.0,
        "min_detectable_tv": blind,
        "status": "consistent",
    }
    if mean < math.log(1 / trial.alpha):
        return judged
    g, c, case = each[top]
    return judged | _against(trial, case, trial.claim.fit(counted.strings(g, c), trial.laws[case.name], case))


def _against(trial: Trial, case: Case, worst: Fit) -> dict[str, Any]:
    string, observed, expected, z = worst.worst or ((), 0.0, 0.0, 0.0)
    name = "impossible_token" if worst.impossible is not None else "wrong_law"
    line = f"case {case.name}: p = {worst.p_value:.2g} against a false alarm of {trial.alpha:g}"
    if worst.impossible is not None:
        line = f"case {case.name}: emitted {list(worst.impossible)}, which has probability 0"
    witness = Witness(case.name, string[:-1], string[-1] if string else -1, observed, expected, z, trial.claim.event)
    return {"status": "rejected", "witness": witness, "findings": (Finding(name, line),)}
