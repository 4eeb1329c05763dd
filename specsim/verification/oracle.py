"""Judge a sampler: is what it emits the law of the rule it claims, or at least the target's law?"""

from __future__ import annotations

import inspect
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np

from specsim.verification.arguments import (
    check_callable,
    check_cases,
    check_choice,
    check_claim,
    check_seconds,
    check_share,
    check_whole,
)
from specsim.verification.case import Case
from specsim.verification.chains import ChainRule, rule_name
from specsim.verification.changed_rows import WIDE, changed_rows_findings, ragged_findings
from specsim.verification.claim import Claim, Trial
from specsim.verification.deadline import OutOfTime, within
from specsim.verification.diagnosis import comparable, diagnosed
from specsim.verification.exact import exact_law
from specsim.verification.guarded import Guarded, SamplerFault
from specsim.verification.hostile import hostile_findings
from specsim.verification.interception import intercepted
from specsim.verification.metamorphic import coin_findings
from specsim.verification.mutants import controls_of
from specsim.verification.parameters import BY_TOKEN, check_by_token
from specsim.verification.sampling import Counted, sampled, topped_up
from specsim.verification.small_batches import small_batch_findings
from specsim.verification.suite import is_small, standard_cases
from specsim.verification.verdict import Finding, Range, Verdict

Level = Literal["auto", "interception", "statistical", "anytime", "metamorphic", "ragged", "hostile"]


def check_sampler(
    sampler: Callable[..., Any],
    algorithm: str | ChainRule | None = "token",
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
    takes: Literal["probabilities", "logits"] = "probabilities",
    **options: Any,
) -> Verdict:
    """Judge ``sampler(target_probs, draft_probs, draft_tokens, rng) -> (tokens, counts)``; see ``batched`` for shapes.

    ``algorithm`` is a chain rule of ``exact_law``, by name or as ``rule(p, q, drafts, coins) -> Stop``, with its
    parameters as ``options``, or None for losslessness alone.
    ``level``: "auto" intercepts where the sampler has ``inject``, tests the joint law of counts and tokens until a
    total variation of ``detect_tv`` in any case is detected with probability ``power`` at a false alarm of ``alpha``
    for the whole suite, and tries the metamorphic relations; "anytime" tests with e-values and stops as soon as it
    knows; the others are one level alone: "ragged" judges rows with fewer drafts than their batch (-1 where absent),
    "hostile" tries rows that are no laws. ``budget_s`` bounds the seconds of the whole check, its laws and controls
    included. ``arrays="torch"`` hands it tensors and a torch Generator, ``takes="logits"`` logarithms of the
    probabilities. Raises InputError for a wrong argument, never for what the sampler does.
    """
    check_callable(sampler, "sampler")
    check_claim(algorithm, options, check_sampler)
    check_share(alpha=alpha, detect_tv=detect_tv, power=power)
    check_seconds(budget_s=budget_s)
    check_whole(1, max_rows=max_rows)
    check_whole(0, seed=seed)
    check_choice(level, get_args(Level), "level")
    check_choice(arrays, ("numpy", "torch"), "arrays")
    check_choice(takes, ("probabilities", "logits"), "takes")
    suite = _suite(cases, options)
    trial = Trial(Claim(algorithm, options), suite, alpha, detect_tv, power, max_rows, budget_s, seed)
    guarded = Guarded(sampler, budget_s=budget_s, arrays=arrays, takes=takes)
    so_far = _SoFar(Verdict("consistent", trial.claim.at(level), alpha=alpha, power=power))
    try:
        verdict = within(budget_s + _GRACE_S, lambda: _judged(trial, guarded, level, so_far))
    except OutOfTime:
        verdict = so_far.out_of_time(budget_s)
    except SamplerFault as fault:
        status: Literal["rejected", "inconclusive"] = "inconclusive" if fault.finding.weight == "stops" else "rejected"
        claim = trial.claim.at(level)
        verdict = Verdict(status, claim, (fault.finding,), alpha=alpha, power=power, error=fault.__cause__)
    finally:
        guarded.close()
    asked = {
        "level": level,
        "alpha": alpha,
        "detect_tv": detect_tv,
        "power": power,
        "max_rows": max_rows,
        "budget_s": budget_s,
        "arrays": arrays,
        "takes": takes,
    }
    return _repeatable(verdict, trial, asked, own_cases=cases is not None)


