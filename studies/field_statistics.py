"""Statistics that engines' own tests use, re-implemented from their description: each says if it rejects a sampler.

They say what a statistic can see, not what a project ships. All but transformers' judge one pair of rows, the same p
and q at every position and row, as those tests do; what was shrunk is said beside each.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specsim.verification import statistics
from specsim.verification.batched import Floats, Ints

Sampler = Callable[..., tuple[Ints, Ints]]
Test = Callable[[Sampler, np.random.Generator], bool]


def distance_ratio(*, drafts: int, seeds: int) -> Test:
    """Distance to p at 100,000 rounds against 10 must improve 20 times more than to unrelated laws, the bonus left out.

    vLLM's v0 test with one draft and five seeds, its v1 test with two drafts and one random pair; V = 10.
    """

    def test(sampler: Sampler, rng: np.random.Generator) -> bool:
        return any(one(sampler, rng) for _ in range(seeds))

    def one(sampler: Sampler, rng: np.random.Generator) -> bool:
        vocab = 10
        p, q = softmax(rng.random(vocab)), softmax(rng.random(vocab))
        others = softmax(rng.random((20, vocab)))
        near, far = [], []
        for n in (10, 100_000):
            seen = _rounds(sampler, p, q, drafts, n, rng)[:, :drafts]
            shares = np.bincount(seen[seen >= 0], minlength=vocab) / max(int((seen >= 0).sum()), 1)
            near.append(np.linalg.norm(shares - p))
            far.append(np.mean(np.linalg.norm(shares - others, axis=1)))
        return bool(near[0] / near[1] < 20 * far[0] / far[1])

    return test


def chi_square(vocab: int, n: int) -> Test:
    """Chi-square of each position over the rows that reached it, threshold df + 10 sqrt(2 df); two drafts.

    vLLM's v2 test, narrow as it is (16 tokens, 200,000 rounds); wide with 64 tokens for 4,096 and as many rounds as
    detect the same total variation (0.07; the threshold's excess 10 sqrt(2 df) is 4 n TV^2).
    """

    def test(sampler: Sampler, rng: np.random.Generator) -> bool:
        logits = rng.standard_normal(vocab)
        p, q = softmax(logits), softmax(-logits)
        seen = _rounds(sampler, p, q, 2, n, rng)
        for i in range(3):
            column = seen[seen[:, i] >= 0, i]
            if len(column) < 5 * vocab and i:
                continue
            wanted = len(column) * p
            value = ((np.bincount(column, minlength=vocab) - wanted) ** 2 / wanted).sum()
            if value > vocab - 1 + 10 * np.sqrt(2 * (vocab - 1)):
                return True
        return False

    return test


def divergence_of_first_token(sampler: Sampler, rng: np.random.Generator) -> bool:
    """|KL(p, speculative sample) - KL(p, direct sample)| < 0.01 on 50,000 first tokens; 500 tokens, 100 kept.

    TensorRT-LLM's statistic.
    """
    vocab, kept, n = 500, 100, 50_000
    rows = []
    for _ in range(2):
        row = np.zeros(vocab)
        row[rng.permutation(vocab)[:kept]] = 0.8 + 0.2 * rng.random(kept)
        rows.append(row / row.sum())
    p, q = rows
    drafted = _rounds(sampler, p, q, 1, n, rng)[:, 0]
    direct = rng.choice(vocab, size=n, p=p)

    def kl(sample: Ints) -> float:
        seen = np.bincount(sample, minlength=vocab) / len(sample)
        inside = p > 0
        return float((p[inside] * np.log(p[inside] / np.maximum(seen[inside], 1e-10))).sum())

    return abs(kl(drafted) - kl(direct)) >= 0.01


def order_of_counts(sampler: Sampler, rng: np.random.Generator) -> bool:
    """Two drafts of nearly certain rows must be kept and the third replaced, by tokens in the order of their
    probability: 10,000 rounds, V = 10.

    transformers' two tests of its verifier, as recalled.
    """
    vocab, n = 10, 10_000
    logits = np.full((4, vocab), -10.0)
    logits[[0, 1], [1, 4]] = 10.0
    target = softmax(logits)
    target[2] = 0.0
    target[2, [1, 8, 3, 7]] = 0.4, 0.3, 0.2, 0.1
    draft = softmax(logits[:3])
    draft[2] = np.eye(vocab)[5]
    rows = np.tile(target, (n, 1, 1)), np.tile(draft, (n, 1, 1)), np.tile(np.array([1, 4, 5]), (n, 1))
    tokens, counts = sampler(*rows, rng)
    if (counts != 3).any() or (tokens[:, :2] != (1, 4)).any():
        return True
    seen = np.bincount(tokens[:, 2], minlength=vocab)
    return not (seen[1] > seen[3] > seen[7] > 0 and seen[8] > seen[3] and seen[[1, 3, 7, 8]].sum() == n)


def one_step(sampler: Sampler, rng: np.random.Generator) -> bool:
    """One-step chi-square at p < 1e-7 on a few fixed and twenty random pairs, 10,000 rounds each (assumed).

    The one-step mode of Amazon's generator probability smell test.
    """
    pairs: list[tuple[Floats, Floats]] = [
        (np.array([0.5, 0.5]), np.array([0.9, 0.1])),
        (np.array([1.0, 0.0]), np.array([0.5, 0.5])),
        (np.array([0.0, 1.0]), np.array([1.0, 0.0])),
        (np.array([0.5, 0.5, 0.0]), np.array([0.0, 0.5, 0.5])),
    ]
    for _ in range(20):
        vocab = int(rng.integers(2, 28))
        pairs.append((rng.dirichlet(np.ones(vocab)), rng.dirichlet(np.ones(vocab))))
    for p, q in pairs:
        tokens = _rounds(sampler, p, q, 1, 10_000, rng)[:, 0]
        counts = {(int(x),): int(n) for x, n in zip(*np.unique(tokens, return_counts=True), strict=True)}
        if statistics.fit(counts, {(x,): float(m) for x, m in enumerate(p)}).p_value < 1e-7:
            return True
    return False


FIELD: dict[str, Test] = {
    "vLLM v0": distance_ratio(drafts=1, seeds=5),
    "vLLM v1": distance_ratio(drafts=2, seeds=1),
    "vLLM v2 wide": chi_square(64, 5_000),
    "vLLM v2 narrow": chi_square(16, 200_000),
    "TensorRT-LLM": divergence_of_first_token,
    "transformers": order_of_counts,
    "smell test": one_step,
}
"""Statistics by the project whose test uses them."""


def softmax(x: Floats) -> Floats:
    """Rows that sum to one."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return np.asarray(e / e.sum(axis=-1, keepdims=True))


def _rounds(sampler: Sampler, p: Floats, q: Floats, drafts: int, n: int, rng: np.random.Generator) -> Ints:
    """Emitted tokens of n rounds with the same p and q at every position."""
    reached = np.cumsum(q)
    tried = np.searchsorted(reached, rng.random((n, drafts)) * reached[-1], side="right")
    target, draft = np.broadcast_to(p, (n, drafts + 1, len(p))), np.broadcast_to(q, (n, drafts, len(q)))
    return sampler(target, draft, tried, rng)[0]
