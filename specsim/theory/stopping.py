"""When to stop drafting: the one-step rule is optimal, because survival never rises."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]


def stopping_threshold(rate_tokens_per_s: float, marginal_s: float) -> float:
    """Draft one more token while its predicted survival exceeds this: best tokens per second x its marginal seconds.

    A round's drafting is an optimal stopping problem with reward rate rho: one more token gains its survival, at a
    price of rho * marginal_s. Survival predictions never rise along a draft (the product of probabilities), so once the
    step doesn't pay it never will again: the monotone case of Chow and Robbins, where the one-step rule is optimal.
    """
    if not (rate_tokens_per_s > 0 and marginal_s > 0):
        raise InputError("rate and marginal seconds must be above 0", field="rate_tokens_per_s, marginal_s")
    return rate_tokens_per_s * marginal_s


def optimal_stopping_rate(
    survival_paths: ArrayLike, *, round_s: float, marginal_s: float, max_k: int | None = None
) -> float:
    """Best long-run tokens per second of a policy that sees survival predictions, over sampled rounds.

    survival_paths: (rounds, positions) predicted survival of each position, calibrated and non-increasing along a row
    (what a drafter's confidence would say before verification). round_s: seconds of a round before its first drafted
    token. Solves rho * E[time] = E[tokens] under the threshold rule of ``stopping_threshold`` by Dinkelbach's
    iteration, which rises monotonically to the fixed point.
    """
    paths = np.atleast_2d(np.asarray(survival_paths, dtype=np.float64))[:, :max_k]
    if np.any(np.diff(paths, axis=1) > 1e-12) or np.any(paths < 0) or np.any(paths > 1):
        raise InputError("must hold probabilities that do not rise along a row", field="survival_paths")
    rate = 1.0 / round_s
    for _ in range(200):
        drafted = paths > rate * marginal_s
        updated = (1.0 + float((paths * drafted).sum(axis=1).mean())) / (
            round_s + marginal_s * float(drafted.sum(axis=1).mean())
        )
        if updated <= rate * (1.0 + 1e-15):
            return max(rate, updated)
        rate = updated
    return rate


def best_fixed_rate(survival_paths: ArrayLike, *, round_s: float, marginal_s: float) -> tuple[int, float]:
    """Best constant draft length on the same rounds, and its tokens per second: what stopping is compared with."""
    paths = np.atleast_2d(np.asarray(survival_paths, dtype=np.float64))
    tokens = np.concatenate([[1.0], 1.0 + np.cumsum(paths.mean(axis=0))])
    rates = tokens / (round_s + marginal_s * np.arange(len(tokens)))
    k = int(np.argmax(rates))
    return k, float(rates[k])


def marginal_k(survival: ArrayLike, time_s: Callable[[int], float]) -> int:
    """The first K at which one more token does not raise tokens per second.

    The best K where survival does not depend on K and the seconds of each further token don't fall (docs/theory.md);
    elsewhere take ``best_k`` over all lengths.
    """
    s = np.asarray(survival, dtype=np.float64)
    tokens, seconds = 1.0, time_s(0)
    for k, gain in enumerate(s):
        extra = time_s(k + 1) - seconds
        if gain * seconds <= tokens * extra:
            return k
        tokens, seconds = tokens + float(gain), seconds + extra
    return len(s)
