"""Expected tokens of a draft/verify round, from what survives of its draft."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.laws import round_start_law
from specsim.errors import InputError

Floats = NDArray[np.float64]


def expected_tokens(survival: ArrayLike) -> Floats:
    """Tokens a round emits, bonus included: 1 + sum of survival over the last axis.

    The expectation of a count is the sum of its tail probabilities, so this holds for any dependence between
    positions. With an empty last axis (K = 0) it is 1.
    """
    return np.asarray(1.0 + np.asarray(survival, dtype=np.float64).sum(axis=-1))


def expected_tokens_by_k(survival: ArrayLike) -> Floats:
    """Tokens per round for every K = 0..n when survival does not depend on K: shape (..., n + 1) from (..., n)."""
    s = np.asarray(survival, dtype=np.float64)
    return np.concatenate([np.ones((*s.shape[:-1], 1)), 1.0 + np.cumsum(s, axis=-1)], axis=-1)


def expected_tokens_iid(rate: ArrayLike, k: ArrayLike) -> Floats:
    """(1 - a^(K+1)) / (1 - a), and K + 1 at a = 1 (Leviathan et al., arXiv 2211.17192, eq. 1). Broadcasts.

    K may be any real number >= 0 (the continuous optimum needs it). Near a = 1 the quotient is taken by expm1 and
    log1p, which keeps full precision.
    """
    a, n = np.broadcast_arrays(np.asarray(rate, dtype=np.float64), np.asarray(k, dtype=np.float64))
    with np.errstate(divide="ignore", invalid="ignore"):
        log_a = np.log(a)
        quotient = np.expm1((n + 1.0) * log_a) / np.expm1(log_a)
    return np.asarray(np.where(a == 0, 1.0, np.where(a == 1, n + 1.0, quotient)))


def expected_tokens_beta(a: float, b: float, k: int) -> float:
    """Mean over requests of tokens per round when each request's i.i.d. rate is drawn from Beta(a, b).

    Sum over i = 0..K of E[rate^i] = prod_{j<i} (a + j) / (a + b + j): the moments of the Beta law. By Jensen it is at
    least the value at the mean rate. It weights requests alike; a server's counters weight them by rounds.
    """
    if not (a > 0 and b > 0):
        raise InputError(f"Beta({a}, {b}) needs both parameters above 0", field="a, b")
    j = np.arange(k, dtype=np.float64)
    return float(1.0 + np.cumprod((a + j) / (a + b + j)).sum())


def expected_tokens_modulated(rates: ArrayLike, transition: ArrayLike, k: int) -> float:
    """Tokens per round when a hidden state, moving once a token, sets the acceptance rate.

    ``pi (I + Lambda M + ... + (Lambda M)^K) 1`` with Lambda = diag(rates), M the token-level transition and pi the law
    of the state at the start of a round (``round_start_law``), not M's own stationary law.
    """
    kernel = np.asarray(rates, dtype=np.float64)[:, None] * np.asarray(transition, dtype=np.float64)
    law, total = round_start_law(rates, transition, k), 0.0
    for _ in range(k + 1):
        total += float(law.sum())
        law = law @ kernel
    return total


def expected_tokens_lockstep(survival: ArrayLike, batch: int) -> tuple[float, float]:
    """Tokens per round of a batch that moves in lock-step: (cut to the shortest row, padded to the longest).

    For independent rows with survival S: 1 + sum S_i^B and 1 + sum (1 - (1 - S_i)^B), the tails of the minimum and
    the maximum. Ragged verification, which every serving engine does, keeps the mean instead.
    """
    s = np.asarray(survival, dtype=np.float64)
    return float(1.0 + (s**batch).sum()), float(1.0 + (1.0 - (1.0 - s) ** batch).sum())


def expected_rounds_iid(rate: float, k: int, tokens: int) -> float:
    """Mean rounds at an i.i.d. rate until ``tokens`` are written; the last round may write more.

    A renewal count: the sum over n < tokens of P(some round begins with n tokens written).
    """
    law = np.zeros(k + 2)
    law[1 : k + 1] = (1.0 - rate) * rate ** np.arange(k)
    law[k + 1] = rate**k
    visits = np.zeros(tokens)
    visits[0] = 1.0
    for at in range(1, tokens):
        reach = min(at, k + 1)
        visits[at] = visits[at - reach : at] @ law[reach:0:-1]
    return float(visits.sum())
