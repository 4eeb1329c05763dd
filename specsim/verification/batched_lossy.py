"""The lossy chain rules on arrays, as ``batched.Sampler`` objects made from their parameters."""

# ruff: noqa: ARG001 - rules share one signature, whatever each of them reads

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.verification.batched import Floats, Ints, Sampler, _residual, at_tokens, leading

Judging = tuple[Ints, Callable[[Ints], Floats]]


def lenience(factor: float) -> Sampler:
    """``lossy.lenience``: accept with min(1, p/(factor q)), residual (p - q)+."""
    return _by(lambda p, q, x, u: u * factor * at_tokens(q, x) < at_tokens(p, x), "lenience")


def judge(good: Sequence[bool]) -> Sampler:
    """``lossy.judge``: the standard coin, or ``good[token]``."""
    fine = np.asarray(good, dtype=np.bool_)
    return _by(lambda p, q, x, u: (u * at_tokens(q, x) < at_tokens(p, x)) | fine[np.maximum(x, 0)], "judge")


def fuzzy(threshold: float, divergence: str = "tv") -> Sampler:
    """``lossy.fuzzy``: everything is accepted where Div(p, q) <= threshold."""

    def accept(p: Floats, q: Floats, x: Ints, u: Floats) -> Any:
        near = _divergence(p[:, :-1], q, divergence) <= threshold
        return near | (u * at_tokens(q, x) < at_tokens(p, x))

    return _by(accept, "fuzzy")


def ensemble(weight: float) -> Sampler:
    """``lossy.ensemble``: the token rule against weight p + (1 - weight) q; the bonus is p's."""

    def judged(p: Floats, q: Floats | None, x: Ints, u: Floats) -> Judging:
        mixed = p.copy()
        mixed[:, :-1] = weight * p[:, :-1] + (1 - weight) * _rows(q)
        length = leading(x >= 0)
        short = np.flatnonzero(length < x.shape[1])
        mixed[short, length[short]] = p[short, length[short]]
        accept = (u * at_tokens(_rows(q), x) < at_tokens(mixed, x)) & (x >= 0)
        return leading(accept), lambda accepted: _residual(mixed, q, x, accepted)

    return Sampler(judged, "ensemble")


def adaptive(stop_entropy: float, accept_distance: float) -> Sampler:
    """``lossy.adaptive``: drafting ends where q's entropy exceeds a bound; near rows are accepted outright."""

    def judged(p: Floats, q: Floats | None, x: Ints, u: Floats) -> Judging:
        kept = np.cumsum(_entropy(_rows(q)) > stop_entropy, axis=1) == 0
        cut = np.where(kept, x, -1)
        return fuzzy(accept_distance**2, "js").judge(p, q, cut, u)

    return Sampler(judged, "adaptive")


def cactus(delta: float) -> Sampler:
    """``lossy.cactus``: the drafted token's target is raised, the others' lowered; residual against that row."""

    def judged(p: Floats, q: Floats | None, x: Ints, u: Floats) -> Judging:
        drafts = x.shape[1]
        own = at_tokens(p, x)
        top = np.minimum(1.0, own + np.sqrt(2 * delta * own * (1 - own)))
        accepted = leading((u * at_tokens(_rows(q), x) < top) & (x >= 0))

        def last_row(accepted: Ints) -> Floats:
            every = np.arange(len(x))
            at = np.minimum(accepted, max(drafts - 1, 0))
            raised = p.copy()
            stopped = np.flatnonzero((accepted < drafts) & (x[every, at] >= 0)) if drafts else np.empty(0, np.int64)
            i, token = at[stopped], x[stopped, at[stopped]]
            before, after = own[stopped, i], top[stopped, i]
            share = np.divide(1 - after, 1 - before, out=np.zeros(len(stopped)), where=before < 1)
            raised[stopped, i] *= share[:, None]
            raised[stopped, i, token] = after
            return _residual(raised, q, x, accepted)

        return accepted, last_row

    return Sampler(judged, "cactus")