def _repeatable(verdict: Verdict, trial: Trial, asked: Mapping[str, Any], *, own_cases: bool) -> Verdict:
    """The verdict with the call that gives it again, and the rows that its witness was seen on."""
    defaults = inspect.signature(check_sampler).parameters
    given = {name: value for name, value in asked.items() if value != defaults[name].default}
    named = {**given, "seed": trial.seed, **trial.claim.options}
    algorithm = trial.claim.algorithm
    rule = rule_name(algorithm) if callable(algorithm) else repr(algorithm)
    told = [rule, *(["cases=cases"] if own_cases else []), *(f"{name}={value!r}" for name, value in named.items())]
    verdict = replace(verdict, seed=trial.seed, call=f"check_sampler(sampler, {', '.join(told)})")
    case = next((c for c in trial.suite if verdict.witness is not None and c.name == verdict.witness.case), None)
    if verdict.witness is None or case is None:
        return verdict
    string = (*verdict.witness.prefix, verdict.witness.token)
    prefixes = [string[:i] for i in range(len(string))]
    target, draft = (
        tuple(tuple(float(x) for x in table[s]) for s in prefixes if s in table) for table in (case.target, case.draft)
    )
    return replace(verdict, witness=replace(verdict.witness, target=target, draft=draft[: case.gamma]))


_GRACE_S = 0.5
"""Seconds after the budget in which a sampler that used it up is still found to be the cause."""


@dataclass
class _SoFar:
    """What a check is doing, and the verdict that it has reached."""

    verdict: Verdict
    doing: str = "the claim's exact law"

    def out_of_time(self, budget_s: float) -> Verdict:
        """The verdict where the time is up: a rejection stands, whatever was still being done."""
        verdict, line = self.verdict, f"the budget of {budget_s:g} s was spent before this was done: {self.doing}"
        if verdict.status == "rejected":
            return replace(verdict, findings=(*verdict.findings, Finding("time_budget", line, "note")))
        line += "; give cases of fewer tokens or drafts, raise budget_s or detect_tv"
        finding = Finding("time_budget", line, "stops")
        return replace(verdict, status="inconclusive", findings=(*verdict.findings, finding))


class SamplerRejected(AssertionError):  # noqa: N818 - an assertion that failed
    """A sampler isn't what it claims, or that couldn't be decided; ``verdict`` says which."""

    def __init__(self, verdict: Verdict) -> None:
        super().__init__(str(verdict))
        self.verdict = verdict


def assert_lossless(sampler: Callable[..., Any], **arguments: Any) -> Verdict:
    """Raise SamplerRejected unless the completed text has the target's law; arguments as for ``check_sampler``."""
    __tracebackhide__ = True
    return _asserted(check_sampler(sampler, None, **arguments))


def assert_law(sampler: Callable[..., Any], algorithm: str | ChainRule, **arguments: Any) -> Verdict:
    """Raise SamplerRejected unless counts and tokens have the declared rule's joint law: slow but lossless fails
    too.
    """
    __tracebackhide__ = True
    return _asserted(check_sampler(sampler, algorithm, **arguments))


def _asserted(verdict: Verdict) -> Verdict:
    __tracebackhide__ = True  # a test's failure shows the test and the verdict
    if not verdict.passed:
        raise SamplerRejected(verdict) from verdict.error
    return verdict


def _suite(cases: Sequence[Case] | None, options: Mapping[str, Any]) -> tuple[Case, ...]:
    """The cases to judge on; of the standard ones those whose vocabulary the options by token cover."""
    suite = check_cases(standard_cases() if cases is None else cases)
    if cases is None:
        sizes = {len(options[name]) for name in BY_TOKEN if name in options}
        suite = tuple(case for case in suite if all(case.vocab <= size for size in sizes)) or suite
    for case in suite:
        check_by_token(options, case.vocab, f"case {case.name!r}")
    return suite


