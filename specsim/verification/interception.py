"""The exact law of a sampler whose coins can be chosen: find every threshold by bisection and add up the cells.

A sampler with injected coins is a step function of the uniforms [0, 1)^G and the final uniform. Its steps are found to
2^-31, coordinate by coordinate; the volumes of the cells are the law. No sampling noise, so no false alarms.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from fractions import Fraction

import numpy as np

from specsim.verification.batched import Floats, Ints
from specsim.verification.case import Case, String, tv
from specsim.verification.claim import Claim, Trial
from specsim.verification.diagnosis import Diagnosis, comparable, recognised
from specsim.verification.guarded import Guarded, SamplerFault
from specsim.verification.suite import Group, is_small
from specsim.verification.verdict import Finding, Verdict, Witness

TOLERANCE = 1e-6
"""Total variation allowed between the intercepted law and the claimed one: float32 arithmetic stays well inside."""

_LOW, _HIGH = 0.0, 1.0 - 2.0**-24
_GRID = np.linspace(_LOW, _HIGH, 17)
_BISECTIONS = 28

Evaluate = Callable[[Ints, Floats], Ints]


def intercepted(trial: Trial, sampler: Guarded, verdict: Verdict) -> Verdict:
    """The verdict after the exact law was found on every small case, and its coins' ends tried.

    Raises SamplerFault.
    """
    worst, claim = 0.0, trial.claim
    verdict = replace(verdict, levels=(*verdict.levels, "interception"))
    for group in trial.groups:
        for c, case in enumerate(group.cases):
            if not is_small(case):
                continue
            law = intercepted_law(sampler, group, c, declared=claim.declares_drafts)
            seen, wanted = claim.compared(law, trial.laws[case.name], case)
            off = float(tv(seen, wanted))
            worst = max(worst, off)
            if off > TOLERANCE:
                finding = Finding("wrong_law", f"total variation {off:.3g} on case {case.name}, by interception")
                found = _cause(trial, sampler, case, law)
                return replace(
                    verdict,
                    status="rejected",
                    findings=(*verdict.findings, finding),
                    witness=_witness(seen, wanted, case, trial),
                    causes=found.causes if found else (),
                    explanation=found.line if found else None,
                    details={"interception_tv": off},
                )
            if claim.algorithm is not None:
                fault = boundary_faults(sampler, group, c, claim)
                if fault is not None:
                    return replace(verdict, status="rejected", findings=(*verdict.findings, fault))
    return replace(verdict, details={**verdict.details, "interception_tv": worst}, min_detectable_tv=TOLERANCE)


def _cause(trial: Trial, sampler: Guarded, case: Case, law: Mapping[String, float]) -> Diagnosis | None:
    """The known mistakes whose law was found, by further cases where several have it; None on a large case."""
    if not comparable(case):
        return None
    cases, laws = [case], [law]
    known = recognised(laws, cases, trial.claim, TOLERANCE)
    for group in trial.groups:
        for c, other in enumerate(group.cases if group.gamma <= 2 else ()):
            if len(known.causes) > 1 and other is not case and comparable(other):
                cases.append(other)
                laws.append(intercepted_law(sampler, group, c, declared=trial.claim.declares_drafts))
                known = recognised(laws, cases, trial.claim, TOLERANCE)
    return known


def _witness(seen: Mapping[String, float], wanted: Mapping[String, float], case: Case, trial: Trial) -> Witness:
    off = max({*seen, *wanted}, key=lambda s: abs(seen.get(s, 0.0) - wanted.get(s, 0.0)))
    observed, expected = seen.get(off, 0.0), wanted.get(off, 0.0)
    away = math.copysign(math.inf, observed - expected)
    return Witness(case.name, off[:-1], off[-1] if off else -1, observed, expected, away, trial.claim.event)


def intercepted_law(sampler: Guarded, group: Group, c: int, *, declared: bool = True) -> dict[String, float]:
    """Law of the emitted strings on case ``c`` of a group, by interception. Raises SamplerFault."""
    mass, rows = group.every(c, declared=declared)
    gamma, count = group.gamma, len(mass)

    def run(row: Ints, uniforms: Floats, final: Floats) -> Ints:
        return group.codes(sampler.inject(rows.rows(row), uniforms, final)[0])

    cuts: list[list[set[float]]] = [[{0.0} for _ in range(gamma)] for _ in range(count)]
    for _ in range(gamma + 1):  # a threshold may show only where another coin falls in the right cell
        if not any(_new_cuts(cuts, i, run, group.code_space) for i in range(gamma)):
            break
    cells_row, cells_at, cells_volume = [], [], []
    for row in range(count):
        axes = [_intervals(sorted(found)) for found in cuts[row]]
        for cell in itertools.product(*axes):
            cells_row.append(row)
            cells_at.append([(a + b) / 2 for a, b in cell])
            cells_volume.append(float(np.prod([b - a for a, b in cell])))
    at_row, at = np.array(cells_row), np.array(cells_at, dtype=np.float64).reshape(len(cells_row), gamma)
    law: dict[String, float] = {}
    for owner, start, end, code in _segments(lambda owner, w: run(at_row[owner], at[owner], w), len(at_row)):
        string = group.string_of(code)
        law[string] = law.get(string, 0.0) + mass[at_row[owner]] * cells_volume[owner] * (end - start)
    return law


def _new_cuts(cuts: list[list[set[float]]], i: int, run: Callable[[Ints, Floats, Floats], Ints], space: int) -> bool:
    """Add the steps along coordinate i, the others at their ends and in every cell known; whether one is new."""
    rows, others = [], []
    for row, axes in enumerate(cuts):
        points = [
            (1e-9, _HIGH - 1e-9, *((a + b) / 2 for a, b in _intervals(sorted(axis)) if len(axis) > 1))
            for k, axis in enumerate(axes)
            if k != i
        ]
        for setting in itertools.product(*points):
            rows.append(row)
            others.append(setting)
    at_row, at = np.array(rows), np.array(others, dtype=np.float64).reshape(len(rows), len(cuts[0]) - 1)

    def along(owner: Ints, u: Floats) -> Ints:
        uniforms = np.insert(at[owner], i, u, axis=1)
        low, high = (run(at_row[owner], uniforms, np.full(len(u), w)) for w in (0.2, 0.8))
        return low * space + high

    new = False
    for owner, start, _, _ in _segments(along, len(at_row)):
        known = cuts[rows[owner]][i]
        if all(abs(start - edge) > 1e-8 for edge in known):
            known.add(start)
            new = True
    return new


def boundary_faults(sampler: Guarded, group: Group, c: int, claim: Claim) -> Finding | None:
    """What a sampler does with the smallest and largest coins: a string that the rule can't emit is a finding.

    A string is impossible if its probability is 0 and stays 0 when every target row leans towards the string's token
    by ``TOLERANCE``. Where p and q agree on a token, (p - q)+ is 0 by a hair only: float32 makes it 1e-8, and a coin
    at its end then picks a token that the target wants. A token of target probability 0 has none however rows are
    rounded, and one that q exceeds by more than rounding stays out of the residual. Raises SamplerFault.
    """
    case, (_, rows) = group.cases[c], group.every(c, declared=claim.declares_drafts)
    count = len(rows.tokens)
    possible = {string for string, mass in claim.law(case).items() if mass > 0}
    for u, w in itertools.product((0.0, 2.0**-24, _HIGH), (0.0, 2.0**-24, _HIGH)):
        codes = group.codes(sampler.inject(rows, np.full((count, group.gamma), u), np.full(count, w))[0])
        for row in range(count):
            string = group.string_of(int(codes[row]))
            if string in possible:
                continue
            if not claim.law(_leaning(case, string)).get(string, 0) > 0:
                line = (
                    f"case {case.name}, drafts {rows.tokens[row].tolist()}, uniforms {u!r}, final {w!r}:"
                    f" emitted {list(string)}, which has probability 0"
                )
                return Finding("impossible_at_boundary", line)
            possible.add(string)
    return None


def _leaning(case: Case, string: String) -> Case:
    """The case whose target gives each token of a string a little more of what it gives it."""
    more, target = 1 + Fraction(TOLERANCE), dict(case.target)
    for i, token in enumerate(string):
        weights = [x * more if y == token else x for y, x in enumerate(case.target[string[:i]])]
        target[string[:i]] = [x / sum(weights) for x in weights]
    return replace(case, target=target)


def _intervals(edges: list[float]) -> list[tuple[float, float]]:
    kept = [edges[0]]
    for edge in edges[1:]:
        if edge - kept[-1] > 1e-8:
            kept.append(edge)
    return list(itertools.pairwise([*kept, 1.0]))


def _segments(evaluate: Evaluate, owners: int) -> list[tuple[int, float, float, int]]:
    """Pieces (owner, start, end, value) of step functions on [0, 1), values that come back between grid points
    aside.
    """
    grid_owner = np.repeat(np.arange(owners), len(_GRID))
    values = evaluate(grid_owner, np.tile(_GRID, owners)).reshape(owners, len(_GRID))
    starts: list[list[tuple[float, int]]] = [[(0.0, int(values[o, 0]))] for o in range(owners)]
    where = np.argwhere(values[:, 1:] != values[:, :-1])
    owner, left = where[:, 0], _GRID[where[:, 1]].copy()
    goal, left_value = _GRID[where[:, 1] + 1].copy(), values[where[:, 0], where[:, 1]]
    goal_value = values[where[:, 0], where[:, 1] + 1]
    for _ in range(64):
        if not len(owner):
            break
        low, high, high_value = left.copy(), goal.copy(), goal_value.copy()
        for _ in range(_BISECTIONS):
            middle = (low + high) / 2
            value = evaluate(owner, middle)
            same = value == left_value
            low, high = np.where(same, middle, low), np.where(same, high, middle)
            high_value = np.where(same, high_value, value)
        for o, edge, reached in zip(owner.tolist(), high.tolist(), high_value.tolist(), strict=True):
            starts[o].append((edge, reached))
        more = high_value != goal_value
        owner, left, goal = owner[more], high[more], goal[more]
        left_value, goal_value = high_value[more], goal_value[more]
    else:
        raise SamplerFault(Finding("not_a_step_function", "the sampler isn't a step function of its coins", "stops"))
    pieces = []
    for o, found in enumerate(starts):
        found.sort()
        for (start, held), end in zip(found, [*(edge for edge, _ in found[1:]), 1.0], strict=True):
            pieces.append((o, start, end, held))
    return pieces
