"""Any rule as a sampler: equal rows share one exact conditional law, from which they are drawn.

Fast where a batch repeats few different rows, as tests on small vocabularies do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specsim.verification.batched import Emitted, Floats, Ints
from specsim.verification.chains import ChainRule, law_given_drafts
from specsim.verification.coins import Coins, Drawn, Injected, law_of
from specsim.verification.nodes import NodeRule


@dataclass(frozen=True)
class RuleSampler:
    """A chain rule as ``sampler(target_probs, draft_probs, draft_tokens, rng)``, and with injected coins."""

    rule: ChainRule
    name: str = "rule"
    _laws: dict[bytes, tuple[Ints, Ints, Floats]] = field(default_factory=dict, repr=False, compare=False)

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Draw each row from the rule's exact conditional law at its inputs, or run it where few rows are equal."""
        rows, width, vocab = target_probs.shape
        tokens = np.full((rows, width), -1, dtype=np.int64)
        counts = np.zeros(rows, dtype=np.int64)
        given = [part for part in (target_probs, draft_tokens, draft_probs) if part is not None]
        differ = [part.reshape(rows, -1) for part in given if part.strides[0]]  # stride 0: one row, broadcast
        which, first = _groups(rows, differ)
        order = np.argsort(which, kind="stable")
        edges = np.searchsorted(which[order], np.arange(len(first) + 1))
        for group, row in enumerate(first):
            members = order[edges[group] : edges[group + 1]]
            p, q = target_probs[row], None if draft_probs is None else draft_probs[row]
            if 4 * len(members) < vocab:
                rule_p, rule_q, d = p.tolist(), None if q is None else q.tolist(), tuple(draft_tokens[row].tolist())
                for member in members:
                    self._put(tokens, counts, member, rule_p, rule_q, d, Drawn(rng))
                continue
            strings, lengths, reached = self._law(p, q, draft_tokens[row])
            drawn = np.minimum(np.searchsorted(reached, rng.random(len(members)), side="right"), len(reached) - 1)
            tokens[members], counts[members] = strings[drawn], lengths[drawn]
        return tokens, counts

    def inject(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        """Run the rule on the caller's coins, row by row."""
        rows, width = target_probs.shape[:2]
        tokens = np.full((rows, width), -1, dtype=np.int64)
        counts = np.zeros(rows, dtype=np.int64)
        p, q = target_probs.tolist(), None if draft_probs is None else draft_probs.tolist()
        d, u, w = draft_tokens.tolist(), uniforms.tolist(), final.tolist()
        for row in range(rows):
            self._put(
                tokens, counts, row, p[row], None if q is None else q[row], tuple(d[row]), Injected(u[row], w[row])
            )
        return tokens, counts

    def _put(self, tokens: Ints, counts: Ints, row: int, p: Any, q: Any, d: tuple[int, ...], coins: Coins) -> None:
        """Run the rule on one row's coins and write down what it emits."""
        stop = self.rule(p, q, d, coins)
        string = stop.tokens if stop.weights is None else (*stop.tokens, coins.pick(stop.weights))
        tokens[row, : len(string)], counts[row] = string, len(string)

    def _law(self, p: Floats, q: Floats | None, d: Ints) -> tuple[Ints, Ints, Floats]:
        key = p.tobytes() + (b"" if q is None else q.tobytes()) + d.tobytes()
        if key not in self._laws:
            law: dict[tuple[int, ...], Any] = law_given_drafts(
                self.rule, p.tolist(), None if q is None else q.tolist(), tuple(d.tolist()), unit=1.0
            )
            strings = np.array([(*string, *(-1,) * (len(p) - len(string))) for string in law], dtype=np.int64)
            reached = np.cumsum([float(mass) for mass in law.values()])
            found = strings, np.array([len(s) for s in law]), reached / reached[-1]
            if len(law) > _KEPT:
                return found
            self._laws[key] = found
        return self._laws[key]


_KEPT = 4_096
"""Strings of the longest law that is kept for the next call."""


@dataclass(frozen=True)
class NodeRuleSampler:
    """A rule for several drafts as ``sampler(p [B, V], q [B, V], drafts [B, k], rng) -> (tokens, accepted)``."""

    rule: NodeRule

    def __call__(self, p: Floats, q: Floats, drafts: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Draw each row from the exact conditional law of the rule at its inputs; drafts of -1 are absent."""
        tokens, accepted = np.zeros(len(p), dtype=np.int64), np.full(len(p), -1)
        which, first = _groups(len(p), [p, q, drafts])
        for group, row in enumerate(first):
            law = self._law(p[row].tolist(), q[row].tolist(), tuple(x for x in drafts[row].tolist() if x >= 0))
            members = np.flatnonzero(which == group)
            chances = np.array(list(law.values()))
            drawn = rng.choice(len(law), size=len(members), p=chances / chances.sum())
            tokens[members], accepted[members] = np.array(list(law))[drawn].T
        return tokens, accepted

    def _law(self, p: list[float], q: list[float], drafts: tuple[int, ...]) -> dict[tuple[int, int], Any]:
        def run(coins: Coins) -> tuple[int, int]:
            pick = self.rule(p, q, drafts, coins)
            if pick.accepted is not None:
                return drafts[pick.accepted], pick.accepted
            return coins.pick(pick.weights or p), -1

        return law_of(run, unit=1.0)


def _groups(rows: int, parts: list[Any]) -> tuple[Ints, Ints]:
    """Group of each row by content, and the first row of each group; rows are told apart by a random projection."""
    rng = np.random.default_rng(0)
    key = np.zeros(rows)
    for part in parts:
        key += np.asarray(part, dtype=np.float64) @ rng.random(part.shape[1]) if part.shape[1] else 0.0
    _, first, which = np.unique(np.round(key, 9), return_index=True, return_inverse=True)
    return which.ravel(), first
