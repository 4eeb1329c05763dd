"""The law of a kernel's time: a constant, then memory and arithmetic joined by a smooth knee."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.cost.shapes import Floats

BYTES = {"fp32": 4.0, "bf16": 2.0, "fp8": 1.0, "fp8_static": 1.0, "fp8_block": 1.0, "mxfp4": 0.5 + 1.0 / 32}
"""Bytes of one stored element (MXFP4 with one scale byte per 32)."""

ARITHMETIC = {"fp32": "fp32", "bf16": "bf16", "fp8": "fp8", "fp8_static": "fp8", "fp8_block": "fp8", "mxfp4": "bf16"}
"""The arithmetic that a storage type is multiplied in (4-bit weights are widened to 16)."""


@dataclass(frozen=True)
class Law:
    """``t = constant + ((bytes / bandwidth)^p + (flops / arithmetic)^p + (blocks * block)^p)^(1/p)``.

    constant_s and block_s in seconds; bandwidth and arithmetic are the *achieved* rates (bytes/s, operations/s).
    ``blocks`` counts pieces of work whose launch costs something however small they are (attention: sequence by
    cache head); kernels without them leave ``block_s`` at 0. Increasing in every argument.
    """

    constant_s: float
    bandwidth_bytes_per_s: float
    flops_per_s: float
    exponent: float
    block_s: float = 0.0

    def seconds(self, moved_bytes: ArrayLike, flops: ArrayLike, blocks: ArrayLike = 0.0) -> Floats:
        """Time of a kernel in seconds, elementwise."""
        memory = np.asarray(moved_bytes, dtype=np.float64) / self.bandwidth_bytes_per_s
        compute = np.asarray(flops, dtype=np.float64) / self.flops_per_s
        launch = np.asarray(blocks, dtype=np.float64) * self.block_s
        largest = np.maximum(np.maximum(memory, compute), np.maximum(launch, 1e-15))
        p = self.exponent  # scaled by the largest term, so that small numbers to a power don't underflow
        knee = (memory / largest) ** p + (compute / largest) ** p + (launch / largest) ** p
        return np.asarray(self.constant_s + largest * knee ** (1.0 / p), dtype=np.float64)


def gemm_work(m: ArrayLike, n: ArrayLike, k: ArrayLike, dtype: str) -> tuple[Floats, Floats]:
    """Bytes moved and operations of ``[m, k] x [k, n]`` (inputs in ``dtype``, output in 16 bits, or 32 of 32)."""
    m_, n_, k_ = (np.asarray(x, dtype=np.float64) for x in (m, n, k))
    out = max(2.0, BYTES[dtype])
    return BYTES[dtype] * (m_ * k_ + n_ * k_) + out * m_ * n_, 2.0 * m_ * n_ * k_


def non_decreasing(values: Floats, weights: Floats | None = None) -> Floats:
    """The nearest non-decreasing sequence in least squares (pool adjacent violators): keeps steps, averages noise.

    ``weights`` of the squares, positive; None: all alike.
    """
    means: list[float] = []
    sizes: list[float] = []
    counts: list[int] = []
    each = np.ones(len(values)) if weights is None else weights
    for value, weight in zip(values.tolist(), each.tolist(), strict=True):
        mean, size, count = value, weight, 1
        while means and means[-1] > mean:
            before = sizes.pop()
            mean = (means.pop() * before + mean * size) / (before + size)
            size += before
            count += counts.pop()
        means.append(mean)
        sizes.append(size)
        counts.append(count)
    return np.repeat(means, counts)
