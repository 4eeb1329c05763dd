"""Speedup of a draft/verify round over plain decoding, the draft length that is best, and where it starts to pay.

All functions take times and survival as arrays, and know nothing of where these come from.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def speedup(tokens: ArrayLike, round_s: ArrayLike, plain_s: ArrayLike) -> Floats:
    """Tokens per second with a round over tokens per second without: tokens * plain_s / round_s. Broadcasts.

    tokens: expected tokens of a round, bonus included (``expected_tokens``). round_s: seconds of the whole round
    (drafting, verification, host). plain_s: seconds of a decode step without speculation, at the same batch and
    context.
    """
    return np.asarray(tokens, dtype=np.float64) * _times(plain_s, "plain_s") / _times(round_s, "round_s")


def best_k(tokens: ArrayLike, round_s: ArrayLike, *, axis: int = 0) -> Ints:
    """The index along ``axis`` with most tokens per second; the smaller one where two are equal.

    Row 0 should be plain decoding (tokens 1), so that 0 says: do not speculate. The result has the
    broadcast shape without ``axis``.
    """
    rate = np.asarray(tokens, dtype=np.float64) / _times(round_s, "round_s")
    return np.asarray(np.argmax(rate, axis=axis), dtype=np.int64)


def break_even_length(round_s: ArrayLike, plain_s: ArrayLike, *, k: ArrayLike | None = None) -> Floats:
    """The acceptance length (bonus included) at which a round is exactly as fast as plain decoding: round_s / plain_s.

    It needs no acceptance evidence. With ``k`` given, lengths above K + 1, which no drafter can reach, become inf:
    there speculation cannot pay. Values below 1 (a round cheaper than a plain step) mean that it always pays.
    """
    length = _times(round_s, "round_s") / _times(plain_s, "plain_s")
    if k is None:
        return np.asarray(length)
    return np.asarray(np.where(length > np.asarray(k, dtype=np.float64) + 1.0, np.inf, length))


def break_even_rate(round_s: ArrayLike, plain_s: ArrayLike, *, k: ArrayLike) -> Floats:
    """The i.i.d. conditional rate at which a round of K drafted tokens is as fast as plain decoding. Broadcasts.

    Solves 1 + a + ... + a^K = round_s / plain_s by bisection to 1e-15; 0 where any rate pays, inf where none does.
    """
    length, n = np.broadcast_arrays(break_even_length(round_s, plain_s, k=k), np.asarray(k, dtype=np.int64))
    low, high = np.zeros(length.shape), np.ones(length.shape)
    for _ in range(52):
        middle = 0.5 * (low + high)
        total, power = np.ones(length.shape), np.ones(length.shape)
        for i in range(1, int(n.max(initial=0)) + 1):
            power = power * middle
            total = total + np.where(i <= n, power, 0.0)
        low, high = np.where(total < length, middle, low), np.where(total < length, high, middle)
    return np.asarray(np.where(length <= 1.0, 0.0, np.where(np.isinf(length), np.inf, high)))


def extension_pays(
    next_survival: ArrayLike, extra_s: ArrayLike, tokens: ArrayLike, round_s: ArrayLike
) -> NDArray[np.bool_]:
    """Whether drafting one more token raises tokens per second: its survival / its seconds > tokens / round_s.

    A ratio (N + s) / (T + t) exceeds N / T exactly if s / t does. Since survival never increases, with equal extra
    seconds the first K at which it fails is the best one. Valid for survival that does not depend on K.
    """
    s, t = np.asarray(next_survival, dtype=np.float64), np.asarray(extra_s, dtype=np.float64)
    return np.asarray(s * _times(round_s, "round_s") > np.asarray(tokens, dtype=np.float64) * t)


def _times(seconds: ArrayLike, field: str) -> Floats:
    values = np.asarray(seconds, dtype=np.float64)
    if not np.all(values > 0):
        bad = values[~(values > 0)].flat[0]
        raise InputError(f"{bad} is not a duration; give seconds above 0", field=field)
    return values
