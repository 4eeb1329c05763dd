"""Judge a sampler of several drafts at one position: joint law of the token and of which draft was accepted."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.verification import statistics
from specsim.verification.arguments import check_callable, check_seconds, check_share, check_whole
from specsim.verification.batched import Ints
from specsim.verification.case import Case, Number, random_case
from specsim.verification.coins import Weights, law_of
from specsim.verification.drafting import Drafting
from specsim.verification.exact import unknown_algorithm
from specsim.verification.guarded import Guarded, SamplerFault, numbers, pair_of, unchanged, whole
from specsim.verification.nodes import MATCHING, node_law
from specsim.verification.verdict import Finding, Verdict, Witness

Pair = tuple[Sequence[Number], Sequence[Number]]


def standard_pairs(n: int = 8, *, vocab: int = 4, seed: int = 11) -> list[Pair]:
    """Target and draft rows with exact laws, every other one with tokens of no mass."""
    rng = np.random.default_rng(seed)
    made = [random_case(rng, vocab=vocab, gamma=0, zeros=0.3 * (i % 2)) for i in range(n)]
    return [(case.target[()], case.draft[()]) for case in made]


def check_node_sampler(
    sampler: Callable[..., Any],
    algorithm: str,
    *,
    k: int = 2,
    drafting: Drafting | None = None,
    pairs: Sequence[Pair] | None = None,
    alpha: float = 1e-9,
    detect_tv: float = 0.01,
    power: float = 0.99,
    budget_s: float = 120.0,
    seed: int = 0,
) -> Verdict:
    """Judge ``sampler(p [B, V], q [B, V], drafts [B, k], rng) -> (tokens [B], accepted [B], -1 for none)``.

    ``algorithm`` is a name of ``nodes.MATCHING``; drafts are drawn as it needs unless ``drafting`` says how the
    subject's are. Every pair's rows are mixed in one batch. No cause is looked for and no broken samplers are run.
    Raises InputError for wrong arguments.
    """
    check_callable(sampler, "sampler")
    check_share(alpha=alpha, detect_tv=detect_tv, power=power)
    check_seconds(budget_s=budget_s)
    check_whole(1, k=k)
    check_whole(0, seed=seed)
    if algorithm not in MATCHING:
        raise unknown_algorithm(algorithm, list(MATCHING))
    pairs = standard_pairs() if pairs is None else list(pairs)
    if not pairs:
        raise InputError("give at least one pair", field="pairs")
    for c, (p_row, q_row) in enumerate(pairs):
        Case({(): p_row}, {(): q_row}, 0, name=f"pair {c}")  # refuses what is no law
    laws = [event_law(algorithm, p, q, k) for p, q in pairs]
    alpha_each = alpha / len(pairs)
    rows = [statistics.rows_needed(max(len(law) - 1, 1), alpha_each, power, detect_tv) for law in laws]
    claim = f"tokens and accepted drafts have the law of the {algorithm!r} rule for {k} drafts"
    rng = np.random.default_rng(seed)
    case = np.repeat(np.arange(len(pairs)), rows)
    rng.shuffle(case)
    p = np.array([[float(x) for x in row] for row, _ in pairs])[case]
    q = np.array([[float(x) for x in row] for _, row in pairs])[case]
    drafts = np.full((len(case), k), -1, dtype=np.int64)
    for c, (_, row) in enumerate(pairs):
        members = np.flatnonzero(case == c)
        drafts[members] = drawn(drafting or MATCHING[algorithm][1], row, k, len(members), rng)
    guarded = Guarded(sampler, budget_s=budget_s)
    verdict = Verdict("consistent", claim, alpha=alpha, power=power, rows=len(case), levels=("statistical",), seed=seed)
    try:
        given = p.copy(), q.copy(), drafts.copy()
        tokens, accepted = _answer(guarded.call(*given, rng), p, drafts)
        unchanged(("p", "q", "drafts"), given, (p, q, drafts))
    except SamplerFault as fault:
        status = "inconclusive" if fault.finding.weight == "stops" else "rejected"
        faults = (fault.finding,)
        return Verdict(status, claim, faults, alpha=alpha, power=power, seed=seed, error=fault.__cause__)  # type: ignore[arg-type]
    finally:
        guarded.close()
    worst: tuple[float, int, statistics.Fit] | None = None
    for c, law in enumerate(laws):
        events = np.stack([tokens[case == c], accepted[case == c] + 1], axis=1)
        found, times = np.unique(events, axis=0, return_counts=True)
        counts: dict[tuple[int, ...], int] = {(int(a), int(b)): int(n) for (a, b), n in zip(found, times, strict=True)}
        fit = statistics.fit(counts, law)
        if worst is None or fit.p_value < worst[0]:
            worst = (fit.p_value, c, fit)
    assert worst is not None
    p_value, c, fit = worst
    if p_value <= alpha_each and fit.worst is not None:
        (token, index), seen, wanted, z = fit.worst
        which = f"draft {index - 1}" if index else "no draft"
        line = f"pair {c}: token {token} with {which} accepted: p = {p_value:.2g}"
        target, draft = (tuple(float(x) for x in row) for row in pairs[c])
        witness = Witness(f"pair {c}", (), int(token), seen, wanted, z, target=(target,), draft=(draft,))
        off = (Finding("wrong_law", line),)
        return replace(verdict, status="rejected", findings=off, witness=witness, p_value=p_value)
    return replace(verdict, p_value=min(1.0, p_value * len(pairs)), min_detectable_tv=detect_tv)


def event_law(algorithm: str, p: Weights, q: Weights, k: int) -> dict[tuple[int, ...], Number]:
    """Exact law of (token, 1 + index of the accepted draft or 0) under a rule and the drafting it is made for."""
    rule, drafting = MATCHING[algorithm]
    law = node_law(rule, drafting, p, q, k)
    return {(token, 0 if index is None else index + 1): mass for (token, index), mass in law.items()}


def drawn(drafting: Drafting, q: Weights, k: int, n: int, rng: np.random.Generator) -> Ints:
    """N tuples of k drafts, [n, k], -1 where there are fewer."""
    law = law_of(lambda coins: drafting(q, k, coins), unit=1)
    chances = np.array([float(mass) for mass in law.values()])
    table = np.array([[*drafts, *([-1] * (k - len(drafts)))] for drafts in law], dtype=np.int64)
    return np.asarray(table[rng.choice(len(table), size=n, p=chances / chances.sum())])


def _answer(answer: Any, p: np.ndarray, drafts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    first, second = pair_of(answer, "(tokens [B], accepted [B])")
    tokens = whole("tokens", numbers("tokens", first, (len(p),)))
    accepted = whole("accepted", numbers("accepted", second, (len(p),)))
    if (tokens < 0).any() or (tokens >= p.shape[1]).any():
        raise SamplerFault(Finding("out_of_vocabulary", f"tokens outside 0..{p.shape[1] - 1}"))
    if (accepted < -1).any() or (accepted >= drafts.shape[1]).any():
        raise SamplerFault(Finding("count_out_of_range", f"accepted indices outside -1..{drafts.shape[1] - 1}"))
    return tokens, accepted
