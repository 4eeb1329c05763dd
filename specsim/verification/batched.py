"""The chain rules on arrays: one call verifies a batch.

Every sampler is called as ``sampler(target_probs, draft_probs, draft_tokens, rng) -> (tokens, counts)``: target rows
[B, G+1, V], the rows the drafts were drawn from [B, G, V] (None: taken as certain), drafts [B, G] (-1 ends a row
early), and back tokens [B, G+1] padded with -1 and the number emitted [B], the bonus or correction included.
``sampler.inject(target_probs, draft_probs, draft_tokens, uniforms, final)`` is the same with the coins given: uniforms
[B, G] accept, final [B] picks the last token.
"""

# ruff: noqa: ARG001 - rules share one signature, whatever each of them reads

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Emitted = tuple[Ints, Ints]


class Judged(Protocol):
    """Which drafts are accepted [B, G] and what the last token is drawn from, given the number accepted [B] -> [B,
    V].
    """

    def __call__(
        self, target: Floats, draft: Floats | None, tokens: Ints, uniforms: Floats, /
    ) -> tuple[Ints, Callable[[Ints], Floats]]:
        """Return the number accepted [B], and a function from it to the rows of the last token."""
        ...


@dataclass(frozen=True)
class Sampler:
    """A rule as a sampler, with the coins drawn (called) or given (``inject``)."""

    judge: Judged
    name: str

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Verify a batch with coins from ``rng``."""
        rows, drafts = draft_tokens.shape
        return self.inject(target_probs, draft_probs, draft_tokens, rng.random((rows, drafts)), rng.random((rows,)))

    def inject(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        """Verify a batch with the caller's coins."""
        accepted, last_row = self.judge(target_probs, draft_probs, draft_tokens, uniforms)
        return emit(draft_tokens, accepted, inverse_cdf(last_row(accepted), final))


def _token(
    target: Floats, draft: Floats | None, tokens: Ints, uniforms: Floats
) -> tuple[Ints, Callable[[Ints], Floats]]:
    if tokens.shape[1] == 0:
        return np.zeros(len(tokens), dtype=np.int64), lambda accepted: _residual(target, draft, tokens, accepted)
    p = at_tokens(target, tokens)
    q = 1.0 if draft is None else at_tokens(draft, tokens)
    accept = (uniforms * q < p) & (tokens >= 0)
    return leading(accept), lambda accepted: _residual(target, draft, tokens, accepted)


def _block(
    target: Floats, draft: Floats | None, tokens: Ints, uniforms: Floats
) -> tuple[Ints, Callable[[Ints], Floats]]:
    rows, drafts = tokens.shape
    every = np.arange(rows)
    length = leading(tokens >= 0)
    rho = np.ones((rows, drafts + 1))
    best = np.zeros(rows, dtype=np.int64)
    for i in range(1, drafts + 1):
        x = np.maximum(tokens[:, i - 1], 0)
        q = draft[every, i - 1, x] if draft is not None else np.ones(rows)
        share = np.divide(target[every, i - 1, x], q, out=np.ones(rows), where=q > 0)
        rho[:, i] = np.minimum(1.0, rho[:, i - 1] * share)
        h = rho[:, i].copy()
        inner = np.flatnonzero(length > i)
        if len(inner):
            after = drafted_rows(draft, tokens, inner, i, target.shape[2])
            more = np.maximum(rho[inner, i, None] * target[inner, i] - after, 0.0).sum(axis=1)
            rest = more + 1.0 - rho[inner, i]
            h[inner] = np.divide(more, rest, out=np.ones(len(inner)), where=rest > 0)
        best = np.where((uniforms[:, i - 1] < h) & (i <= length), i, best)

    def last_row(accepted: Ints) -> Floats:
        row = target[every, accepted] * rho[every, accepted][:, None]
        stopped = np.flatnonzero(accepted < length)
        if len(stopped):
            q = _rows_at(draft, tokens, stopped, accepted[stopped], target.shape[2])
            row[stopped] = np.maximum(row[stopped] - q, 0.0)
        return or_else(row, target[every, accepted])

    return best, last_row


def _sample_and_match(target: Floats, draft: Floats | None, tokens: Ints, rng: np.random.Generator) -> Emitted:
    rows, width, vocab = target.shape
    own = inverse_cdf(target.reshape(-1, vocab), rng.random(rows * width)).reshape(rows, width)
    accepted = leading(own[:, :-1] == tokens)
    return emit(own[:, :-1], accepted, own[np.arange(rows), accepted])


def _coupled(target: Floats, draft: Floats | None, tokens: Ints, rng: np.random.Generator) -> Emitted:
    rows, width, vocab = target.shape
    own = np.empty((rows, width), dtype=np.int64)
    for i in range(width):
        noise = rng.exponential(size=(rows, vocab))
        here = np.flatnonzero(tokens[:, i] >= 0) if i < width - 1 else np.empty(0, dtype=np.int64)
        if len(here):
            q = drafted_rows(draft, tokens, here, i, vocab)
            won = rng.exponential(
                size=len(here)
            )  # the race's time is Exp(1) whoever wins; losers start afresh after it
            noise[here] += q * won[:, None]
            at = tokens[here, i]
            noise[here, at] = q[np.arange(len(here)), at] * won
        times = np.divide(noise, target[:, i], out=np.full((rows, vocab), np.inf), where=target[:, i] > 0)
        own[:, i] = times.argmin(axis=1)
    accepted = leading(own[:, :-1] == tokens)
    return emit(own[:, :-1], accepted, own[np.arange(rows), accepted])


