"""Products of one machine: law, field between the points, complete table, and four layers of error."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from calibration.laws import law_json, microseconds
from calibration.measure.field import fit_field, jump
from calibration.measure.points import stepped
from calibration.measure.prior import SD, SEEN_SD, cautious_law
from specsim.cost.hardware import Hardware
from specsim.cost.law import ARITHMETIC, gemm_work
from specsim.cost.shapes import Floats


def fit_products(
    rows: pd.DataFrame, hardware: Hardware, dtype: str, *, seen: bool
) -> tuple[dict[str, Any], dict[str, Floats], float]:
    """Section, held-out errors by layer, and the share of rows faster than physics (left out).

    rows: columns m, n, k, seconds. The table is complete: what wasn't measured is the law times the field, and
    ``measured`` says which is which. ``seen``: the peaks are rates that were seen, so efficiencies say little.
    """
    m, n, k, seconds = (rows[name].to_numpy(dtype=np.float64) for name in ("m", "n", "k", "seconds"))
    moved, flops = gemm_work(m, n, k, dtype)
    peak, bandwidth = hardware.peak(ARITHMETIC[dtype]), hardware.memory_bandwidth_bytes_per_s
    good = seconds >= np.maximum(moved / bandwidth, flops / peak)
    m, n, k, seconds, moved, flops = (x[good] for x in (m, n, k, seconds, moved, flops))
    law = cautious_law(moved, flops, seconds, bandwidth=bandwidth, peak=peak, sd=SEEN_SD if seen else SD)
    raw = np.log(seconds / law.seconds(moved, flops))

    single = jump(raw, m == 1.0)
    raw = raw - single * (m == 1.0)

    def places(m: Floats, n: Floats, k: Floats) -> Floats:
        return np.column_stack([[stepped(int(x)) for x in m], np.log(n) / 2.0, np.log(k) / 2.0])

    field = fit_field(places(m, n, k), raw)
    shapes = np.unique(np.column_stack([n, k]), axis=0)
    grid = np.unique(m)
    full = [x.ravel() for x in np.broadcast_arrays(grid[None, :], shapes[:, :1], shapes[:, 1:])]
    size = (len(shapes), grid.size)
    table = law.seconds(*gemm_work(*full, dtype)) * np.exp(field.at(places(*full)) + single * (full[0] == 1.0))
    table, measured = table.reshape(size), np.zeros(size, dtype=np.bool_)
    floor = np.maximum(*(w / r for w, r in zip(gemm_work(*full, dtype), (bandwidth, peak), strict=True))).reshape(size)
    table = np.maximum(table, floor)
    index = {(int(a), int(b)): i for i, (a, b) in enumerate(shapes)}
    where = np.array([index[int(a), int(b)] for a, b in zip(n, k, strict=True)]), np.searchsorted(grid, m)
    table[where], measured[where] = seconds, True
    labels = where[0].astype(np.float64)
    whole = fit_field(places(m, n, k), raw, groups=labels) if len(shapes) > 2 else None
    section = {
        "law": law_json(law),
        "length": 2.0 * (whole or field).length,  # places halve the logarithms of n and k
        "nugget": (whole or field).nugget,
        "rows": [int(x) for x in grid],
        "shapes": shapes.astype(int).tolist(),
        "latency_us": microseconds(table, 4),
        "measured": measured.astype(int).tolist(),
    }
    layers = {
        "MEASURED": np.sqrt(field.nugget) * field.left_out,
        "INTERPOLATED": field.left_out,
        "BORROWED": whole.left_out if whole is not None else raw,
        "PARAMETRIC": raw + single * (m == 1.0),
    }
    return section, layers, float(1.0 - good.mean())
