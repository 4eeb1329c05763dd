"""Closed-form shares of a radio uplink: task k needs ``load[k]`` = bits over bits/s/Hz, of a bandwidth in Hz."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def shares_until_last(load: ArrayLike) -> Floats:
    """Shares in proportion to the loads: all end together, after sum(load) / bandwidth, the earliest for the last."""
    x = np.asarray(load, dtype=np.float64)
    return np.asarray(x / x.sum())


def shares_for_sum(load: ArrayLike) -> Floats:
    """Shares in proportion to the roots of the loads, which minimise the sum of upload times (Cauchy-Schwarz)."""
    root = np.sqrt(np.asarray(load, dtype=np.float64))
    return np.asarray(root / root.sum())


def upload_s(load: ArrayLike, shares: ArrayLike, bandwidth_hz: float) -> Floats:
    """Seconds of each upload at a fixed share of the bandwidth."""
    return np.asarray(np.asarray(load, dtype=np.float64) / (np.asarray(shares, dtype=np.float64) * bandwidth_hz))
