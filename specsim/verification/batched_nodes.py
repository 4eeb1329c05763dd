"""The rules for several drafts on arrays: target rows [B, V], draft rows [B, V], drafts [B, k] in the order tested.

``rule(p, q, drafts, rng) -> (tokens [B], accepted [B])``: the emitted token, and the index of the accepted draft or -1.
A draft of -1 is absent. ``traverse`` verifies whole trees.
"""

# ruff: noqa: ARG001 - rules share one signature, whatever each of them reads

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from specsim.verification import nodes
from specsim.verification.batched import Floats, Ints, inverse_cdf, or_else
from specsim.verification.lookup import NodeRuleSampler

Picked = tuple[Ints, Ints]
NodeSampler = Callable[[Floats, Floats, Ints, np.random.Generator], Picked]


def recursive(p: Floats, q: Floats, drafts: Ints, rng: np.random.Generator) -> Picked:
    """``nodes.recursive``: lossless for i.i.d. drafts."""
    left, accepted = p.copy(), np.full(len(p), -1)
    for j in range(drafts.shape[1]):
        x, going = _going(drafts, accepted, j)
        accepted[going[_coin(rng, left, q, going, x)]] = j
        going = going[accepted[going] < 0]
        left[going] = _normal(or_else(np.maximum(left[going] - q[going], 0.0), left[going]))
    return _finish(left, drafts, accepted, rng)


def recursive_without_replacement(p: Floats, q: Floats, drafts: Ints, rng: np.random.Generator) -> Picked:
    """``nodes.recursive_without_replacement``: lossless for drafts without replacement in the order drawn."""
    left, drawn, accepted = p.copy(), q.copy(), np.full(len(p), -1)
    for j in range(drafts.shape[1]):
        x, going = _going(drafts, accepted, j)
        accepted[going[_coin(rng, left, drawn, going, x)]] = j
        going = going[accepted[going] < 0]
        left[going] = _normal(or_else(np.maximum(left[going] - drawn[going], 0.0), left[going]))
        drawn[going, drafts[going, j]] = 0.0
        drawn[going] = _normal(drawn[going])
    return _finish(left, drafts, accepted, rng)


def certain(p: Floats, q: Floats, drafts: Ints, rng: np.random.Generator) -> Picked:
    """``nodes.certain``: lossless for different drafts that are certain given the prefix (EAGLE-2's rule)."""
    left, accepted = p.copy(), np.full(len(p), -1)
    for j in range(drafts.shape[1]):
        x, going = _going(drafts, accepted, j)
        accepted[going[rng.random(len(going)) < left[going, x]]] = j
        going = going[accepted[going] < 0]
        rest = left[going]
        rest[np.arange(len(going)), drafts[going, j]] = 0.0
        left[going] = _normal(or_else(rest, left[going]))
    return _finish(left, drafts, accepted, rng)


def target_only(
    p: Floats, q: Floats, drafts: Ints, rng: np.random.Generator, *, accept_all: float = 1.0, accept_single: float = 1.0
) -> Picked:
    """``nodes.target_only``: one coin a node against cumulated probabilities (SGLang's rule)."""
    rows = np.arange(len(p))
    there = drafts >= 0
    each = np.where(there, p[rows[:, None], np.maximum(drafts, 0)], 0.0)
    hit = there & ((rng.random(len(p))[:, None] * accept_all < np.cumsum(each, axis=1)) | (each >= accept_single))
    accepted = np.where(hit.any(axis=1), hit.argmax(axis=1), -1)
    left = p.copy()
    for j in range(drafts.shape[1]):
        left[rows[there[:, j]], drafts[there[:, j], j]] = 0.0
    return _finish(or_else(left, p), drafts, accepted, rng)


def k_sequential(p: Floats, q: Floats, drafts: Ints, rng: np.random.Generator) -> Picked:
    """``nodes.k_sequential`` at its smallest valid factor, found by bisection: lossless for i.i.d. drafts."""
    k, accepted = drafts.shape[1], np.full(len(p), -1)
    low, high = np.ones(len(p)), np.full(len(p), float(k))

    def shared(rho: Floats) -> Floats:
        return np.asarray(np.minimum(q, p / rho[:, None]))

    def valid(rho: Floats) -> Any:
        beta = shared(rho).sum(axis=1)
        return 1.0 - (1.0 - beta) ** k <= rho * beta

    high = np.where(valid(low), low, high)
    for _ in range(45):
        middle = (low + high) / 2
        fine = valid(middle)
        low, high = np.where(fine, low, middle), np.where(fine, middle, high)
    for j in range(k):
        x, going = _going(drafts, accepted, j)
        accept = rng.random(len(going)) * high[going] * q[going, x] < p[going, x]
        accepted[going[accept]] = j
    part = shared(high)
    beta = part.sum(axis=1)
    share = np.divide(1.0 - (1.0 - beta) ** k, beta, out=np.zeros(len(p)), where=beta > 0)
    return _finish(or_else(np.maximum(p - part * share[:, None], 0.0), p), drafts, accepted, rng)


