"""Judge a whole engine over several rounds: its own drafter, its own random numbers, its own state."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.verification import statistics
from specsim.verification.batched import Ints, block
from specsim.verification.case import Case, String, random_case, target_law
from specsim.verification.engine import Engine, PenalisedEngine, ReferenceEngine, Rollout, penalised_case
from specsim.verification.exact import exact_law
from specsim.verification.guarded import Guarded, SamplerFault, numbers, whole
from specsim.verification.oracle import SamplerRejected
from specsim.verification.verdict import Finding, Verdict, Witness

_TESTS = 4
"""Statistical tests of one run: text, neighbours, declared drafts, first round."""


def pipeline_case(*, gamma: int = 2, length: int = 4, eos: int | None = None, seed: int = 5) -> Case:
    """A case of three tokens with laws deep enough for texts of ``length`` tokens, different at every prefix."""
    made = random_case(np.random.default_rng(seed), vocab=3, gamma=gamma, depth=length + gamma)
    if eos is None:
        return made
    kept = {s: row for s, row in made.target.items() if eos not in s}
    return Case(kept, {s: row for s, row in made.draft.items() if eos not in s}, gamma, eos, "with an end of text")


def check_pipeline(
    engine: Engine,
    case: Case | None = None,
    *,
    length: int = 4,
    algorithm: str | None = None,
    rows: int | None = None,
    alpha: float = 1e-9,
    detect_tv: float = 0.02,
    power: float = 0.99,
    budget_s: float = 120.0,
    seed: int = 0,
    **options: Any,
) -> Verdict:
    """Judge ``engine(case, n, rng) -> Rollout`` (or tokens [n, L] alone) on texts of ``length`` tokens.

    Tested: the law of the first ``length`` tokens is the target's (random numbers used twice, state carried
    wrongly between rounds, ends and cuts show here and not in one round); neighbouring rows are independent; drafts
    have the law that is declared for them; reported counts add up to the tokens; the first round has the law of
    ``algorithm`` where one is named. Rows default to what detects ``detect_tv`` in the text's law.
    """
    case = pipeline_case(length=length) if case is None else case
    if case.depth < length:
        raise InputError(f"has laws for prefixes of {case.depth} tokens; {length} are needed", field=case.name)
    law = target_law(case, length)
    alpha_each = alpha / _TESTS
    degrees = sum(1 for mass in law.values() if mass > 0) - 1
    rows = statistics.rows_needed(max(degrees, 1), alpha_each, power, detect_tv) if rows is None else rows
    claim = f"texts of {length} tokens have the target's law over several rounds"
    verdict = Verdict("consistent", claim, alpha=alpha, power=power, rows=rows, levels=("pipeline",))
    guarded = Guarded(engine, budget_s=budget_s)
    try:
        rollout = _rollout(guarded.call(case, rows, np.random.default_rng(seed)), rows, length, case)
    except SamplerFault as fault:
        status = "inconclusive" if fault.finding.weight == "stops" else "rejected"
        return replace(verdict, status=status, findings=(fault.finding,), error=fault.__cause__)  # type: ignore[arg-type]
    finally:
        guarded.close()
    findings, witness, p_values = list(_bookkeeping(rollout, case)), None, []
    for name, what, counts, expected in _tests(rollout, case, law, algorithm, options):
        fit = statistics.fit(counts, expected)
        p_values.append(fit.p_value)
        if fit.p_value <= alpha_each:
            string, seen, wanted, z = fit.worst or ((), 0.0, 0.0, 0.0)
            findings.append(Finding(name, f"{what}: p = {fit.p_value:.2g}"))
            witness = witness or Witness(
                case.name, string[:-1], string[-1] if string else -1, seen, wanted, z, "follows"
            )
    fitted = statistics.detectable(max(degrees, 1), alpha_each, power, rows)
    return replace(
        verdict,
        status="rejected" if findings else "consistent",
        findings=tuple(findings),
        witness=witness,
        p_value=min([1.0, *(p * len(p_values) for p in p_values)]),
        min_detectable_tv=fitted,
    )


def assert_pipeline(engine: Engine, case: Case | None = None, **arguments: Any) -> Verdict:
    """Raise SamplerRejected unless ``check_pipeline`` finds the engine consistent."""
    verdict = check_pipeline(engine, case, **arguments)
    if not verdict.passed:
        raise SamplerRejected(verdict) from verdict.error
    return verdict


def controls(length: int = 4) -> Iterator[tuple[str, Callable[..., Any], Case]]:
    """Broken engines with a case that shows each: negative controls of ``check_pipeline``."""
    plain, ended = pipeline_case(length=length), pipeline_case(length=length, eos=2)
    for fault in (
        "drafts by argmax",
        "shared noise",
        "rows share coins",
        "neighbours share coins",
        "stale context",
        "draft at another temperature",
        "lost bonus",
        "counts rejected",
    ):
        yield fault, ReferenceEngine(length, fault=fault), plain
    yield "coins by position", ReferenceEngine(length, sampler=block, fault="coins by position"), plain
    yield "goes on after the end", ReferenceEngine(length, fault="goes on after the end"), ended
    for fault in ("last accepted only", "rejected counted", "penalty ignored"):
        yield fault, PenalisedEngine(length, fault=fault), penalised_case(2, length)


def _rollout(answer: Any, rows: int, length: int, case: Case) -> Rollout:
    """The answer as whole numbers and laws of the right shapes; raises SamplerFault where it isn't."""
    told = answer if isinstance(answer, Rollout) else Rollout(answer)
    tokens = numbers("tokens", told.tokens, (rows, None))
    if tokens.shape[1] < length:
        line = f"returned tokens {tokens.shape}, expected ({rows}, {length}) or longer"
        raise SamplerFault(Finding("wrong_shape", line, "stops"))
    tokens = whole("tokens", tokens[:, :length])
    if (tokens >= case.vocab).any() or (tokens < -1).any():
        raise SamplerFault(Finding("out_of_vocabulary", f"tokens outside 0..{case.vocab - 1}"))
    missing = (tokens < 0).any(axis=1)
    if case.eos is None and missing.any():
        raise SamplerFault(Finding("too_short", f"row {int(missing.argmax())} has fewer than {length} tokens", "stops"))
    counts = drafts = laws = None
    if told.counts is not None:
        counts = whole("counts", numbers("counts", told.counts, (rows, None)))
        if (counts < 0).any() or not counts.shape[1]:
            raise SamplerFault(Finding("counts_do_not_add_up", "negative counts, or none"))
    if told.drafts is not None:
        drafts = whole("drafts", numbers("drafts", told.drafts, (rows, None, case.gamma)))
        if (drafts[:, :1] >= case.vocab).any() or (drafts[:, :1] < 0).any():
            raise SamplerFault(Finding("drafts_out_of_vocabulary", f"first drafts outside 0..{case.vocab - 1}"))
    if told.draft_probs is not None:
        laws = numbers("draft_probs", told.draft_probs, (rows, None, case.gamma, case.vocab))
        first = laws[:, :1]
        off = ~(first >= 0).all(axis=3) | ~(np.abs(first.sum(axis=3) - 1.0) <= _SUM_OFF)
        if off.any():
            row = int(np.argwhere(off)[0][0])
            line = f"the law declared for a first draft of row {row} is {first[row, 0].tolist()}"
            raise SamplerFault(Finding("declared_law_is_no_law", line))
    return Rollout(tokens, counts, drafts, laws)


