"""Judge a sampler: is what it emits the law of the rule it claims, or at least the target's law?"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from specsim.errors import InputError
from specsim.verification import mutants, statistics
from specsim.verification.case import Case, String, complete, expected_tokens, target_law, tv
from specsim.verification.diagnosis import likeliest
from specsim.verification.exact import CHAIN_RULES, exact_law, unknown_algorithm
from specsim.verification.guarded import Guarded, SamplerFault
from specsim.verification.interception import TOLERANCE, boundary_faults, intercepted_law
from specsim.verification.metamorphic import metamorphic_findings
from specsim.verification.statistics import Fit
from specsim.verification.suite import Group, groups, standard_cases
from specsim.verification.verdict import Finding, Verdict, Witness

Level = Literal["auto", "interception", "statistical", "anytime", "metamorphic"]
Law = Mapping[String, Any]

_LOOKS = 4
"""Early, with the rows that the claimed law needs, and twice topped up where the counts show that more are needed."""

_FIRST_LOOK = 4_000
"""Rows a case of the first look, which ends the check early for most broken samplers."""


@dataclass(frozen=True)
class Claim:
    """What is claimed: the law of a rule (with its parameters), or only that the text has the target's law."""

    algorithm: str | None
    options: Mapping[str, Any]

    @property
    def line(self) -> str:
        """The claim in words."""
        if self.algorithm is None:
            return "the completed text has the target's law"
        bound = "".join(f", {name} = {value}" for name, value in self.options.items())
        return f"tokens and counts have the law of the {self.algorithm!r} rule{bound}"

    def law(self, case: Case) -> dict[String, Any]:
        """Law of the emitted strings on a case; for a lossless claim, that of token verification, for sizes only."""
        return exact_law(self.algorithm or "token", case, **self.options)


def check_sampler(
    sampler: Callable[..., Any],
    algorithm: str | None = "token",
    *,
    cases: Sequence[Case] | None = None,
    level: Level = "auto",
    alpha: float = 1e-9,
    detect_tv: float = 0.01,
    power: float = 0.99,
    max_rows: int = 20_000_000,
    budget_s: float = 120.0,
    seed: int = 0,
    arrays: Literal["numpy", "torch"] = "numpy",
    **options: Any,
) -> Verdict:
    """Judge ``sampler(target_probs, draft_probs, draft_tokens, rng) -> (tokens, counts)``; see ``batched`` for shapes.

    ``algorithm`` is a chain rule of ``exact_law`` with its parameters as ``options``, or None for losslessness alone.
    ``level``: "auto" intercepts where the sampler has ``inject``, tests the joint law of counts and tokens until a
    total variation of ``detect_tv`` in any case is detected with probability ``power`` at a false alarm of ``alpha``
    for the whole suite, and tries the metamorphic relations; "anytime" tests with e-values and stops as soon as it
    knows; the others are one level alone. ``budget_s`` bounds the seconds spent in the sampler. ``arrays="torch"``
    hands it tensors and a torch Generator. Raises InputError for a wrong argument, never for what the sampler does.
    """
    _check_arguments(algorithm, alpha, detect_tv, power, level, arrays)
    claim = Claim(algorithm, options)
    suite = tuple(standard_cases() if cases is None else cases)
    if not suite:
        raise InputError("give at least one case", field="cases")
    inspection = _Inspection(claim, suite, alpha, detect_tv, power, max_rows, budget_s, seed)
    guarded = Guarded(sampler, budget_s=budget_s, arrays=arrays)
    try:
        return inspection.run(guarded, level)
    except SamplerFault as fault:
        status: Literal["rejected", "inconclusive"] = "inconclusive" if fault.finding.weight == "stops" else "rejected"
        return Verdict(status, claim.line, (fault.finding,), alpha=alpha, power=power)
    finally:
        guarded.close()


class SamplerRejected(AssertionError):  # noqa: N818 - an assertion that failed
    """A sampler isn't what it claims, or that couldn't be decided; ``verdict`` says which."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


def assert_lossless(sampler: Callable[..., Any], **arguments: Any) -> Verdict:
    """Raise SamplerRejected unless the completed text has the target's law; arguments as for ``check_sampler``."""
    return _asserted(check_sampler(sampler, None, **arguments))


