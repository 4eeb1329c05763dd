"""The kernels that quantise activations: what to take off fp8 products, and what an element-wise kernel costs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from specsim.cost.hardware import Hardware
from specsim.cost.law import gemm_work

MOST_BROKEN = 0.1
"""Share of products that may be left faster than physics after the quantisation is taken off. Where it is included the
share is below 2 % on GPUs whose tables are sound, where it isn't about a half."""


def quantisation(products: pd.DataFrame, scale: pd.DataFrame, convert: pd.DataFrame, hardware: Hardware) -> pd.Series:
    """Seconds (indexed by m, k) that scaling and converting the activations adds to measured fp8 products, or zeros.

    The tables' fp8 rows time a product with *dynamic* quantisation: ``compute_scale(m, k)`` finds the scale,
    ``scale_matrix(m, k)`` converts. Checkpoints with static scales run neither: the conversion fuses into the kernel
    before. Where taking both off leaves products faster than physics, the rows cannot have held them: zeros then.
    """
    finding, converting = (table.groupby(["m", "k"])["seconds"].median() for table in (scale, convert))
    both = converting.add(finding, fill_value=0.0)
    off = products.join(both.rename("off"), on=["m", "k"])["off"].fillna(0.0)
    net = products["seconds"] - off
    moved, flops = gemm_work(products["m"], products["n"], products["k"], "fp8")
    floor = np.maximum(moved / hardware.memory_bandwidth_bytes_per_s, flops / hardware.peak("fp8"))
    usual = (products["n"] >= 512) & (products["k"] >= 512)
    broken = float((net < floor)[usual].mean()) - float((products["seconds"] < floor)[usual].mean())
    return both * 0.0 if broken > MOST_BROKEN else both


def static_products(products: pd.DataFrame, off: pd.Series) -> pd.DataFrame:
    """The products without the quantisation ``off`` (indexed by m, k)."""
    net = products.join(off.rename("off"), on=["m", "k"])
    net = net.assign(seconds=net["seconds"] - net["off"].fillna(0.0))
    return net[net["seconds"] > 0].drop(columns="off")


def elementwise_constants(convert: pd.DataFrame, hardware: Hardware) -> tuple[float, float]:
    """Seconds of a small element-wise kernel and its share of the peak bandwidth, from the conversion to fp8.

    That kernel reads 16 bits and writes 8 an element. The constant is the median up to 16 rows at depths 4096 and
    8192; the share the median of those that move at least 256 MB, which no cache holds.
    """
    small = convert[(convert["m"] <= 16) & convert["k"].isin([4096, 8192])]
    moved = 3.0 * convert["m"] * convert["k"]
    large = moved >= 2.56e8
    rate = (moved / convert["seconds"])[large].median() / hardware.memory_bandwidth_bytes_per_s
    return float(small["seconds"].median()), float(min(rate, 1.0))