_SUM_OFF = 0.01
"""How far a declared law's sum may be from 1: half precision stays inside."""


def _bookkeeping(rollout: Rollout, case: Case) -> Iterator[Finding]:
    tokens = rollout.tokens
    if case.eos is not None:
        after = np.cumsum(tokens == case.eos, axis=1) - (tokens == case.eos)
        if ((after > 0) & (tokens >= 0)).any():
            yield Finding("continues_after_end", "tokens follow the end of a text")
    if rollout.counts is not None and case.eos is None:
        emitted = rollout.counts.sum(axis=1)
        width = tokens.shape[1]
        most = width + case.gamma
        if (emitted < width).any() or (emitted > most).any():
            row = int(((emitted < width) | (emitted > most)).argmax())
            yield Finding(
                "counts_do_not_add_up", f"row {row} reports {int(emitted[row])} tokens for {width} to {most} emitted"
            )


def _tests(
    rollout: Rollout, case: Case, law: dict[String, Any], algorithm: str | None, options: dict[str, Any]
) -> Iterator[tuple[str, str, dict[String, int], dict[String, Any]]]:
    yield "wrong_text_law", "law of the text", _strings(rollout.tokens), law
    first = rollout.tokens[:, 0]
    pairs = np.stack([first[:-1], first[1:]], axis=1)[::2]
    seen = np.bincount(np.maximum(first, 0), minlength=case.vocab) / len(first)  # observed: the law is judged above
    rows = {x: float(mass) for x, mass in enumerate(seen) if mass > 0}
    product: dict[String, Any] = {(a, b): rows[a] * rows[b] for a, b in itertools.product(rows, rows)}
    if (first >= 0).all():
        yield "rows_depend_on_each_other", "first tokens of neighbouring rows", _strings(pairs), product
    if rollout.drafts is not None and rollout.draft_probs is not None and case.gamma:
        declared = rollout.draft_probs[:, 0].mean(axis=0)  # round 1: one context, so one row for the first draft
        chances: dict[String, Any] = {(x,): float(mass) for x, mass in enumerate(declared[0])}
        counts: dict[String, int] = dict(Counter((int(x),) for x in rollout.drafts[:, 0, 0]))
        yield "drafts_not_as_declared", "first draft against its declared law", counts, chances
    if algorithm is not None and rollout.counts is not None:
        width = min(case.gamma + 1, rollout.tokens.shape[1])
        emitted = rollout.counts[:, 0]
        shown = np.where(np.arange(width) < emitted[:, None], rollout.tokens[:, :width], -1)
        yield (
            "wrong_round_law",
            f"first round against {algorithm!r}",
            _strings(shown),
            exact_law(algorithm, case, **options),
        )


def _strings(tokens: Ints) -> dict[String, int]:
    """How often each row occurs, without its -1."""
    found, times = np.unique(tokens, axis=0, return_counts=True) if len(tokens) < 5_000 else _by_code(tokens)
    return {tuple(int(x) for x in row if x >= 0): int(n) for row, n in zip(found, times, strict=True)}


def _by_code(tokens: Ints) -> tuple[Sequence[Any], Sequence[Any]]:
    base = int(tokens.max()) + 2
    code = (tokens + 1) @ base ** np.arange(tokens.shape[1])
    _, first, times = np.unique(code, return_index=True, return_counts=True)
    return list(tokens[first]), list(times)