def assert_law(sampler: Callable[..., Any], algorithm: str, **arguments: Any) -> Verdict:
    """Raise SamplerRejected unless counts and tokens have the declared rule's joint law: slow but lossless fails
    too.
    """
    return _asserted(check_sampler(sampler, algorithm, **arguments))


def _asserted(verdict: Verdict) -> Verdict:
    if not verdict.passed:
        raise SamplerRejected(verdict)
    return verdict


def _check_arguments(
    algorithm: str | None, alpha: float, detect_tv: float, power: float, level: str, arrays: str
) -> None:
    if algorithm is not None and algorithm not in CHAIN_RULES:
        raise unknown_algorithm(algorithm, list(CHAIN_RULES))
    for name, value in (("alpha", alpha), ("detect_tv", detect_tv), ("power", power)):
        if not 0.0 < value < 1.0:
            raise InputError(f"{value}: must be between 0 and 1", field=name)
    if level not in ("auto", "interception", "statistical", "anytime", "metamorphic"):
        raise InputError(f"{level!r}: give auto, interception, statistical, anytime or metamorphic", field="level")
    if arrays not in ("numpy", "torch"):
        raise InputError(f"{arrays!r}: give numpy or torch", field="arrays")


@dataclass(frozen=True)
class Counted:
    """Rows that were run and what came out, by group and case."""

    groups: tuple[Group, ...]
    counts: list[np.ndarray]

    def rows(self, g: int, c: int) -> int:
        """Rows of a case."""
        return int(self.counts[g][c].sum())

    def strings(self, g: int, c: int) -> dict[String, int]:
        """Emitted strings of a case with their numbers."""
        row = self.counts[g][c]
        return {self.groups[g].string_of(int(code)): int(row[code]) for code in np.flatnonzero(row)}

    @property
    def total(self) -> int:
        """Rows in all."""
        return int(sum(count.sum() for count in self.counts))