def _judged(trial: Trial, sampler: Guarded, level: Level, so_far: _SoFar) -> Verdict:
    verdict = so_far.verdict
    if level == "interception" and not sampler.can_inject:
        finding = Finding("not_injectable", "interception needs sampler.inject(...); see batched.Sampler", "stops")
        return replace(verdict, status="inconclusive", findings=(finding,))
    if level != "hostile":
        assert trial.laws  # what takes longest on a wide vocabulary comes first
    rng = np.random.default_rng(trial.seed)

    def now(doing: str) -> bool:
        so_far.verdict, so_far.doing = verdict, doing
        return verdict.passed

    if level in ("auto", "metamorphic") and now("metamorphic relations"):
        verdict = _with(verdict, "metamorphic", coin_findings(trial, sampler, rng))
    if level == "ragged" and now("rows of different lengths"):
        verdict = _with(verdict, level, list(ragged_findings(trial, sampler, rng)))
    if level == "hostile" and now("rows that are no laws"):
        verdict = _with(verdict, level, list(hostile_findings(trial, sampler, rng)))
    if level in ("auto", "interception") and sampler.can_inject and now("interception"):
        verdict = intercepted(trial, sampler, verdict)
    if level in ("auto", "statistical", "anytime") and now("rows of the statistical test"):
        anytime = level == "anytime"
        verdict, counted = sampled(trial, sampler, rng, verdict, anytime=anytime)
        if verdict.status == "rejected":
            now("the likeliest cause")
            return _explained(trial, topped_up(trial, sampler, counted, rng), verdict)
        if now("broken samplers, which a pass must reject"):
            verdict = _controlled(trial, verdict, anytime=anytime)
    if level in ("auto", "metamorphic") and now("changed rows"):  # last: a wrong law has a better witness than these
        verdict = _with(verdict, "changed rows", list(changed_rows_findings(trial, sampler, rng)))
        if now("small batches"):
            verdict = _with(verdict, "small batches", list(small_batch_findings(trial, sampler, rng)))
    return replace(verdict, covered=_covered(trial, level))


def _covered(trial: Trial, level: Level) -> Range:
    cases = [case for case in trial.suite if level != "interception" or is_small(case)] or list(trial.suite)
    tokens, drafts = [case.vocab for case in cases], [case.gamma for case in cases]
    relabels = level in ("auto", "metamorphic") and not any(name in BY_TOKEN for name in trial.claim.options)
    return Range(
        (min(tokens), max(tokens)),
        (min(drafts), max(drafts)),
        max(*tokens, WIDE if relabels else 0),
        min((float(x) for case in cases for row in case.draft.values() for x in row if x > 0), default=1.0),
    )


def _with(verdict: Verdict, level: str, found: Sequence[Finding]) -> Verdict:
    """The verdict after one more level and what it found, each name once."""
    found = list({finding.name: finding for finding in reversed(found)}.values())[::-1]
    verdict = replace(verdict, findings=(*verdict.findings, *found), levels=(*verdict.levels, level))
    if any(finding.weight == "rejects" for finding in found):
        return replace(verdict, status="rejected")
    return replace(verdict, status="inconclusive") if any(f.weight == "stops" for f in found) else verdict


def _explained(trial: Trial, counted: Counted, verdict: Verdict) -> Verdict:
    """The rejection with what is known of its cause; none is looked for where the case that shows it is large."""
    small = [(g, c, case) for g, c, case in counted.cases() if comparable(case)]
    cases = [case for _, _, case in small]
    if verdict.witness is None or verdict.witness.case not in {case.name for case in cases}:
        return verdict
    counts = [counted.strings(g, c) for g, c, _ in small]
    members = [[case for g2, _, case in small if g2 == g] for g in dict.fromkeys(g for g, _, _ in small)]
    found = diagnosed(counts, cases, trial.claim, members)
    return replace(verdict, causes=found.causes, explanation=found.line)


def _controlled(trial: Trial, verdict: Verdict, *, anytime: bool) -> Verdict:
    """Broken samplers at the same budget: those whose law is off by ``detect_tv`` here must be rejected."""
    claim = trial.claim
    again = replace(trial, seed=trial.seed + 1, budget_s=max(trial.budget_s, 60.0), started=time.monotonic())
    rejected: list[str] = []
    for mutant in controls_of(None if claim.algorithm is None else rule_name(claim.algorithm)):
        off = max(claim.distance(exact_law(mutant.rule, c.floats()), trial.laws[c.name], c) for c in trial.suite)
        if off < trial.detect_tv:
            continue
        again = replace(again, detect_tv=max(trial.detect_tv, off / 2))  # fewer rows than the budget's suffice
        guarded = Guarded(mutant.sampler(), budget_s=again.budget_s)
        blank = Verdict("consistent", claim.line, alpha=trial.alpha, power=trial.power)
        outcome, _ = sampled(again, guarded, np.random.default_rng(again.seed), blank, anytime=anytime)
        guarded.close()
        if outcome.status != "rejected":
            line = f"the broken sampler {mutant.name!r} was not rejected at this budget"
            finding = Finding("control_survived", line, "stops")
            return replace(verdict, status="inconclusive", findings=(*verdict.findings, finding))
        rejected.append(mutant.name)
    if not rejected:
        finding = Finding("no_controls", "no known broken sampler is visible on these cases", "note")
        return replace(verdict, findings=(*verdict.findings, finding))
    return replace(verdict, controls=tuple(rejected))
