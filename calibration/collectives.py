"""From measured all-reduces to curves against message size."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from calibration.laws import Fitted, microseconds
from specsim.cost.shapes import Floats

ELEMENT_BYTES = 2
"""``message_size`` counts elements of 16 bits: NCCL's rows start at 256 for half and 512 for int8 (both 512 bytes), and
the engines' own kernels agree with NCCL's at equal sizes beyond 64 MiB, where they call it."""


def fit_collectives(rows: pd.DataFrame) -> Fitted:
    """Curves by number of GPUs; columns num_gpus, message_size, seconds, and backend where there are modes.

    Only captured all-reduces count: an eager one is as long as its host, which the engine's launch time stands for.
    """
    mode = rows["backend"].str.rsplit("_", n=1).str[-1] if "backend" in rows else pd.Series("graph", rows.index)
    rows = rows[mode == "graph"]
    section: dict[str, Any] = {}
    left: list[Floats] = []
    for gpus, part in rows.groupby("num_gpus"):
        curve = part.groupby("message_size")["seconds"].median().sort_index()
        # A longer message is never faster and noise only adds: what a shorter one took beyond that was a disturbance.
        seconds = np.minimum.accumulate(curve.to_numpy()[::-1])[::-1]
        size = curve.index.to_numpy(dtype=np.float64) * ELEMENT_BYTES
        section[str(int(gpus))] = {
            "message_bytes": [int(s) for s in size],
            "latency_us": microseconds(seconds, 4),
        }
        raw, x = np.log(curve.to_numpy()), np.log(size)
        weight = (x[1:-1] - x[:-2]) / (x[2:] - x[:-2])
        left.append(raw[1:-1] - (raw[:-2] * (1.0 - weight) + raw[2:] * weight))
    between = np.concatenate(left)
    return Fitted(
        section=section,
        layers={"INTERPOLATED": between},
        rows_used=len(rows),
        rows_filtered=0,
    )