def typical(epsilon: float, delta: float) -> Sampler:
    """``lossy.typical``: accept iff p > min(epsilon, delta exp(-H(p))), else the argmax."""

    def judged(p: Floats, q: Floats | None, x: Ints, u: Floats) -> Judging:
        floor = np.minimum(epsilon, delta * np.exp(-_entropy(p[:, :-1])))
        return leading((at_tokens(p, x) > floor) & (x >= 0)), lambda accepted: _top(p, accepted)

    return Sampler(judged, "typical")


def biased_argmax(bias: float) -> Sampler:
    """``lossy.biased_argmax``: accept iff max p - p(d) <= bias/(1 - bias), else the argmax."""

    def judged(p: Floats, q: Floats | None, x: Ints, u: Floats) -> Judging:
        near = (1 - bias) * (p[:, :-1].max(axis=2) - at_tokens(p, x)) <= bias
        return leading(near & (x >= 0)), lambda accepted: _top(p, accepted)

    return Sampler(judged, "biased_argmax")


def big_little(fallback: float, rollback: float) -> Sampler:
    """``lossy.big_little``: drafting ends where max q < fallback; accept iff -log p(d) <= rollback, else from p."""

    def judged(p: Floats, q: Floats | None, x: Ints, u: Floats) -> Judging:
        own = at_tokens(p, x)
        sure = np.cumsum(_rows(q).max(axis=2) < fallback, axis=1) == 0
        kept = sure & (-np.log(np.maximum(own, 1e-300)) <= rollback) & (own > 0) & (x >= 0)
        return leading(kept), lambda accepted: p[np.arange(len(p)), accepted]

    return Sampler(judged, "big_little")


def reward(keep: Sequence[float]) -> Sampler:
    """``lossy.reward``: keep a draft with probability keep[token], else a token of p."""
    weights = np.asarray(keep, dtype=np.float64)

    def judged(p: Floats, q: Floats | None, x: Ints, u: Floats) -> Judging:
        kept = (u < weights[np.maximum(x, 0)]) & (x >= 0)
        return leading(kept), lambda accepted: p[np.arange(len(p)), accepted]

    return Sampler(judged, "reward")


LOSSY: dict[str, Callable[..., Sampler]] = {
    "lenience": lenience,
    "typical": typical,
    "ensemble": ensemble,
    "fuzzy": fuzzy,
    "adaptive": adaptive,
    "big_little": big_little,
    "biased_argmax": biased_argmax,
    "reward": reward,
    "judge": judge,
    "cactus": cactus,
}
"""Makers of lossy samplers by the name of their rule."""


def _by(accept: Callable[[Floats, Floats, Ints, Floats], NDArray[np.bool_]], name: str) -> Sampler:
    """The token rule's residual behind another acceptance."""

    def judged(p: Floats, q: Floats | None, x: Ints, u: Floats) -> Judging:
        fine = accept(p, _rows(q), x, u) & (x >= 0)
        return leading(fine), lambda accepted: _residual(p, q, x, accepted)

    return Sampler(judged, name)


def _rows(q: Floats | None) -> Floats:
    if q is None:
        raise ValueError("this rule needs the drafts' law q")
    return q


def _top(p: Floats, accepted: Ints) -> Floats:
    rows = p[np.arange(len(p)), accepted]
    best = np.zeros_like(rows)
    best[np.arange(len(p)), rows.argmax(axis=1)] = 1.0
    return best


def _entropy(rows: Floats) -> Floats:
    return -np.asarray(np.sum(rows * np.log(np.where(rows > 0, rows, 1.0)), axis=-1))


def _divergence(p: Floats, q: Floats, kind: str) -> Floats:
    if kind == "tv":
        return np.asarray(np.abs(p - q).sum(axis=-1) / 2)
    if kind == "js":
        middle = (p + q) / 2
        return np.asarray((_kl(p, middle) + _kl(q, middle)) / 2)
    return _kl(p, q)


def _kl(p: Floats, q: Floats) -> Floats:
    inside = p > 0  # elsewhere nothing is added, not even where q is 0 as well
    with np.errstate(divide="ignore"):
        terms = p * (np.log(np.where(inside, p, 1.0)) - np.log(np.where(inside, q, 1.0)))
    return np.asarray(terms.sum(axis=-1))
