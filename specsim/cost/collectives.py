"""All-reduces between tensor-parallel ranks: measured against message size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.cost.shapes import Floats, Trust
from specsim.errors import InputError


@dataclass(frozen=True, eq=False)
class AllReduce:
    """Seconds of one all-reduce against bytes, for one number of GPUs."""

    message_bytes: Floats
    seconds: Floats

    def at(self, message_bytes: ArrayLike) -> Floats:
        """Seconds, log-log interpolated; beyond the largest message, proportional to its bytes."""
        size = np.maximum(np.asarray(message_bytes, dtype=np.float64), self.message_bytes[0])
        inside = np.exp(np.interp(np.log(size), np.log(self.message_bytes), np.log(self.seconds)))
        return np.asarray(inside * np.maximum(size / self.message_bytes[-1], 1.0))


@dataclass(frozen=True, eq=False)
class CollectiveTable:
    """Captured all-reduces by number of GPUs; never cheaper for a longer message."""

    measured: Mapping[int, AllReduce]

    def all_reduce(self, gpus: int) -> AllReduce:
        """The curve of ``gpus`` GPUs; InputError naming the numbers that were measured."""
        if gpus not in self.measured:
            sizes = ", ".join(str(n) for n in sorted(self.measured))
            raise InputError(f"no all-reduce over {gpus} GPUs was measured; measured: {sizes}", field="tensor_parallel")
        return self.measured[gpus]


def collective_trust(curve: AllReduce, message_bytes: ArrayLike) -> NDArray[np.int8]:
    """Interpolated within the measured sizes, parametric beyond."""
    size = np.asarray(message_bytes, dtype=np.float64)
    return np.where(size > curve.message_bytes[-1], np.int8(Trust.PARAMETRIC), np.int8(Trust.INTERPOLATED))
