"""A small engine that drafts, verifies and goes on for several rounds, right or wrong in one named way.

It is the reference of ``pipeline`` and, with a ``fault``, its negative control. Row by row the state is a prefix.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np

from specsim.verification.batched import Emitted, Floats, Ints, Sampler, inverse_cdf, token
from specsim.verification.case import Case, String


@dataclass(frozen=True)
class Rollout:
    """What an engine did: tokens [n, L] (-1 where a text has ended), and, where it knows, more about its rounds.

    ``counts`` [n, R] are the tokens it says each round emitted (0 for rounds that a text didn't need), ``drafts``
    [n, R, G] what it drafted and ``draft_probs`` [n, R, G, V] the law it says it drafted from.
    """

    tokens: Ints
    counts: Ints | None = None
    drafts: Ints | None = None
    draft_probs: Floats | None = None


Engine = Callable[[Case, int, np.random.Generator], "Rollout | Ints"]

FAULTS = {
    "drafts by argmax": "drafts are the argmax of q, declared as draws from it (transformers issue 47932)",
    "shared noise": "the noise that drew a draft also draws its replacement (vllm issue 54282)",
    "coins by position": "a position's uniform is kept for the next round that judges it",
    "rows share coins": "every row of the batch gets the same coins (vllm issue 13196)",
    "neighbours share coins": "every second row gets the coins of the row before it",
    "stale context": "after a rejection the target's next rows leave the replacement out",
    "last accepted only": "a penalty sees only the last token of each round (sglang PR 33643)",
    "rejected counted": "a penalty counts rejected drafts too (vllm PR 33251)",
    "penalty ignored": "a penalty is dropped while speculating (TensorRT-LLM PR 17701)",
    "goes on after the end": "tokens after an end-of-text inside the accepted drafts are kept (vllm issue 56101)",
    "counts rejected": "reported counts exceed the emitted tokens (vllm PR 2658)",
    "draft at another temperature": "drafts are drawn at another temperature than declared (transformers PR 28166)",
    "lost bonus": "the bonus token is emitted but left out of the next round's context",
}
"""What an engine can do wrong over rounds, beyond its verifier. Every one leaves a right verifier's law alone."""


@dataclass(frozen=True)
class ReferenceEngine:
    """Drafts from ``case.draft``, verifies with ``sampler``, until every text has ``length`` tokens."""

    length: int
    sampler: Sampler = token
    fault: str | None = None

    def __call__(self, case: Case, n: int, rng: np.random.Generator) -> Rollout:
        """Run n texts; the case needs laws for prefixes of up to length + gamma tokens."""
        tables = _Tables(case)
        gamma = case.gamma
        text = np.full((n, self.length + gamma + 1), -1, dtype=np.int64)
        size, seen_size = np.zeros(n, dtype=np.int64), np.zeros(n, dtype=np.int64)
        context = text.copy()  # what the next round's rows are computed from: the text, in a right engine
        done = np.zeros(n, dtype=np.bool_)
        history: list[tuple[Ints, Ints, Floats]] = []
        fixed = rng.random((n, self.length + 2 * gamma + 2))
        while not done.all():
            drafts, q, noise = self._draft(tables, context, seen_size, gamma, rng)
            rows = self._target_rows(tables, context, seen_size, drafts)
            uniforms, final = rng.random((n, gamma)), rng.random(n)
            if self.fault == "coins by position":
                uniforms = fixed[np.arange(n)[:, None], size[:, None] + np.arange(gamma)]
            if self.fault == "rows share coins":
                uniforms, final = np.tile(uniforms[:1], (n, 1)), np.tile(final[:1], n)
            if self.fault == "neighbours share coins":
                uniforms[1::2], final[1::2] = uniforms[: 2 * (n // 2) : 2], final[: 2 * (n // 2) : 2]
            tokens, counts = self.sampler.inject(rows, q, drafts, uniforms, final)
            if self.fault == "shared noise":
                tokens = _redrawn(rows, q, tokens, counts, noise)
            tokens, counts = self._ended(case, tokens, counts)
            reported = np.where(done, 0, counts + (self.fault == "counts rejected") * (counts < gamma + 1))
            history.append((reported, drafts, q))
            for i in range(gamma + 1):
                more = ~done & (i < counts)
                at = np.flatnonzero(more)
                text[at, np.minimum(size[at] + i, text.shape[1] - 1)] = tokens[at, i]
                keep = at[self._remembered(i, counts[at], gamma)]
                context[keep, np.minimum(seen_size[keep] + i, text.shape[1] - 1)] = tokens[keep, i]
            live = ~done
            lost = self.fault == "lost bonus" and gamma > 0
            stale = self.fault == "stale context"
            left_out = (lost & (counts == gamma + 1)) | (stale & (counts < gamma + 1) & (counts > 1))
            size = np.where(live, size + counts, size)
            seen_size = np.where(live, seen_size + counts - left_out, seen_size)
            done |= size >= self.length
            if case.eos is not None:
                done |= (text == case.eos).any(axis=1)
        return Rollout(
            text[:, : self.length],
            np.stack([counts for counts, _, _ in history], axis=1),
            np.stack([drafts for _, drafts, _ in history], axis=1),
            np.stack([q for _, _, q in history], axis=1),
        )

    def _draft(
        self, tables: _Tables, context: Ints, size: Ints, gamma: int, rng: np.random.Generator
    ) -> tuple[Ints, Floats, Floats]:
        n, vocab = len(context), tables.case.vocab
        drafts = np.zeros((n, gamma), dtype=np.int64)
        q = np.zeros((n, gamma, vocab))
        noise = rng.gumbel(size=(n, gamma, vocab))
        for i in range(gamma):
            q[:, i] = tables.draft[tables.index(context, size, drafts[:, :i])]
            row = q[:, i]
            if self.fault == "draft at another temperature":
                row = row**1.3
            if self.fault == "drafts by argmax":
                drafts[:, i] = row.argmax(axis=1)
            elif self.fault == "shared noise":
                with np.errstate(divide="ignore"):
                    drafts[:, i] = (np.log(row) + noise[:, i]).argmax(axis=1)
            else:
                drafts[:, i] = inverse_cdf(row, rng.random(n))
        return drafts, q, noise

    def _target_rows(self, tables: _Tables, context: Ints, size: Ints, drafts: Ints) -> Floats:
        gamma = drafts.shape[1]
        return np.stack([tables.target[tables.index(context, size, drafts[:, :i])] for i in range(gamma + 1)], axis=1)

    def _ended(self, case: Case, tokens: Ints, counts: Ints) -> Emitted:
        if case.eos is None or self.fault == "goes on after the end":
            return tokens, counts
        width = tokens.shape[1]
        ends = np.where(tokens == case.eos, np.arange(width), width).min(axis=1)
        return tokens, np.minimum(counts, ends + 1)

    def _remembered(self, i: int, counts: Ints, gamma: int) -> Any:
        if self.fault == "lost bonus":
            return (counts < gamma + 1) | (i < gamma)
        if self.fault == "stale context":
            return (counts == gamma + 1) | (counts == 1) | (i < counts - 1)
        return np.ones(len(counts), dtype=np.bool_)


def _redrawn(rows: Floats, q: Floats, tokens: Ints, counts: Ints, noise: Floats) -> Ints:
    """Replacements drawn again, with the noise that drew the rejected draft."""
    tokens = tokens.copy()
    stopped = np.flatnonzero(counts <= q.shape[1])
    at = counts[stopped] - 1
    rest = np.maximum(rows[stopped, at] - q[stopped, at], 0.0)
    with np.errstate(divide="ignore"):
        tokens[stopped, at] = (np.log(rest) + noise[stopped, at]).argmax(axis=1)
    return tokens


class _Tables:
    """A case's laws as one array over prefixes, shortest first."""

    def __init__(self, case: Case) -> None:
        self.case = case
        depth = case.depth
        self.starts = np.cumsum([0, *(case.vocab**length for length in range(depth + 1))])
        strings = [s for length in range(depth + 1) for s in itertools.product(range(case.vocab), repeat=length)]
        uniform = [1.0 / case.vocab] * case.vocab  # prefixes past the end of a text: never part of one
        self.target = np.array([[float(x) for x in case.target.get(s, uniform)] for s in strings])
        self.draft = np.array([[float(x) for x in case.draft.get(s, case.target.get(s, uniform))] for s in strings])
        self.depth = depth

    def index(self, context: Ints, size: Ints, drafts: Ints) -> Ints:
        """Row of each prefix: the first ``size`` tokens of the context, then the drafts (cut to the longest known)."""
        code, length = np.zeros(len(context), dtype=np.int64), np.minimum(size + drafts.shape[1], self.depth)
        for i in range(self.depth):
            inside = i < length
            late = i >= size
            at = np.clip(i - size, 0, max(drafts.shape[1] - 1, 0))
            drafted = drafts[np.arange(len(drafts)), at] if drafts.shape[1] else np.zeros(len(context), dtype=np.int64)
            symbol = np.where(late, drafted, context[:, min(i, context.shape[1] - 1)])
            code = np.where(inside, code * self.case.vocab + np.maximum(symbol, 0), code)
        return np.asarray(self.starts[length] + code)


@dataclass(frozen=True)
class PenalisedEngine:
    """An engine whose target is a base law with a repetition penalty that it keeps track of itself."""

    length: int
    base: tuple[int, ...] = (6, 3, 2)
    sampler: Sampler = token
    fault: str | None = None

    def __call__(self, case: Case, n: int, rng: np.random.Generator) -> Rollout:
        """Run n texts of ``penalised_case``."""
        vocab, gamma = len(self.base), case.gamma
        base = np.array(self.base, dtype=np.float64)
        q_row = np.array([float(x) for x in case.draft[()]])
        text = np.full((n, self.length + gamma + 1), -1, dtype=np.int64)
        size, seen = np.zeros(n, dtype=np.int64), np.zeros((n, vocab))
        while (size < self.length).any():
            drafts = inverse_cdf(np.tile(q_row, (n * gamma, 1)), rng.random(n * gamma)).reshape(n, gamma)
            one_hot = np.eye(vocab)[drafts]
            before = np.concatenate([np.zeros((n, 1, vocab)), np.cumsum(one_hot, axis=1)], axis=1)
            rows = base * 0.5 ** (0.0 if self.fault == "penalty ignored" else seen[:, None] + before)
            rows = np.broadcast_to(rows, (n, gamma + 1, vocab))
            rows = rows / rows.sum(axis=2, keepdims=True)
            q = np.tile(q_row, (n, gamma, 1))
            tokens, counts = self.sampler(rows, q, drafts, rng)
            for i in range(gamma + 1):
                live = np.flatnonzero((size < self.length) & (i < counts))
                text[live, size[live] + i] = tokens[live, i]
                tracked = live if self.fault != "last accepted only" else live[counts[live] == i + 1]
                seen[tracked, tokens[tracked, i]] += 1
                if self.fault == "rejected counted" and i < gamma:
                    missed = np.flatnonzero((size < self.length) & (i >= counts - 1))
                    seen[missed, drafts[missed, i]] += 1
            size = np.where(size < self.length, size + counts, size)
        return Rollout(text[:, : self.length])


def penalised_case(gamma: int, length: int, base: tuple[int, ...] = (6, 3, 2)) -> Case:
    """The case of ``PenalisedEngine``: token x has weight base(x) halved for each time it occurred before."""
    vocab = len(base)
    depth = max(length, gamma)
    strings = [s for size in range(depth + 1) for s in itertools.product(range(vocab), repeat=size)]

    def row(prefix: String) -> tuple[Fraction, ...]:
        weights = [Fraction(w, 2 ** prefix.count(x)) for x, w in enumerate(base)]
        return tuple(w / sum(weights) for w in weights)

    q = tuple(Fraction(1, vocab) for _ in base)
    return Case({s: row(s) for s in strings}, dict.fromkeys(strings, q), gamma, name="repetition penalty")
