"""Any rule as a sampler: equal rows share one exact conditional law, from which they are drawn.

Fast where a batch repeats few different rows, as tests on small vocabularies do.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from specsim.verification.batched import Emitted, Floats, Ints
from specsim.verification.chains import ChainRule, law_given_drafts
from specsim.verification.coins import Coins, Injected, law_of
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
        """Draw each row from the exact conditional law of the rule at its inputs."""
        rows, width = target_probs.shape[:2]
        tokens = np.full((rows, width), -1, dtype=np.int64)
        counts = np.zeros(rows, dtype=np.int64)
        parts = [target_probs.reshape(rows, -1), draft_tokens]
        if draft_probs is not None:
            parts.append(draft_probs.reshape(rows, -1))
        which, first = _groups(parts)
        order = np.argsort(which, kind="stable")
        edges = np.searchsorted(which[order], np.arange(len(first) + 1))
        for group, row in enumerate(first):
            members = order[edges[group] : edges[group + 1]]
            strings, lengths, reached = self._law(
                target_probs[row], None if draft_probs is None else draft_probs[row], draft_tokens[row]
            )
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
            coins = Injected(u[row], w[row])
            stop = self.rule(p[row], None if q is None else q[row], tuple(d[row]), coins)
            string = stop.tokens if stop.weights is None else (*stop.tokens, coins.pick(stop.weights))
            tokens[row, : len(string)], counts[row] = string, len(string)
        return tokens, counts

    def _law(self, p: Floats, q: Floats | None, d: Ints) -> tuple[Ints, Ints, Floats]:
        key = p.tobytes() + (b"" if q is None else q.tobytes()) + d.tobytes()
        if key not in self._laws:
            law: dict[tuple[int, ...], Any] = law_given_drafts(
                self.rule, p.tolist(), None if q is None else q.tolist(), tuple(d.tolist()), unit=1.0
            )
            strings = np.full((len(law), len(p)), -1, dtype=np.int64)
            for at, string in enumerate(law):
                strings[at, : len(string)] = string
            reached = np.cumsum([float(mass) for mass in law.values()])
            self._laws[key] = strings, np.array([len(s) for s in law]), reached / reached[-1]
        return self._laws[key]


@dataclass(frozen=True)
class NodeRuleSampler:
    """A rule for several drafts as ``sampler(p [B, V], q [B, V], drafts [B, k], rng) -> (tokens, accepted)``."""

    rule: NodeRule

    def __call__(self, p: Floats, q: Floats, drafts: Ints, rng: np.random.Generator) -> tuple[Ints, Ints]:
        """Draw each row from the exact conditional law of the rule at its inputs; drafts of -1 are absent."""
        tokens, accepted = np.zeros(len(p), dtype=np.int64), np.full(len(p), -1)
        which, first = _groups([p, q, drafts])
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


def _groups(parts: list[Any]) -> tuple[Ints, Ints]:
    """Group of each row by content, and the first row of each group; rows are told apart by a random projection."""
    rng = np.random.default_rng(0)
    key = np.zeros(len(parts[0]))
    for part in parts:
        key += part.astype(np.float64) @ rng.random(part.shape[1]) if part.shape[1] else 0.0
    _, first, which = np.unique(np.round(key, 9), return_index=True, return_inverse=True)
    return which.ravel(), first