@dataclass(frozen=True)
class _Inspection:
    """One claim, one suite, one budget."""

    claim: Claim
    suite: tuple[Case, ...]
    alpha: float
    detect_tv: float
    power: float
    max_rows: int
    budget_s: float
    seed: int

    @property
    def declared(self) -> bool:
        return self.claim.algorithm != "point_mass"

    @property
    def _event(self) -> Literal["emits exactly", "follows"]:
        return "follows" if self.claim.algorithm is None else "emits exactly"

    @property
    def alpha_each(self) -> float:
        """False alarm of one test: every case is looked at up to ``_LOOKS`` times."""
        return self.alpha / (_LOOKS * len(self.suite))

    def run(self, sampler: Guarded, level: Level) -> Verdict:
        laws = {case.name: self.claim.law(case) for case in self.suite}
        parts = tuple(groups(self.suite))
        verdict = Verdict("consistent", self.claim.line, alpha=self.alpha, power=self.power)
        if level == "interception" and not sampler.can_inject:
            finding = Finding("not_injectable", "interception needs sampler.inject(...); see batched.Sampler", "stops")
            return replace(verdict, status="inconclusive", findings=(finding,))
        rng = np.random.default_rng(self.seed)
        if level in ("auto", "metamorphic"):
            verdict = self._metamorphic(sampler, parts, rng, verdict)
        if level in ("auto", "interception") and sampler.can_inject and verdict.passed:
            verdict = self._intercepted(sampler, parts, laws, verdict)
        if level in ("auto", "statistical", "anytime") and verdict.passed:
            verdict = self._statistical(sampler, parts, laws, rng, verdict, anytime=level == "anytime")
            if verdict.passed:
                verdict = self._controlled(parts, laws, verdict, anytime=level == "anytime")
        return verdict

    def _metamorphic(
        self, sampler: Guarded, parts: tuple[Group, ...], rng: np.random.Generator, verdict: Verdict
    ) -> Verdict:
        found: list[Finding] = []
        for group in parts:
            found += metamorphic_findings(
                sampler, group, rng, declared=self.declared, random=self.claim.algorithm not in _WITHOUT_COINS
            )
        times = Counter(finding.name for finding in found)
        found = list({finding.name: finding for finding in found}.values())
        found = [finding for finding in found if finding.name != "seed_ignored" or times["seed_ignored"] == len(parts)]
        verdict = replace(verdict, findings=(*verdict.findings, *found), levels=(*verdict.levels, "metamorphic"))
        if any(finding.weight == "rejects" for finding in found):
            return replace(verdict, status="rejected")
        return replace(verdict, status="inconclusive") if any(f.weight == "stops" for f in found) else verdict

    def _intercepted(
        self, sampler: Guarded, parts: tuple[Group, ...], laws: Mapping[str, Law], verdict: Verdict
    ) -> Verdict:
        worst = 0.0
        verdict = replace(verdict, levels=(*verdict.levels, "interception"))
        for group in parts:
            for c, case in enumerate(group.cases if group.gamma <= 2 else ()):
                law = intercepted_law(sampler, group, c, declared=self.declared)
                excess, witness = self._deviation(law, laws[case.name], case)
                worst = max(worst, excess)
                if excess > TOLERANCE:
                    findings = (
                        Finding("wrong_law", f"total variation {excess:.3g} on case {case.name}, by interception"),
                    )
                    counts = [{string: max(round(1e6 * mass), 0) for string, mass in law.items()}]
                    cause = likeliest(counts, [case], claimed=self._declared([case]), groups=[[case]])
                    return replace(
                        verdict,
                        status="rejected",
                        findings=(*verdict.findings, *findings),
                        witness=witness,
                        explanation=cause,
                        details={"interception_tv": excess},
                    )
                if self.claim.algorithm is not None:
                    fault = boundary_faults(sampler, group, c, dict(laws[case.name]), declared=self.declared)
                    if fault is not None:
                        return replace(verdict, status="rejected", findings=(*verdict.findings, fault))
        return replace(verdict, details={**verdict.details, "interception_tv": worst}, min_detectable_tv=TOLERANCE)

    def _deviation(self, law: Mapping[String, float], claimed: Law, case: Case) -> tuple[float, Witness]:
        if self.claim.algorithm is None:
            law, claimed = complete(law, case.floats()), target_law(case.floats(), case.gamma + 1)
        off = max({*law, *claimed}, key=lambda s: abs(law.get(s, 0.0) - float(claimed.get(s, 0))))
        seen, wanted = law.get(off, 0.0), float(claimed.get(off, 0))
        witness = Witness(
            case.name,
            off[:-1],
            off[-1] if off else -1,
            seen,
            wanted,
            math.copysign(math.inf, seen - wanted),
            self._event,
        )
        return float(tv(law, {s: float(mass) for s, mass in claimed.items()})), witness

    def _wanted(self, laws: Mapping[str, Law], case: Case, anytime: bool) -> int:  # noqa: FBT001
        """Rows that detect ``detect_tv`` on a case."""
        degrees, tokens = self._size(laws[case.name], case)
        if anytime:
            return statistics.evidence_rows(degrees + 1, self.alpha / len(self.suite), self.detect_tv)
        return statistics.rows_needed(max(degrees, 1), self.alpha_each, self.power, self.detect_tv, tokens=tokens)

    def _size(self, law: Law, case: Case) -> tuple[int, float]:
        if self.claim.algorithm is not None:
            return sum(1 for mass in law.values() if mass > 0) - 1, 1.0
        prefixes = {string[:j] for string, mass in law.items() if mass > 0 for j in range(len(string))}
        return sum(sum(1 for x in case.target[s] if x > 0) - 1 for s in prefixes), float(expected_tokens(law))

    def _statistical(
        self,
        sampler: Guarded,
        parts: tuple[Group, ...],
        laws: Mapping[str, Law],
        rng: np.random.Generator,
        verdict: Verdict,
        *,
        anytime: bool,
    ) -> Verdict:
        wanted = [np.array([self._wanted(laws, case, anytime) for case in group.cases]) for group in parts]
        over = sum(int(rows.sum()) for rows in wanted) / self.max_rows
        if over > 1:
            wanted = [np.floor(rows / over).astype(np.int64) for rows in wanted]
        counted = Counted(parts, [np.zeros((len(group.cases), group.code_space), dtype=np.int64) for group in parts])
        verdict = replace(verdict, levels=(*verdict.levels, "anytime" if anytime else "statistical"))
        limit = time.monotonic() + 0.8 * self.budget_s
        shares = [0.02, *np.linspace(0.1, 1.2, 12)] if anytime else [None, 1.0, 1.2, 1.5]
        for share in shares:
            goals = [np.minimum(rows, _FIRST_LOOK) if share is None else np.ceil(rows * share) for rows in wanted]
            in_time = self._fill(sampler, counted, goals, rng, limit)
            judged = self._judge_anytime(counted, laws) if anytime else self._judge(counted, laws)
            verdict = replace(verdict, rows=counted.total, **judged)
            if verdict.status == "rejected":
                return self._explained(counted, replace(verdict, min_detectable_tv=None))
            enough = share is not None and (verdict.min_detectable_tv or 1.0) <= self.detect_tv * 1.01
            if not in_time or enough or counted.total >= self.max_rows:
                break
        if (verdict.min_detectable_tv or 1.0) > self.detect_tv * 1.01:
            line = (
                f"{verdict.rows:,} rows detect a total variation of {verdict.min_detectable_tv:.3g}, not"
                f" {self.detect_tv:g};"
                " raise max_rows, budget_s or detect_tv"
            )
            finding = Finding("power_not_reached", line, "stops")
            return replace(verdict, status="inconclusive", findings=(*verdict.findings, finding))
        return verdict

    def _fill(
        self, sampler: Guarded, counted: Counted, goals: Sequence[np.ndarray], rng: np.random.Generator, limit: float
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
                case, batch = group.draw(rows, rng, declared=self.declared)
                start = time.monotonic()
                tokens, _ = sampler(batch, rng)
                spent = time.monotonic() - start
                code = case * group.code_space + group.codes(tokens)
                size = len(group.cases) * group.code_space
                counted.counts[g] += np.bincount(code, minlength=size).reshape(len(group.cases), group.code_space)
                chunk = int(min(200_000, max(1, chunk * min(8.0, 1.0 / max(spent, 1e-3)))))
        return True

    def _each(self, counted: Counted) -> list[tuple[int, int, Case]]:
        return [(g, c, case) for g, group in enumerate(counted.groups) for c, case in enumerate(group.cases)]

    def _judge(self, counted: Counted, laws: Mapping[str, Law]) -> dict[str, Any]:
        fits: list[tuple[Case, Fit]] = []
        blind = 0.0
        for g, c, case in self._each(counted):
            rows, strings = counted.rows(g, c), counted.strings(g, c)
            if not rows:
                blind = 1.0
                continue
            law = laws[case.name]
            fit = statistics.fit(strings, law) if self.claim.algorithm else statistics.fit_innovations(strings, case)
            tokens = 1.0 if self.claim.algorithm else sum(len(s) * n for s, n in strings.items()) / rows
            fits.append((case, fit))
            blind = max(blind, statistics.detectable(fit.degrees, self.alpha_each, self.power, rows, tokens=tokens))
        case, worst = min(fits, key=lambda item: item[1].p_value)
        p_value = min(1.0, worst.p_value * len(fits))
        judged: dict[str, Any] = {"p_value": p_value, "min_detectable_tv": blind, "status": "consistent"}
        if worst.p_value <= self.alpha_each:
            judged |= self._against(case, worst)
        return judged

    def _against(self, case: Case, worst: Fit) -> dict[str, Any]:
        string, observed, expected, z = worst.worst or ((), 0.0, 0.0, 0.0)
        name = "impossible_token" if worst.impossible is not None else "wrong_law"
        line = f"case {case.name}: p = {worst.p_value:.2g} against a false alarm of {self.alpha:g}"
        if worst.impossible is not None:
            line = f"case {case.name}: emitted {list(worst.impossible)}, which has probability 0"
        witness = Witness(case.name, string[:-1], string[-1] if string else -1, observed, expected, z, self._event)
        return {"status": "rejected", "witness": witness, "findings": (Finding(name, line),)}

    def _judge_anytime(self, counted: Counted, laws: Mapping[str, Law]) -> dict[str, Any]:
        evidence, blind = [], 0.0
        each = self._each(counted)
        for g, c, case in each:
            law = laws[case.name]
            strings = counted.strings(g, c)
            if self.claim.algorithm is None:
                evidence.append(_evidence_by_prefix(strings, case))
            else:
                evidence.append(statistics.log_evidence(strings, law))
            degrees, _ = self._size(law, case)
            blind = max(blind, statistics.evidence_detectable(degrees + 1, self.alpha / len(each), counted.rows(g, c)))
        top = int(np.argmax(evidence))
        mean = evidence[top] + math.log(
            sum(math.exp(e - evidence[top]) if e < evidence[top] else 1.0 for e in evidence) / len(each)
        )
        judged: dict[str, Any] = {
            "p_value": min(1.0, math.exp(-mean)) if mean < 700 else 0.0,
            "min_detectable_tv": blind,
            "status": "consistent",
        }
        if mean >= math.log(1 / self.alpha):
            g, c, case = each[top]
            strings = counted.strings(g, c)
            fit = (
                statistics.fit(strings, laws[case.name])
                if self.claim.algorithm
                else statistics.fit_innovations(strings, case)
            )
            judged |= self._against(case, fit)
        return judged

    def _explained(self, counted: Counted, verdict: Verdict) -> Verdict:
        small = [(g, c, case) for g, c, case in self._each(counted) if case.gamma <= 2]
        cases = [case for _, _, case in small]
        counts = [counted.strings(g, c) for g, c, _ in small]
        if not cases:
            return verdict
        members = [[case for g2, _, case in small if g2 == g] for g in dict.fromkeys(g for g, _, _ in small)]
        return replace(verdict, explanation=likeliest(counts, cases, claimed=self._declared(cases), groups=members))

    def _declared(self, cases: Sequence[Case]) -> list[dict[String, Any]] | None:
        return None if self.claim.algorithm is None else [self.claim.law(case) for case in cases]

    def _controlled(
        self, parts: tuple[Group, ...], laws: Mapping[str, Law], verdict: Verdict, *, anytime: bool
    ) -> Verdict:
        """Broken samplers at the same budget: those whose law is off by ``detect_tv`` here must be rejected."""
        names = (
            mutants.LOSSLESS_CONTROLS
            if self.claim.algorithm is None
            else mutants.CONTROLS.get(self.claim.algorithm, ())
        )
        rejected: list[str] = []
        for name in names:
            mutant = next(m for m in mutants.MUTANTS if m.name == name)
            if max(self._off(mutant, case, laws) for case in self.suite) < self.detect_tv:
                continue
            guarded = Guarded(mutant.sampler(), budget_s=max(self.budget_s, 60.0))
            blank = Verdict("consistent", self.claim.line, alpha=self.alpha, power=self.power)
            quiet = replace(self, seed=self.seed + 1)
            outcome = quiet._statistical(
                guarded, parts, laws, np.random.default_rng(quiet.seed), blank, anytime=anytime
            )
            guarded.close()
            if outcome.status != "rejected":
                finding = Finding(
                    "control_survived", f"the broken sampler {name!r} was not rejected at this budget", "stops"
                )
                return replace(verdict, status="inconclusive", findings=(*verdict.findings, finding))
            rejected.append(name)
        if not rejected:
            finding = Finding("no_controls", "no known broken sampler is visible on these cases", "note")
            return replace(verdict, findings=(*verdict.findings, finding))
        return replace(verdict, controls=tuple(rejected))

    def _off(self, mutant: mutants.Mutant, case: Case, laws: Mapping[str, Law]) -> float:
        law = exact_law(mutant.rule, case.floats())
        if self.claim.algorithm is None:
            return float(tv(complete(law, case.floats()), target_law(case.floats(), case.gamma + 1)))
        return float(tv(law, {s: float(mass) for s, mass in laws[case.name].items()}))


def _evidence_by_prefix(counts: Mapping[String, int], case: Case) -> float:
    """Sum of log e-values of the token after each prefix: their product is an e-value, each fair given the past."""
    after: dict[String, dict[String, int]] = {}
    for string, n in counts.items():
        for j in range(len(string)):
            row = after.setdefault(string[:j], {})
            row[(string[j],)] = row.get((string[j],), 0) + n
    return sum(
        statistics.log_evidence(row, {(x,): mass for x, mass in enumerate(case.target[prefix])})
        for prefix, row in after.items()
    )


_WITHOUT_COINS = ("greedy", "biased_argmax", "typical")
