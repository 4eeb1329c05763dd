"""Attention over a cache: measured grids of batch by length, decode and prefill, borrowed between head layouts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.cost.gemm import fill, krige
from specsim.cost.law import BYTES, Law, non_decreasing
from specsim.cost.shapes import Floats, Trust

TILE = 128
"""Query rows that one block of a prefill kernel takes (FlashAttention-2 and -3 at head dimension 128)."""


@dataclass(frozen=True, eq=False)
class HeadGroup:
    """Measured layouts of one head dimension and window: seconds [L, batches, lengths], NaN where not measured."""

    head_dim: int
    window: int | None
    law: Law
    layouts: NDArray[np.float64]
    """[L, 2] of (heads, cache heads) on one GPU."""
    seconds: Floats


@dataclass(frozen=True, eq=False)
class AttentionTable:
    """One phase and cache precision: ``decode`` over (batch, cache length) or ``prefill`` over (batch, prompt length).

    batches [B] and lengths [C] are the measured grid; a decode length counts the new token too.
    """

    phase: Literal["decode", "prefill"]
    kv_dtype: str
    batches: Floats
    lengths: Floats
    groups: tuple[HeadGroup, ...]
    length: float
    nugget: float

    def surface(self, heads: int, kv_heads: int, head_dim: int, window: int | None) -> Surface:
        """Time over (batch, length) of one layer; ``Surface.trust`` says whether its layout was measured.

        A layout not measured borrows the residual of the nearest ones by cache heads and group size; a head
        dimension not measured borrows from the nearest one; a window not measured is the full table cut at it
        (decode) or scaled by the law's arithmetic (prefill).
        """
        key = (heads, kv_heads, head_dim, window)
        if key not in self._surfaces:
            self._surfaces[key] = self._surface(*key)
        return self._surfaces[key]

    def _surface(self, heads: int, kv_heads: int, head_dim: int, window: int | None) -> Surface:
        index = min(range(len(self.groups)), key=lambda i: _distance(self.groups[i], head_dim, window))
        group = self.groups[index]
        borrowed = group.head_dim != head_dim or group.window != window
        batch, length = self._nodes
        place = np.log([kv_heads, heads / kv_heads])
        places = np.log(np.column_stack([group.layouts[:, 1], group.layouts[:, 0] / group.layouts[:, 1]]))
        if index not in self._filled:
            self._filled[index] = self._residuals(group)
        residuals = self._filled[index]
        found = np.flatnonzero((group.layouts == (heads, kv_heads)).all(axis=1))
        if found.size:
            residual = residuals[found[0]]
        else:
            residual = krige(place, places, residuals, length=self.length, nugget=self.nugget)
        seen = length
        if self.phase == "decode" and window is not None and group.window is None:
            seen = np.minimum(length, float(window))
        dense = _resample(residual, np.log(self.batches), np.log(self.lengths), np.log(batch), np.log(seen))
        moved, flops, blocks = attention_work(
            self.phase, batch[:, None], seen[None, :], heads, kv_heads, head_dim, window, self.kv_dtype
        )
        seconds = group.law.seconds(moved, flops, blocks) * np.exp(dense)
        seconds = np.array([non_decreasing(row) for row in seconds])  # never cheaper with a longer cache
        trust = Trust.MEASURED if found.size and not borrowed else Trust.BORROWED
        return Surface(self, seconds, trust, group.law)

    @cached_property
    def _surfaces(self) -> dict[tuple[int, int, int, int | None], Surface]:
        return {}  # several models and drafters share a table, and a planner builds many steps of one

    @cached_property
    def _filled(self) -> dict[int, Floats]:
        return {}

    @cached_property
    def _nodes(self) -> tuple[Floats, Floats]:
        """Quarter octaves and every measured point, then far points where the law goes on alone."""
        return _dense(self.batches, 8.0), _dense(self.lengths, 16.0)

    def _residuals(self, group: HeadGroup) -> Floats:
        heads, kv_heads = (group.layouts[:, i, None, None] for i in (0, 1))
        moved, flops, blocks = attention_work(
            self.phase,
            self.batches[:, None],
            self.lengths[None, :],
            heads,
            kv_heads,
            group.head_dim,
            group.window,
            self.kv_dtype,
        )
        residual = np.log(group.seconds / group.law.seconds(moved, flops, blocks))
        for layer in residual:
            layer[:] = fill(layer, np.log(self.lengths))
            layer[:] = fill(layer.T, np.log(self.batches)).T
        return residual


@dataclass(frozen=True, eq=False)
class Surface:
    """Seconds over the dense (batch, length) nodes of a table; surfaces of one table add."""

    table: AttentionTable
    seconds: Floats
    trust: Trust
    law: Law

    def at(self, batch: ArrayLike, length: ArrayLike) -> Floats:
        """Seconds at (batch, length), bilinear in the logarithms; both broadcast."""
        batches, lengths = self._places
        i, f = _locate(batches, np.log(np.maximum(batch, 1.0)))
        j, g = _locate(lengths, np.log(np.maximum(length, 1.0)))
        t = self._log_seconds
        low = t[i, j] * (1.0 - g) + t[i, j + 1] * g
        high = t[i + 1, j] * (1.0 - g) + t[i + 1, j + 1] * g
        return np.asarray(np.exp(low * (1.0 - f) + high * f))

    def single(self, length: ArrayLike) -> Floats:
        """Seconds of one sequence alone."""
        return np.asarray(np.exp(np.interp(np.log(np.maximum(length, 1.0)), self._places[1], self._log_seconds[0])))

    def trust_at(self, batch: ArrayLike, length: ArrayLike) -> NDArray[np.int8]:
        """Which layer answers at (batch, length)."""
        b, c = np.asarray(batch, dtype=np.float64), np.asarray(length, dtype=np.float64)
        outside = (b > self.table.batches[-1]) | (c > self.table.lengths[-1])
        inside = self.trust if self.trust > Trust.INTERPOLATED else Trust.INTERPOLATED
        return np.where(outside, np.int8(max(Trust.PARAMETRIC, inside)), np.int8(inside))

    @cached_property
    def _places(self) -> tuple[Floats, Floats]:
        batch, length = self.table._nodes
        return np.log(batch), np.log(length)

    @cached_property
    def _log_seconds(self) -> Floats:
        return np.log(self.seconds)


def attention_work(
    phase: str,
    batch: ArrayLike,
    length: ArrayLike,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: int,
    window: int | None,
    kv_dtype: str,
) -> tuple[Floats, Floats, Floats]:
    """Bytes moved, operations and blocks of one layer: decode of one token a sequence, or a prefill without cache."""
    b, x = np.asarray(batch, dtype=np.float64), np.asarray(length, dtype=np.float64)
    h, kv = np.asarray(heads, dtype=np.float64), np.asarray(kv_heads, dtype=np.float64)
    if phase == "decode":
        seen = x if window is None else np.minimum(x, float(window))
        return 2.0 * BYTES[kv_dtype] * b * seen * kv * head_dim, 4.0 * b * seen * h * head_dim, b * kv
    pairs = visible_pairs(x, window)
    moved = b * x * head_dim * (2.0 * BYTES[kv_dtype] * kv + 4.0 * h)
    return moved, 4.0 * b * pairs * h * head_dim, b * kv * np.ceil(x * h / kv / TILE)


BLOCK_ROWS = 64
"""Query rows of one head that a block takes where the cache isn't split."""
LONE_BLOCK = 1.32
"""How much faster a block runs when it has a multiprocessor to itself: 1.31 on RTX PRO 6000 and 1.35 on RTX 4090 at
8,192 cached tokens and more (16 to 256 query tokens; vLLM 0.19 in LLMServingSim's tables, MIT), against the rate of
their prefill without a cache. With it the law below is within 5 % of those tables from 1,024 cached tokens on."""


