"""Exact conversions between the ways in which people write down what survives of a draft.

Five quantities describe a chain of K drafted tokens, and most reports name only "acceptance rate":

==================  =====================================================================================
conditional         ``conditional[i]`` = P(token i+1 accepted | the i before it accepted)
survival            ``survival[i]`` = P(the first i+1 all accepted); vLLM's "per-position acceptance rate"
acceptance length   tokens a round emits, the bonus (or correction) token included: 1 + sum(survival)
accepted rate       accepted over drafted tokens = sum(survival) / K; vLLM's "draft acceptance rate"
i.i.d. rate         the one conditional rate that would give the same acceptance length
==================  =====================================================================================

Arrays hold positions on the last axis; leading axes are free. Every function raises InputError for values out of range.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.checks import checked_length, checked_rates, checked_survival
from specsim.errors import InputError

Floats = NDArray[np.float64]


def survival_from_conditional(conditional: ArrayLike) -> Floats:
    """Survival of conditional rates: their running product along the last axis."""
    return np.asarray(
        np.cumprod(checked_rates(conditional, field="conditional acceptance rates"), axis=-1), dtype=np.float64
    )


def conditional_from_survival(survival: ArrayLike) -> Floats:
    """Conditional rates of a survival: each position over the one before it.

    A position that is never reached (survival 0 before it) has no conditional rate; 0 stands there.
    """
    s = checked_survival(survival, field="survival")
    before = np.concatenate([np.ones((*s.shape[:-1], 1)), s[..., :-1]], axis=-1)
    return np.asarray(np.divide(s, before, out=np.zeros_like(s), where=before > 0))


def length_from_survival(survival: ArrayLike) -> Floats:
    """Acceptance length, bonus token included: 1 + sum of survival over the last axis."""
    return np.asarray(1.0 + checked_survival(survival, field="survival").sum(axis=-1))


def accepted_rate_from_survival(survival: ArrayLike) -> Floats:
    """Accepted over drafted tokens (vLLM's draft acceptance rate, as a fraction): mean of survival over positions."""
    s = checked_survival(survival, field="survival")
    if s.shape[-1] == 0:
        raise InputError("no drafted tokens, so accepted/drafted is undefined; give K >= 1", field="survival")
    return np.asarray(s.mean(axis=-1))


def length_from_accepted_rate(accepted_rate: ArrayLike, k: int) -> Floats:
    """Acceptance length from accepted/drafted tokens at a draft length: 1 + K * rate."""
    return np.asarray(1.0 + k * checked_rates(accepted_rate, field="accepted/drafted rate"))


def accepted_rate_from_length(length: ArrayLike, k: int) -> Floats:
    """Accepted/drafted tokens from an acceptance length (bonus included) at a draft length: (length - 1) / K."""
    if k < 1:
        raise InputError(f"k={k}: accepted/drafted needs at least one drafted token", field="k")
    return np.asarray((checked_length(length, k, field="length") - 1.0) / k)


def length_from_iid_rate(rate: ArrayLike, k: int) -> Floats:
    """Acceptance length of equal conditional rates: 1 + a + ... + a^K (Leviathan et al., arXiv 2211.17192, eq. 1)."""
    a = checked_rates(rate, field="rate")
    total = np.ones_like(a)
    for _ in range(k):
        total = total * a + 1.0
    return total


def iid_rate_from_length(length: ArrayLike, k: int) -> Floats:
    """The i.i.d. rate ``a`` with 1 + a + ... + a^K equal to an acceptance length in [1, K+1].

    Newton's method from a = 1: the sum is convex and increasing in a, so the iterates fall to the root without
    overshooting. K = 0 carries no information and raises InputError.
    """
    if k < 1:
        raise InputError(f"k={k}: an acceptance length at K = 0 says nothing about acceptance", field="k")
    target = checked_length(length, k, field="length")
    a = np.ones_like(target)
    for _ in range(200):
        value, slope = np.ones_like(a), np.zeros_like(a)
        for _ in range(k):
            slope = slope * a + value
            value = value * a + 1.0
        step = (value - target) / slope
        a = np.clip(a - step, 0.0, 1.0)
        if np.all(np.abs(step) <= 1e-15):
            break
    return np.asarray(a)


def iid_rate_from_survival(survival: ArrayLike) -> Floats:
    """The i.i.d. rate that gives the same acceptance length as a survival."""
    s = np.asarray(survival, dtype=np.float64)
    return iid_rate_from_length(length_from_survival(s), s.shape[-1])


def minimum_variance_survival(length: float, k: int) -> Floats:
    """Survival with a given acceptance length whose accepted count varies least: ones, one fraction, zeros.

    It is what vLLM's synthetic sampler makes of ``synthetic_acceptance_length`` (vllm/config/speculative.py).
    """
    accepted = float(checked_length(length, k, field="length")) - 1.0
    return np.clip(accepted - np.arange(k, dtype=np.float64), 0.0, 1.0)


def survival_from_histogram(histogram: ArrayLike) -> Floats:
    """Survival from counts of rounds: ``histogram[..., j]`` rounds accepted exactly j of K = len - 1 drafted tokens."""
    counts = np.asarray(histogram, dtype=np.float64)
    if counts.ndim < 1 or counts.shape[-1] < 1 or not np.all(np.isfinite(counts)) or np.any(counts < 0):
        raise InputError("must hold counts >= 0 for 0..K accepted tokens", field="acceptance_histogram")
    total = counts.sum(axis=-1, keepdims=True)
    if np.any(total == 0):
        raise InputError("has no rounds; take it after the server has drafted something", field="acceptance_histogram")
    at_least = np.cumsum(counts[..., ::-1], axis=-1)[..., ::-1]
    return np.asarray(at_least[..., 1:] / total)


def accepted_probabilities(survival: ArrayLike) -> Floats:
    """P(exactly j tokens accepted), j = 0..K: the differences of survival with 1 before it and 0 after it."""
    s = checked_survival(survival, field="survival")
    edge = np.ones((*s.shape[:-1], 1))
    return np.asarray(np.concatenate([edge, s], axis=-1) - np.concatenate([s, 0.0 * edge], axis=-1))


def token_weighted_length(emitted: ArrayLike, rounds: ArrayLike) -> float:
    """Acceptance length of a fleet counter: all tokens emitted by rounds over all rounds (bonus included).

    A request counts by its rounds. It is the harmonic mean of the requests' own lengths, weighted by their tokens.
    """
    tokens, count = _per_request(emitted, rounds)
    return float(tokens.sum() / count.sum())


def request_weighted_length(emitted: ArrayLike, rounds: ArrayLike) -> float:
    """Mean over requests of each one's own acceptance length (bonus included): a long request counts like a short."""
    tokens, count = _per_request(emitted, rounds)
    return float((tokens / count).mean())


def _per_request(emitted: ArrayLike, rounds: ArrayLike) -> tuple[Floats, Floats]:
    tokens, count = np.asarray(emitted, dtype=np.float64), np.asarray(rounds, dtype=np.float64)
    if tokens.shape != count.shape or tokens.ndim != 1 or tokens.size == 0:
        raise InputError(
            f"emitted {tokens.shape} and rounds {count.shape} must be one number a request", field="rounds"
        )
    if not np.all(count > 0) or not np.all(tokens >= count):
        raise InputError("every request needs rounds > 0 and at least one token a round", field="rounds")
    return tokens, count
