"""The i.i.d. model of Leviathan et al.: one acceptance rate, one cost ratio, the best draft length in closed form."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError
from specsim.theory.tokens import expected_tokens_iid

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def leviathan_speedup(rate: ArrayLike, k: ArrayLike, draft_cost_ratio: ArrayLike) -> Floats:
    """(1 - a^(K+1)) / ((1 - a)(K c + 1)): Theorem 3.8 of arXiv 2211.17192, verification as cheap as one decode step.

    draft_cost_ratio: c, seconds of one draft step over those of one target step.
    """
    cost = np.asarray(k, dtype=np.float64) * np.asarray(draft_cost_ratio, dtype=np.float64) + 1.0
    return np.asarray(expected_tokens_iid(rate, k) / cost)


def leviathan_operations(rate: ArrayLike, k: ArrayLike, draft_operations_ratio: ArrayLike) -> Floats:
    """Arithmetic with speculation over arithmetic without: (K c' + K + 1) / tokens (Theorem 3.11 of arXiv 2211.17192).

    draft_operations_ratio: c', operations of a draft step over those of a target step, per token.
    """
    n = np.asarray(k, dtype=np.float64)
    work = n * np.asarray(draft_operations_ratio, dtype=np.float64) + n + 1.0
    return np.asarray(work / expected_tokens_iid(rate, k))


def best_k_iid_continuous(rate: float, marginal_cost: float, *, fixed_cost: float = 1.0) -> float:
    """The real K >= 0 that maximises tokens_iid(a, K) / (fixed_cost + marginal_cost * K).

    marginal_cost: cost of one more drafted token, drafting and verification together; fixed_cost: the rest of a round;
    both in units of a plain step. With A = -ln a and B = 1 + A (fixed - marginal) / marginal the derivative vanishes at

        K* = -(B + W_{-1}(-e^-B)) / A - 1,

    W_{-1} being the lower branch of Lambert's function (derived in docs/theory.md). Where it is negative, or has no
    real value, no K > 0 is better than 0. For large B, where e^-B underflows, W_{-1} comes from its fixed point.
    """
    if not 0 < rate < 1:
        raise InputError(f"{rate} must lie strictly between 0 and 1 for an interior optimum", field="rate")
    if not (marginal_cost > 0 and fixed_cost > 0):
        raise InputError("costs must be above 0", field="marginal_cost, fixed_cost")
    a = -np.log(rate)
    b = 1.0 + a * (fixed_cost - marginal_cost) / marginal_cost
    if b <= 1.0:
        return 0.0
    # -(B + W) = ln(-W), which does not cancel.
    return float(max(0.0, np.log(-_lambert_lower(b)) / a - 1.0))


def best_k_iid(rate: float, marginal_cost: float, *, fixed_cost: float = 1.0, max_k: int = 1000) -> int:
    """The integer K in 0..max_k with most tokens per time, plain decoding (K = 0, cost 1, one token) included.

    The objective has one peak over K >= 0, so the best positive integer is a neighbour of the continuous optimum;
    ties go to the smaller. ``fixed_cost`` need not be 1, so K = 0 is compared as plain decoding, not as an empty round.
    """
    if rate <= 0 or max_k < 1:
        return 0
    if rate >= 1:
        # Tokens K + 1 over fixed + marginal K: monotone, rising where fixed > marginal.
        candidates = [1, max_k]
    else:
        centre = best_k_iid_continuous(rate, marginal_cost, fixed_cost=fixed_cost)
        candidates = [int(np.clip(np.floor(centre) + d, 1, max_k)) for d in (0, 1)]
    best, speed = 0, 1.0
    for k in sorted(set(candidates)):
        rate_k = float(expected_tokens_iid(rate, k)) / (fixed_cost + marginal_cost * k)
        if rate_k > speed:
            best, speed = k, rate_k
    return best


def _lambert_lower(b: float) -> float:
    """W_{-1}(-exp(-b)) for b >= 1: the w <= -1 with w + ln(-w) = -b, by Newton on that equation."""
    if b < 1.0 + 1e-12:
        return -1.0
    # Around the branch point w = -1 - sqrt(2 (b - 1)); far from it w = -b - ln b.
    w = -1.0 - np.sqrt(2.0 * (b - 1.0)) if b < 2.0 else -b - np.log(b)
    for _ in range(100):
        step = (w + np.log(-w) + b) / (1.0 + 1.0 / w)
        w = min(w - step, -1.0 - 1e-15)
        if abs(step) <= 1e-15 * abs(w):
            break
    return float(w)
