"""Relations between laws: the same sampler on rows that were changed in a way whose effect on its law is known."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from specsim.verification.batched import Ints
from specsim.verification.case import Case
from specsim.verification.claim import Trial
from specsim.verification.exact import LOSSLESS_CHAINS
from specsim.verification.guarded import Batch, Guarded, SamplerFault
from specsim.verification.parameters import BY_TOKEN
from specsim.verification.suite import Group
from specsim.verification.verdict import Finding

ROWS = 1_000
"""Rows a case: a total variation of about 0.2 shows, which mistakes of this kind exceed."""

WIDE = 257
"""Tokens of the vocabulary that a small one is hidden in: one more than two tiles of 128."""


def changed_rows_findings(trial: Trial, sampler: Guarded, rng: np.random.Generator) -> Iterator[Finding]:
    """Without drafts, hidden in a wide vocabulary, at a temperature near 0. Raises SamplerFault."""
    for group in trial.groups:
        yield from _without_drafts(trial, sampler, group, rng)
        if not any(name in BY_TOKEN for name in trial.claim.options):
            yield from _relabelled(trial, sampler, group, rng)
        if trial.claim.algorithm is None or trial.claim.algorithm in (*LOSSLESS_CHAINS, "greedy"):
            yield from _greedy_limit(trial, sampler, group, rng)


def ragged_findings(trial: Trial, sampler: Guarded, rng: np.random.Generator) -> Iterator[Finding]:
    """Rows of every length in one batch, -1 and meaningless rows after their drafts: each must have the law of its own
    length, and with injected coins the answer that it has without the padding. Raises SamplerFault.
    """
    level = trial.alpha / sum((group.gamma + 1) * len(group.cases) for group in trial.groups)
    for group in trial.groups:
        each = np.full(len(group.cases), ROWS * (group.gamma + 1))
        case, whole = group.draw(each, rng, declared=trial.claim.declares_drafts)
        length = rng.integers(0, group.gamma + 1, len(case))
        batch = _padded(whole, length, rng)
        tokens, _ = sampler(batch, rng)
        for k in range(group.gamma + 1):
            shorter = tuple(_cut(c, k) for c in group.cases)
            here = length == k
            counts = Group(shorter).counts(case[here], tokens[here, : k + 1])
            yield from _unlike(
                trial, Group(shorter), counts, level, "padded_drafts_matter", f"{k} of {group.gamma} drafts"
            )
        if sampler.can_inject:
            yield from _injected_padding(sampler, batch, length, rng)


def _injected_padding(sampler: Guarded, batch: Batch, length: Ints, rng: np.random.Generator) -> Iterator[Finding]:
    """A row's answer must be what it is in a batch of its own length, coin by coin."""
    uniforms, final = rng.random(batch.tokens.shape), rng.random(len(length))
    padded = sampler.inject(batch, uniforms, final)[0]
    for k in range(1, batch.tokens.shape[1] + 1):
        here = np.flatnonzero(length == k)
        draft = None if batch.draft is None else batch.draft[here, :k]
        cut = Batch(batch.target[here, : k + 1], draft, batch.tokens[here, :k])
        alone = sampler.inject(cut, uniforms[here, :k], final[here])[0]
        if not np.array_equal(alone, padded[here, : k + 1]):
            yield Finding("padded_drafts_matter", f"rows with {k} drafts answer differently in a padded batch")
            return


def _padded(batch: Batch, length: Ints, rng: np.random.Generator) -> Batch:
    """Drafts cut to the given lengths, what belongs to the others made meaningless."""
    width = batch.tokens.shape[1]
    absent = np.arange(width) >= length[:, None]
    target, draft = batch.target.copy(), None if batch.draft is None else batch.draft.copy()
    for rows in [target[:, 1:]] if draft is None else [target[:, 1:], draft]:
        # one row a position: rows of their own would average out what a sampler makes of them
        rows[...] = np.where(absent[:, :, None], rng.dirichlet(np.full(rows.shape[2], 0.3), width), rows)
    return Batch(target, draft, np.where(absent, -1, batch.tokens))


