"""Stationary laws of hidden states that modulate acceptance."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]


def round_start_law(rates: ArrayLike, transition: ArrayLike, k: int) -> Floats:
    """Stationary law of the hidden state where rounds start, shape (states,).

    A round that accepts j < K tokens moves the state j times through Lambda M, then once through (I - Lambda) M for the
    correction; a full one ends with the bonus token's M. So rounds embed the chain
    ``sum_{j<K} (Lambda M)^j (I - Lambda) M + (Lambda M)^K M``. Easy stretches take fewer rounds, so pi leans to hard
    states, the more the longer the draft.
    """
    lam, m = np.asarray(rates, dtype=np.float64), np.asarray(transition, dtype=np.float64)
    accept, reject = lam[:, None] * m, (1.0 - lam)[:, None] * m
    power, embedded = np.eye(len(lam)), np.zeros_like(m)
    for _ in range(k):
        embedded += power @ reject
        power = power @ accept
    embedded += power @ m
    return stationary_law(embedded)


def stationary_law(transition: ArrayLike) -> Floats:
    """The law that a transition matrix keeps: solves pi P = pi, sum pi = 1. Raises InputError where it isn't unique."""
    p = np.asarray(transition, dtype=np.float64)
    if p.ndim != 2 or p.shape[0] != p.shape[1] or np.any(p < 0) or not np.allclose(p.sum(axis=1), 1.0, atol=1e-9):
        raise InputError("must be a square matrix of probabilities whose rows sum to 1", field="transition")
    n = len(p)
    system = np.vstack([p.T - np.eye(n), np.ones(n)])
    if np.linalg.matrix_rank(system, tol=1e-12) < n or np.linalg.matrix_rank(p.T - np.eye(n), tol=1e-12) < n - 1:
        raise InputError("has several stationary laws; its states must reach each other", field="transition")
    law = np.linalg.lstsq(system, np.concatenate([np.zeros(n), [1.0]]), rcond=None)[0]
    law = np.clip(law, 0.0, None)
    return np.asarray(law / law.sum())
