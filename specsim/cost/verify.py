"""Attention of several query tokens a sequence over a cache, where it was measured: the verify surface."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.cost.gemm import krige
from specsim.cost.law import BYTES, Law
from specsim.cost.shapes import Floats, Trust

NEAR = (1.0 / 64.0, 1.0 / 16.0, 1.0 / 4.0, 1.0 / 2.0)
"""Nodes below the shortest measured cache, as shares of it."""


@dataclass(frozen=True, eq=False)
class VerifyGroup:
    """Layouts of one head dimension: seconds [L, queries, batches, lengths], complete."""

    head_dim: int
    law: Law
    layouts: NDArray[np.float64]
    """[L, 2] of (heads, cache heads) on one GPU."""
    seconds: Floats


@dataclass(frozen=True, eq=False)
class VerifyTable:
    """One cache precision over (query tokens a sequence, sequences, length); a length counts the new tokens too.

    Queries are causal among themselves. ``length`` and ``nugget`` are the covariance's for layouts not measured.
    """

    kv_dtype: str
    queries: Floats
    batches: Floats
    lengths: Floats
    groups: tuple[VerifyGroup, ...]
    length: float
    nugget: float

    def surface(self, heads: int, kv_heads: int, head_dim: int) -> VerifySurface:
        """Time of one layer of a head layout: measured, or its law times the nearest layouts' residual."""
        key = (heads, kv_heads, head_dim)
        if key not in self._surfaces:
            self._surfaces[key] = self._surface(*key)
        return self._surfaces[key]

    def _surface(self, heads: int, kv_heads: int, head_dim: int) -> VerifySurface:
        group = min(self.groups, key=lambda g: abs(float(np.log(g.head_dim / head_dim))))
        found = np.flatnonzero((group.layouts == (heads, kv_heads)).all(axis=1))
        residuals = np.log(group.seconds / self._laws(group))
        if found.size:
            residual = residuals[found[0]]
        else:
            places = np.log(np.column_stack([group.layouts[:, 1], group.layouts[:, 0] / group.layouts[:, 1]]))
            place = np.log([kv_heads, heads / kv_heads])
            residual = krige(place, places, residuals, length=self.length, nugget=self.nugget)
        measured = bool(found.size) and group.head_dim == head_dim
        axes = (self.queries, self.batches, self.lengths)
        at = np.ix_(
            *(
                np.clip(np.searchsorted(axis, wide), 0, axis.size - 1)
                for axis, wide in zip(axes, self.nodes, strict=True)
            )
        )
        everywhere = verify_work(
            *np.ix_(*self.nodes), heads=heads, kv_heads=kv_heads, head_dim=head_dim, kv_dtype=self.kv_dtype
        )
        seconds = group.law.seconds(*everywhere) * np.exp(residual)[at]
        trust = Trust.INTERPOLATED if measured else Trust.BORROWED
        return VerifySurface(self, never_falling(never_falling(seconds, 2), 0), trust)

    def _laws(self, group: VerifyGroup) -> Floats:
        grid = np.ix_(self.queries, self.batches, self.lengths)
        return np.array(
            [
                group.law.seconds(
                    *verify_work(*grid, heads=int(h), kv_heads=int(kv), head_dim=group.head_dim, kv_dtype=self.kv_dtype)
                )
                for h, kv in group.layouts
            ]
        )

    @cached_property
    def nodes(self) -> tuple[Floats, Floats, Floats]:
        """The three axes with two far nodes each, and near ones of length: there the law takes the end's residual."""
        near = self.lengths[0] * np.array(NEAR)
        queries, batches, lengths = (
            np.append(axis, [axis[-1] * 4.0, axis[-1] * 32.0])
            for axis in (self.queries, self.batches, np.concatenate([near, self.lengths]))
        )
        return queries, batches, lengths

    @cached_property
    def _surfaces(self) -> dict[tuple[int, int, int], VerifySurface]:
        return {}


@dataclass(frozen=True, eq=False)
class VerifySurface:
    """Seconds over the nodes of a table and those beyond it, never falling in queries or length.

    Surfaces of one table add.
    """

    table: VerifyTable
    seconds: Floats
    trust: Trust

    def at(self, queries: ArrayLike, batch: ArrayLike, length: ArrayLike) -> Floats:
        """Seconds, trilinear in the logarithms; arguments broadcast. Queries and length are a sequence's."""
        given = np.broadcast_arrays(*(np.asarray(x, dtype=np.float64) for x in (queries, batch, length)))
        total: Floats = np.zeros(given[0].shape)
        places = [_place(nodes, np.log(np.maximum(x, 1e-9))) for nodes, x in zip(self._nodes, given, strict=True)]
        for corner in range(8):
            weight, index = np.ones(given[0].shape), []
            for axis, (low, share) in enumerate(places):
                upper = corner >> axis & 1
                index.append(low + upper)
                weight = weight * (share if upper else 1.0 - share)
            total = total + weight * self._log_seconds[tuple(index)]
        return np.asarray(np.exp(total))

    def trust_at(self, queries: ArrayLike, batch: ArrayLike, length: ArrayLike) -> NDArray[np.int8]:
        """Which layer answers."""
        ends = (self.table.queries[-1], self.table.batches[-1], self.table.lengths[-1])
        beyond = [np.asarray(x) > end for x, end in zip((queries, batch, length), ends, strict=True)]
        outside = np.logical_or.reduce(np.broadcast_arrays(*beyond, np.asarray(length) < self.table.lengths[0]))
        return np.where(outside, np.int8(max(Trust.PARAMETRIC, self.trust)), np.int8(self.trust))

    @cached_property
    def _nodes(self) -> tuple[Floats, ...]:
        return tuple(np.log(axis) for axis in self.table.nodes)

    @cached_property
    def _log_seconds(self) -> Floats:
        return np.log(self.seconds)


def verify_work(
    queries: ArrayLike,
    batch: ArrayLike,
    length: ArrayLike,
    *,
    heads: ArrayLike,
    kv_heads: ArrayLike,
    head_dim: int,
    kv_dtype: str,
) -> tuple[Floats, Floats, Floats]:
    """Bytes moved, operations and blocks of one layer: one read of the cache a sequence, arithmetic for each query."""
    q, b, x, h, kv = (np.asarray(v, dtype=np.float64) for v in (queries, batch, length, heads, kv_heads))
    size = BYTES[kv_dtype]
    moved = size * b * head_dim * (2.0 * x * kv + 2.0 * q * h)
    return moved, 4.0 * b * q * x * h * head_dim, b * kv * np.ones_like(q * x)


def never_falling(seconds: Floats, axis: int) -> Floats:
    """The geometric middle of the running maximum and the running minimum from behind, along ``axis``.

    Both keep what already never falls along the other axes, which averaging neighbours would not.
    """
    upper = np.maximum.accumulate(seconds, axis=axis)
    lower = np.flip(np.minimum.accumulate(np.flip(seconds, axis), axis=axis), axis)
    return np.asarray(np.sqrt(upper * lower))


def _place(nodes: Floats, values: Floats) -> tuple[NDArray[np.intp], Floats]:
    index = np.clip(np.searchsorted(nodes, values, side="right") - 1, 0, nodes.size - 2)
    share = (values - nodes[index]) / (nodes[index + 1] - nodes[index])
    return index, np.maximum(share, 0.0)  # below the first node its time stands