def _without_drafts(trial: Trial, sampler: Guarded, group: Group, rng: np.random.Generator) -> Iterator[Finding]:
    short = Group(tuple(_cut(case, 0) for case in group.cases))
    case, batch = short.draw(np.full(len(group.cases), ROWS), rng, declared=trial.claim.declares_drafts)
    try:
        tokens, _ = sampler(batch, rng)
    except SamplerFault as fault:
        if fault.finding.name == "time_budget":
            raise
        yield Finding("fails_without_drafts", f"rows without drafts: {fault.finding.line}", "note")
        return
    yield from _unlike(trial, short, short.counts(case, tokens), trial.alpha_each, "no_drafts_matter", "no drafts")


def _relabelled(trial: Trial, sampler: Guarded, group: Group, rng: np.random.Generator) -> Iterator[Finding]:
    """The vocabulary's tokens under other numbers of a larger one: the law is the same under the new numbers."""
    for c in range(len(group.cases)):
        one = Group(group.cases[c : c + 1])
        _, batch = one.draw(np.array([ROWS]), rng, declared=trial.claim.declares_drafts)
        label = np.append(rng.choice(WIDE - 1, one.vocab - 1, replace=False), WIDE - 1)
        label = rng.permutation(label) if trial.claim.tosses_coins else np.sort(label)  # ties go to the lowest number
        target = np.zeros((*batch.target.shape[:2], WIDE))
        target[:, :, label] = batch.target
        draft = None
        if batch.draft is not None:
            draft = np.zeros((*batch.draft.shape[:2], WIDE))
            draft[:, :, label] = batch.draft
        tokens, _ = sampler(Batch(target, draft, label[batch.tokens]), rng)
        back = np.full(WIDE + 1, one.vocab)
        back[label], back[-1] = np.arange(one.vocab), -1
        seen = back[tokens]
        if (seen == one.vocab).any():
            strange = int(tokens[seen == one.vocab][0])
            line = f"case {one.cases[0].name} among {WIDE} tokens: emitted {strange}, which has probability 0"
            yield Finding("vocabulary_labels_matter", line)
            return
        where = f"tokens numbered {label.tolist()} of {WIDE}"
        counts = one.counts(np.zeros(ROWS, dtype=np.int64), seen)
        yield from _unlike(trial, one, counts, trial.alpha_each, "vocabulary_labels_matter", where)


def _greedy_limit(trial: Trial, sampler: Guarded, group: Group, rng: np.random.Generator) -> Iterator[Finding]:
    """As the target's temperature falls to 0 only its argmax remains, whatever the drafts and coins."""
    _, batch = group.draw(np.full(len(group.cases), 100), rng, declared=trial.claim.declares_drafts)
    top = np.sort(batch.target, axis=2)
    clear = (top[:, :, -1] > top[:, :, -2]).all(axis=1) if group.vocab > 1 else np.ones(len(top), dtype=np.bool_)
    if not clear.any():
        return
    target, best = batch.target[clear], batch.target[clear].argmax(axis=2)
    second = np.maximum(top[clear][:, :, -2:-1], 1e-300) if group.vocab > 1 else top[clear]
    for smallest in (1e-30, 0.0):  # mass of the second token against the first
        cold = np.zeros_like(target)
        if smallest:
            power = np.log(smallest) / np.log(second / top[clear][:, :, -1:])
            cold = (target / top[clear][:, :, -1:]) ** power
            cold[cold < 1e-35] = 0.0  # what single precision can't hold
        np.put_along_axis(cold, best[:, :, None], 1.0, axis=2)
        cold /= cold.sum(axis=2, keepdims=True)
        draft = None if batch.draft is None else batch.draft[clear]
        tokens, _ = sampler(Batch(cold, draft, batch.tokens[clear]), rng)
        wrong = np.argwhere((tokens >= 0) & (tokens != best))
        if len(wrong):
            row, at = map(int, wrong[0])
            line = f"a target row with all its mass on {best[row, at]} gave token {tokens[row, at]} at position {at}"
            yield Finding("greedy_limit_missed", line)
            return


def _unlike(trial: Trial, group: Group, counts: Ints, level: float, name: str, where: str) -> Iterator[Finding]:
    """A finding where a case's counts haven't the claimed law."""
    for case, row in zip(group.cases, counts, strict=True):
        strings = {group.string_of(int(code)): int(row[code]) for code in np.flatnonzero(row)}
        fit = trial.claim.fit(strings, trial.claim.law(case), case)
        if fit.p_value <= level:
            yield Finding(name, f"case {case.name}, {where}: p = {fit.p_value:.2g} against the law that is claimed")
            return


def _cut(case: Case, gamma: int) -> Case:
    return Case(case.target, case.draft, gamma, case.eos, case.name)
