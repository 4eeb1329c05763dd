"""Relations between a sampler's answers that hold whatever its random numbers are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from specsim.verification.batched import token
from specsim.verification.guarded import Batch, Guarded, SamplerFault
from specsim.verification.suite import Group
from specsim.verification.verdict import Finding


def metamorphic_findings(
    sampler: Guarded, group: Group, rng: np.random.Generator, *, declared: bool, random: bool
) -> Iterator[Finding]:
    """Findings on one group: seeds, one row alone, q = p, and with injected coins permutation, batch, vocabulary
    padding.

    ``random`` False for rules that toss no coin (greedy). A changed input raises from every call.
    """
    _, batch = group.draw(np.full(len(group.cases), 100), rng, declared=declared)
    seed = int(rng.integers(2**31))
    first, second, other = (sampler(batch, np.random.default_rng(s)) for s in (seed, seed, seed + 1))
    if not all(np.array_equal(a, b) for a, b in zip(first, second, strict=True)):
        yield Finding("seed_not_respected", "the same Generator state gives different answers", "note")
    elif random and _undecided(batch, seed) and all(np.array_equal(a, b) for a, b in zip(first, other, strict=True)):
        yield Finding("seed_ignored", "every seed gives the same answer on a batch of mixed rows")
    sampler(Batch(batch.target[:1], None if batch.draft is None else batch.draft[:1], batch.tokens[:1]), rng)
    if declared:
        yield from _equal_rows(sampler, group, batch, rng)
    if sampler.can_inject:
        yield from _injected(sampler, group, batch, rng)


def _undecided(batch: Batch, seed: int) -> bool:
    """Whether the token rule's answers differ between the two seeds: rows may leave nothing to chance."""
    first, other = (token(batch.target, batch.draft, batch.tokens, np.random.default_rng(s)) for s in (seed, seed + 1))
    return not all(np.array_equal(a, b) for a, b in zip(first, other, strict=True))


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


def _injected(sampler: Guarded, group: Group, batch: Batch, rng: np.random.Generator) -> Iterator[Finding]:
    rows = len(batch.tokens)
    uniforms, final = rng.random((rows, group.gamma)), rng.random(rows)
    whole = sampler.inject(batch, uniforms, final)
    order = rng.permutation(rows)
    shuffled = sampler.inject(_rows(batch, order), uniforms[order], final[order])
    if not all(np.array_equal(a[order], b) for a, b in zip(whole, shuffled, strict=True)):
        yield Finding("row_order_matters", "permuting the rows of a batch (coins too) changes what rows emit")
    half = order[: rows // 2]
    part = sampler.inject(_rows(batch, half), uniforms[half], final[half])
    if not all(np.array_equal(a[half], b) for a, b in zip(whole, part, strict=True)):
        yield Finding("batch_dependence", "a row's answer changes with the other rows of its batch")
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
    if not all(np.array_equal(a, b) for a, b in zip(whole, wider, strict=True)):
        yield Finding("vocabulary_padding_matters", "three more tokens of probability 0 change what rows emit")


def _rows(batch: Batch, which: np.ndarray) -> Batch:
    return Batch(batch.target[which], None if batch.draft is None else batch.draft[which], batch.tokens[which])