def _greedy(target: Floats, draft: Floats | None, tokens: Ints, rng: np.random.Generator) -> Emitted:
    own = target.argmax(axis=2)
    accepted = leading(own[:, :-1] == tokens)
    return emit(own[:, :-1], accepted, own[np.arange(len(own)), accepted])


token = Sampler(_token, "token")
"""``chains.token`` on arrays: lossless, token by token."""

point_mass = Sampler(lambda target, _, tokens, uniforms: _token(target, None, tokens, uniforms), "point_mass")
"""``chains.point_mass`` on arrays: the drafts are taken as certain whatever ``draft_probs`` says."""

block = Sampler(_block, "block")
"""``chains.block`` on arrays: lossless, the longest prefix that its coin accepts."""

sample_and_match = _sample_and_match
"""``chains.sample_and_match`` on arrays: the target's own samples while they match."""

coupled = _coupled
"""``chains.coupled`` on arrays: the noise that the drafts won with is redrawn given that they won."""

greedy = _greedy
"""``chains.greedy`` on arrays: argmax, lowest index among equals."""

LOSSLESS = {
    "token": token,
    "point_mass": point_mass,
    "greedy": greedy,
    "sample_and_match": sample_and_match,
    "coupled": coupled,
    "block": block,
}
"""The reference sampler of every lossless chain rule."""


def at_tokens(rows: Floats, tokens: Ints) -> Floats:
    """Probability of each draft [B, G] in its row; that of token 0 where there is no draft."""
    count, drafts = tokens.shape
    flat = np.arange(count)[:, None] * (rows.shape[1] * rows.shape[2]) + np.arange(drafts) * rows.shape[2]
    return np.asarray(np.ascontiguousarray(rows).reshape(-1)[flat + np.maximum(tokens, 0)])


def leading(accept: NDArray[np.bool_]) -> Ints:
    """Length of the leading run of True in each row."""
    if accept.shape[1] == 0:
        return np.zeros(len(accept), dtype=np.int64)
    first = accept.argmin(axis=1)
    whole = accept[np.arange(len(accept)), first]
    return np.asarray(np.where(whole, accept.shape[1], first), dtype=np.int64)


def emit(tokens: Ints, accepted: Ints, last: Ints) -> Emitted:
    """Accepted tokens and one more a row, padded with -1, and how many there are."""
    rows, drafts = tokens.shape
    out = np.full((rows, drafts + 1), -1, dtype=np.int64)
    out[:, :drafts] = np.where(np.arange(drafts) < accepted[:, None], tokens, -1)
    out[np.arange(rows), accepted] = last
    return out, accepted + 1


def inverse_cdf(weights: Floats, u: Floats) -> Ints:
    """First token of each row [B, V] whose cumulative weight exceeds u times the total; never one of weight zero."""
    reached = np.cumsum(weights, axis=1)
    goal = u * reached[:, -1]
    if weights.shape[1] > 64 * len(weights) ** 0.5:  # few long rows: bisect each
        index = np.array([row.searchsorted(x, side="right") for row, x in zip(reached, goal, strict=True)], np.int64)
    else:
        index = np.asarray((reached <= goal[:, None]).sum(axis=1), dtype=np.int64)
    over = np.flatnonzero(index >= weights.shape[1])
    if len(over):  # u times the total rounded up to it: the last token with weight
        index[over] = weights.shape[1] - 1 - (weights[over, ::-1] > 0).argmax(axis=1)
    return index


def drafted_rows(draft: Floats | None, tokens: Ints, rows: Ints, i: int, vocab: int) -> Floats:
    """The law of draft i in some rows, a point mass where none was declared."""
    return _rows_at(draft, tokens, rows, np.full(len(rows), i), vocab)


def _rows_at(draft: Floats | None, tokens: Ints, rows: Ints, at: Ints, vocab: int) -> Floats:
    if draft is not None:
        return np.asarray(draft[rows, at])
    certain = np.zeros((len(rows), vocab))
    certain[np.arange(len(rows)), tokens[rows, at]] = 1.0
    return certain


def _residual(target: Floats, draft: Floats | None, tokens: Ints, accepted: Ints) -> Floats:
    every, drafts = np.arange(len(tokens)), tokens.shape[1]
    row = target[every, accepted]
    if drafts == 0:
        return row
    x = tokens[every, np.minimum(accepted, drafts - 1)]
    stopped = np.flatnonzero((accepted < drafts) & (x >= 0))
    if draft is None:
        row[stopped, x[stopped]] = 0.0
    elif len(stopped) == len(row):
        np.subtract(row, draft[every, accepted], out=row)
        np.maximum(row, 0.0, out=row)
    elif len(stopped):
        row[stopped] = np.maximum(row[stopped] - draft[stopped, accepted[stopped]], 0.0)
    return or_else(row, target, accepted)


def or_else(row: Floats, target: Floats, accepted: Ints | None = None) -> Floats:
    """The rows, and the target's where rounding left nothing to draw from."""
    empty = np.flatnonzero(~(row.max(axis=1) > 0.0))
    if len(empty):
        row[empty] = target[empty] if accepted is None else target[empty, accepted[empty]]
    return row