def unsplit_seconds(
    sequences: ArrayLike,
    query_tokens: ArrayLike,
    length: ArrayLike,
    *,
    heads: int,
    head_dim: int,
    flops_per_s: float,
    multiprocessors: int,
) -> Floats:
    """Seconds of one layer whose kernel gives each (sequence, head, 64 query tokens) one block for the whole cache.

    query_tokens and length are a sequence's. While blocks are fewer than multiprocessors the time is one block's walk
    over the cache, however few the queries: the others idle. ``flops_per_s`` is the whole GPU's achieved rate.
    """
    blocks = np.asarray(sequences, dtype=np.float64) * heads * np.ceil(np.asarray(query_tokens) / BLOCK_ROWS)
    walk = 4.0 * BLOCK_ROWS * head_dim * np.asarray(length, dtype=np.float64) * multiprocessors / flops_per_s
    return np.asarray(walk * np.maximum(1.0 / LONE_BLOCK, blocks / multiprocessors))


def visible_pairs(length: ArrayLike, window: int | None) -> Floats:
    """Pairs of query and visible key in a causal prefill of ``length`` tokens, at most ``window`` keys a query."""
    x = np.asarray(length, dtype=np.float64)
    if window is None:
        return 0.5 * x * x
    cut = np.minimum(x, float(window))
    return np.asarray(0.5 * cut * cut + (x - cut) * float(window))


def _distance(group: HeadGroup, head_dim: int, window: int | None) -> tuple[float, float]:
    """Nearest head dimension first; then the same window, else none."""
    windows = 0.0 if group.window == window else 1.0 if group.window is None else 2.0
    return abs(float(np.log(group.head_dim / head_dim))) + 10.0 * (windows > 1.0), windows


def _dense(measured: Floats, beyond: float) -> Floats:
    octaves = np.arange(0.0, np.log2(measured[-1]) + 1e-9, 0.25)
    nodes = np.concatenate([2.0**octaves, measured, [measured[-1] * 2.0, measured[-1] * beyond]])
    return np.unique(np.round(nodes, 9))


def _locate(nodes: Floats, values: Floats) -> tuple[NDArray[np.intp], Floats]:
    index = np.clip(np.searchsorted(nodes, values, side="right") - 1, 0, nodes.size - 2)
    left = nodes[index]
    return index, (values - left) / (nodes[index + 1] - left)


def _resample(values: Floats, rows: Floats, columns: Floats, to_rows: Floats, to_columns: Floats) -> Floats:
    """Bilinear interpolation of ``values`` [R, C] to new coordinates, held constant outside."""
    wide = np.array([np.interp(to_columns, columns, row) for row in values])
    return np.array([np.interp(to_rows, rows, column) for column in wide.T]).T