def hub_transport(p: Floats, q: Floats, drafts: Ints, rng: np.random.Generator) -> Picked:
    """``nodes.hub_transport``: lossless for two drafts from ``drafting.hub``."""
    rows, a = np.arange(len(p)), q.argmax(axis=1)
    others = q.copy()
    others[rows, a] = 0.0
    rest = 1.0 - q[rows, a]
    back = np.divide(q[rows, a, None] * others, rest[:, None], out=np.zeros_like(q), where=rest[:, None] > 1e-15)
    left = p.copy()
    hub_room = left[rows, a].copy()
    first = np.minimum(others, left)
    second = np.minimum(back, left - first)
    left = left - first - second
    left[rows, a] = hub_room
    over = (others - first).sum(axis=1) + (back - second).sum(axis=1)
    hub_share = np.minimum(1.0, np.divide(hub_room, over, out=np.zeros(len(p)), where=over > 0))
    left[rows, a] = hub_room - hub_share * over
    pair = (drafts >= 0).all(axis=1)
    is_second = drafts[:, 0] == a
    i = np.where(is_second, np.maximum(drafts[:, 1], 0), drafts[:, 0])
    drawn = np.where(is_second, back[rows, i], others[rows, i])
    kept = np.divide(np.where(is_second, second[rows, i], first[rows, i]), drawn, out=np.zeros(len(p)), where=drawn > 0)
    takes_i = pair & (rng.random(len(p)) < kept)
    takes_hub = ~takes_i & (rng.random(len(p)) < hub_share)
    accepted = np.where(takes_i, np.where(is_second, 1, 0), np.where(takes_hub, np.where(is_second, 0, 1), -1))
    alone = np.flatnonzero(~pair)
    tokens, accepted = _finish(or_else(np.maximum(left, 0.0), p), drafts, accepted, rng)
    if len(alone):  # the hub is the whole of q: one draft
        tokens[alone], accepted[alone] = recursive(p[alone], q[alone], drafts[alone, :1], rng)
    return tokens, accepted


optimal_transport = NodeRuleSampler(nodes.optimal_transport)
"""``nodes.optimal_transport`` for i.i.d. drafts: each different row is solved once, exactly, by its flow."""


SAMPLERS: dict[str, NodeSampler] = {
    "recursive": recursive,
    "recursive_without_replacement": recursive_without_replacement,
    "certain": certain,
    "target_only": target_only,
    "k_sequential": k_sequential,
    "hub_transport": hub_transport,
    "optimal_transport": optimal_transport,
}
"""The rules of ``nodes.MATCHING`` on arrays."""


def traverse(
    target: Floats, draft: Floats, tokens: Ints, shape: Sequence[int], rng: np.random.Generator
) -> tuple[Ints, Ints]:
    """``trees.traverse`` on a batch of trees: (emitted strings [B, depth + 1] padded with -1, their lengths [B]).

    Nodes are numbered depth first from the root 0: ``target`` [B, nodes, V], ``draft`` [B, nodes, V] (leaves unused),
    ``tokens`` [B, nodes] the token that reached each node (-1 absent; the root's is ignored).
    """
    rows = len(target)
    strings = np.full((rows, len(shape) + 1), -1, dtype=np.int64)
    counts = np.zeros(rows, dtype=np.int64)
    number = iter(range(target.shape[1]))

    def settle(node: int, depth: int, path: Ints, r: Floats, going: Any) -> None:
        m, left = target[:, node].copy(), draft[:, node].copy()
        for _ in range(shape[depth] if depth < len(shape) else 0):
            child = next(number)
            x = np.maximum(tokens[:, child], 0)
            every = np.arange(rows)
            q = left[every, x]
            odds = r * np.divide(m[every, x], q, out=np.where(m[every, x] > 0, 1.0, 0.0), where=q > 0)
            there = tokens[:, child] >= 0
            longer = np.column_stack([path, x])
            settle(child, depth + 1, longer, np.minimum(1.0, odds), going & there)
            going &= counts == 0
            over = np.maximum(r[:, None] * m - left, 0.0)
            more = over.sum(axis=1)
            some = there & (more > 0)
            m[some] = over[some] / more[some, None]
            rest = more + 1.0 - r
            r = np.where(there, np.divide(more, rest, out=r.copy(), where=rest > 0), r)
            gone = np.flatnonzero(there)
            left[gone, x[gone]] = 0.0
            left[gone] = _normal(left[gone])
        going &= counts == 0
        stops = np.flatnonzero(going if depth == 0 else going & (rng.random(rows) < r))
        strings[stops, :depth] = path[stops]
        strings[stops, depth] = inverse_cdf(m[stops], rng.random(len(stops)))
        counts[stops] = depth + 1

    next(number)
    settle(0, 0, np.zeros((rows, 0), dtype=np.int64), np.ones(rows), np.ones(rows, dtype=np.bool_))
    return strings, counts


def _going(drafts: Ints, accepted: Ints, j: int) -> Picked:
    """Draft j and the rows where it is there and nothing was accepted yet."""
    rows = np.flatnonzero((accepted < 0) & (drafts[:, j] >= 0))
    return drafts[rows, j], rows


def _coin(rng: np.random.Generator, p: Floats, q: Floats, rows: Ints, x: Ints) -> Any:
    return rng.random(len(rows)) * q[rows, x] < p[rows, x]


def _normal(rows: Floats) -> Floats:
    total = rows.sum(axis=1, keepdims=True)
    return np.asarray(np.divide(rows, total, out=rows.copy(), where=total > 0))


def _finish(left: Floats, drafts: Ints, accepted: Ints, rng: np.random.Generator) -> Picked:
    tokens = drafts[np.arange(len(drafts)), np.maximum(accepted, 0)].copy()
    missed = np.flatnonzero(accepted < 0)
    tokens[missed] = inverse_cdf(left[missed], rng.random(len(missed)))
    return tokens, accepted
