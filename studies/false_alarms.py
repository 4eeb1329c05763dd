"""How often a right sampler gets a small p-value from the oracle's tests, over many seeds of reduced rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from specsim.verification import drafting as draw
from specsim.verification import statistics
from specsim.verification.batched import LOSSLESS, Ints
from specsim.verification.batched_lossy import LOSSY
from specsim.verification.batched_nodes import SAMPLERS, traverse
from specsim.verification.case import Case, String
from specsim.verification.exact import exact_law
from specsim.verification.node_oracle import drawn, event_law, standard_pairs
from specsim.verification.nodes import MATCHING
from specsim.verification.suite import Group, standard_cases
from specsim.verification.trees import traversal_law

LEVELS = (0.1, 0.01, 0.001)
ROWS = 2_000
"""Rows a case and seed."""

PARAMETERS: Mapping[str, Mapping[str, Any]] = {
    "lenience": {"factor": 0.75},
    "typical": {"epsilon": 0.3, "delta": 0.5},
    "ensemble": {"weight": 0.75},
    "fuzzy": {"threshold": 0.25},
    "adaptive": {"stop_entropy": 0.9, "accept_distance": 0.3},
    "big_little": {"fallback": 0.45, "rollback": 1.5},
    "biased_argmax": {"bias": 0.15},
    "reward": {"keep": (0.5, 1.0, 0.25, 0.0)},
    "judge": {"good": (True, False, False, True)},
    "cactus": {"delta": 0.05},
}
"""One setting of every lossy rule that has a sampler."""


def false_alarms(seeds: int, few: int) -> Iterator[dict[str, object]]:
    """A row for every right sampler: share of its p-values at or under each of ``LEVELS``."""
    for name, sampler in LOSSLESS.items():
        count = seeds if name in ("token", "block") else few
        yield _row(name, "joint law", chain_p_values(sampler, name, count))
        if name in ("token", "block"):
            yield _row(name, "text law", chain_p_values(sampler, name, count, text=True))
    for name, options in PARAMETERS.items():
        yield _row(name, "joint law", chain_p_values(LOSSY[name](**options), name, few, **options))
    for name in SAMPLERS:
        yield _row(name, "joint law of a node", node_p_values(name, few))
    yield _row("traversal", "joint law", traversal_p_values(few))


def too_often(share: float, seeds: int, level: float) -> bool:
    """Whether p-values at or under a level came so often that chance does it with a probability under 0.001.

    Exact binomial tail: with 50 seeds one p-value at 0.001 is no rarity (5 %).
    """
    from scipy.special import bdtrc

    count = round(share * seeds)
    return bool(count and bdtrc(count - 1, seeds, level) < 0.001)


def _row(name: str, what: str, found: np.ndarray) -> dict[str, object]:
    shares = {f"p<={level:g}": float((found <= level).mean()) for level in LEVELS}
    return {"sampler": name, "test": what, "seeds": len(found), **shares}


def chain_p_values(
    sampler: Callable[..., Any], name: str, seeds: int, *, text: bool = False, **options: Any
) -> np.ndarray:
    """A p-value a seed: of the joint law, or of the text's, over two cases (Bonferroni)."""
    cases = standard_cases()[:2]
    group = Group(cases)
    laws = [exact_law(name, case, **options) for case in cases]

    def tested(counts: Ints, c: int) -> float:
        strings = {group.string_of(int(code)): int(counts[code]) for code in np.flatnonzero(counts)}
        return _p_value(strings, laws[c], cases[c] if text else None)

    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        case, batch = group.draw(np.full(len(cases), ROWS), rng, declared=name != "point_mass")
        counts = group.counts(case, sampler(batch.target, batch.draft, batch.tokens, rng)[0])
        found.append(min(1.0, len(cases) * min(tested(counts[c], c) for c in range(len(cases)))))
    return np.array(found)


def _p_value(strings: Mapping[String, int], law: Mapping[String, Any], case: Case | None) -> float:
    return statistics.fit(strings, law).p_value if case is None else statistics.fit_innovations(strings, case).p_value


def node_p_values(name: str, seeds: int, *, k: int = 2) -> np.ndarray:
    """A p-value a seed of the joint law of token and accepted draft over four pairs."""
    pairs = standard_pairs(4)
    laws = [event_law(name, p, q, k) for p, q in pairs]
    found = np.ones(seeds)
    for c, (p, q) in enumerate(pairs):
        rng = np.random.default_rng(c)
        rows = seeds * ROWS  # every seed's rows in one batch: they are independent
        target, draft = (np.tile([float(x) for x in row], (rows, 1)) for row in (p, q))
        drafts = drawn(MATCHING[name][1], q, k, rows, rng)
        tokens, accepted = SAMPLERS[name](target, draft, drafts, rng)
        code = (tokens * (k + 1) + accepted + 1).reshape(seeds, ROWS)
        for seed in range(seeds):
            values, times = np.unique(code[seed], return_counts=True)
            counts = {(int(v) // (k + 1), int(v) % (k + 1)): int(n) for v, n in zip(values, times, strict=True)}
            found[seed] = min(found[seed], statistics.fit(counts, laws[c]).p_value)
    return np.minimum(1.0, found * len(pairs))


def traversal_p_values(seeds: int) -> np.ndarray:
    """A p-value a seed of traversal verification's law on trees of two drafts, each continued by one."""
    shape, case = (2, 1), standard_cases()[0]
    law = traversal_law(case, shape)
    prefixes = [(), *((x,) for x in range(case.vocab)), *((x, y) for x in range(case.vocab) for y in range(case.vocab))]
    place = {prefix: i for i, prefix in enumerate(prefixes)}
    p = np.array([[float(x) for x in case.target[s]] for s in prefixes])
    q = np.array([[float(x) for x in case.draft[s]] for s in prefixes])
    found = []
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        roots = drawn(draw.without_replacement, case.draft[()], 2, ROWS, rng)
        tokens, nodes = np.full((ROWS, 5), -1), np.zeros((ROWS, 5), dtype=np.int64)
        for j, at in enumerate((1, 3)):
            x = roots[:, j]
            tokens[:, at] = x
            below = (q[1 + np.maximum(x, 0)].cumsum(axis=1) > rng.random((ROWS, 1))).argmax(axis=1)
            tokens[:, at + 1] = np.where(x >= 0, below, -1)
            nodes[:, at] = 1 + np.maximum(x, 0)
            nodes[:, at + 1] = [place[int(a), int(b)] for a, b in zip(np.maximum(x, 0), below, strict=True)]
        strings, _ = traverse(p[nodes], q[nodes], tokens, shape, rng)
        rows, times = np.unique(strings, axis=0, return_counts=True)
        counts = {tuple(int(x) for x in row if x >= 0): int(n) for row, n in zip(rows, times, strict=True)}
        found.append(statistics.fit(counts, law).p_value)
    return np.array(found)
