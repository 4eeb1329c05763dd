"""Relations between a sampler's answers that hold coin by coin, whatever its random numbers are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import numpy as np

from specsim.verification.batched import Emitted, token
from specsim.verification.claim import Trial
from specsim.verification.guarded import Batch, Guarded, SamplerFault
from specsim.verification.small_batches import alone
from specsim.verification.suite import Group
from specsim.verification.verdict import Finding


def coin_findings(trial: Trial, sampler: Guarded, rng: np.random.Generator) -> list[Finding]:
    """Findings on every group: seeds, one row alone, q = p, shifted logits, and with injected coins
    permutation, batch and vocabulary padding.

    A changed input raises from every call. Raises SamplerFault.
    """
    found = [finding for group in trial.groups for finding in _coin_by_coin(trial, sampler, group, rng)]
    times = Counter(finding.name for finding in found)
    return [f for f in found if f.name != "seed_ignored" or times["seed_ignored"] == len(trial.groups)]


def _coin_by_coin(trial: Trial, sampler: Guarded, group: Group, rng: np.random.Generator) -> Iterator[Finding]:
    declared = trial.claim.declares_drafts
    _, batch = group.draw(np.full(len(group.cases), 100), rng, declared=declared)
    seed = int(rng.integers(2**31))
    first, second, other = (sampler(batch, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    if not _same(first, second):
        yield Finding("seed_not_respected", "the same Generator state gives different answers", "note")
    else:
        yield from _shifted(sampler, batch, seed, first)
        if trial.claim.tosses_coins and _undecided(batch, seed) and _same(first, other):
            yield Finding("seed_ignored", "every seed gives the same answer on a batch of mixed rows")
    sampler(batch.rows(slice(1)), rng)
    if declared:
        yield from _equal_rows(sampler, group, batch, rng)
    if sampler.can_inject:
        yield from _injected(sampler, group, batch, rng)


_FLIPPED = 2
"""Rows that rounding may flip: each does with a probability of the order of its arithmetic's last bit."""


def _shifted(sampler: Guarded, batch: Batch, seed: int, answer: Emitted) -> Iterator[Finding]:
    """Logits moved by a constant: the same law, so the same answer for the same seed, but for rounding."""
    for shift in (-37.5, 11.25):
        try:
            moved = sampler(batch, np.random.default_rng(seed), shift=shift)
        except SamplerFault as fault:
            yield Finding("shifted_logits_matter", f"logits moved by {shift:g}: {fault.finding.line}")
            return
        differ = int((moved[0] != answer[0]).any(axis=1).sum())
        if differ > _FLIPPED:
            line = f"logits moved by {shift:g} change what {differ} of {len(batch.tokens)} rows emit"
            yield Finding("shifted_logits_matter", line)
            return


def _undecided(batch: Batch, seed: int) -> bool:
    """Whether the token rule's answers differ between the two seeds: rows may leave nothing to chance."""
    first, other = (token(batch.target, batch.draft, batch.tokens, np.random.default_rng(s)) for s in (seed, seed + 1))
    return not _same(first, other)


def _same(one: Emitted, other: Emitted) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def _equal_rows(sampler: Guarded, group: Group, batch: Batch, rng: np.random.Generator) -> Iterator[Finding]:
    """Equal rows: q = p exactly, and up to the last bit of each number."""
    if batch.draft is None or not group.gamma:
        return
    target = batch.target[:, : group.gamma]
    possible = np.all(np.take_along_axis(target, batch.tokens[:, :, None], axis=2) > 0, axis=(1, 2))
    if not possible.any():
        return
    p, tokens = batch.target[possible], batch.tokens[possible]
    for q, name in ((p[:, :-1], "q = p"), (np.nextafter(p[:, :-1], 1.0), "q = p up to rounding")):
        try:
            sampler(Batch(p, np.ascontiguousarray(q), tokens), rng)
        except SamplerFault as fault:
            line = f"with {name}: {fault.finding.line}"
            yield Finding("fails_on_equal_rows", line, fault.finding.weight)
            return


_ALONE = 40
"""Rows a shape that are called alone and in pairs too."""


def _injected(sampler: Guarded, group: Group, batch: Batch, rng: np.random.Generator) -> Iterator[Finding]:
    rows = len(batch.tokens)
    uniforms, final = rng.random((rows, group.gamma)), rng.random(rows)
    whole = sampler.inject(batch, uniforms, final)
    order = rng.permutation(rows)
    shuffled = sampler.inject(batch.rows(order), uniforms[order], final[order])
    if not _same((whole[0][order], whole[1][order]), shuffled):
        yield Finding("row_order_matters", "permuting the rows of a batch (coins too) changes what rows emit")
    half, few = order[: rows // 2], order[:_ALONE]
    part = sampler.inject(batch.rows(half), uniforms[half], final[half])
    if not _same((whole[0][half], whole[1][half]), part):
        yield Finding("batch_dependence", "a row's answer changes with the other rows of its batch")
    else:
        yield from alone(sampler, batch.rows(few), uniforms[few], final[few], whole[0][few])
    padded = Batch(
        np.concatenate([batch.target, np.zeros((rows, group.gamma + 1, 3))], axis=2),
        None if batch.draft is None else np.concatenate([batch.draft, np.zeros((rows, group.gamma, 3))], axis=2),
        batch.tokens,
    )
    try:
        wider = sampler.inject(padded, uniforms, final)
    except SamplerFault as fault:
        yield Finding("fails_on_padded_vocabulary", fault.finding.line, "note")
        return
    if not _same(whole, wider):
        yield Finding("vocabulary_padding_matters", "three more tokens of probability 0 change what rows emit")
