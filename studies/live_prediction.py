"""The predicting half of ``studies.fidelity_live``: rounds priced through the live engine's program.

From a profile of kernels, as ``specsim calibrate check`` does; and, to see what composing kernels loses, from passes
that were timed as a whole.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.optimize import nnls

from calibration.live.pairs import Pair
from calibration.live.price import EnginePass, Lookup, priced_round, round_parts
from calibration.live.program import Price
from calibration.measure.reading import read_measured
from calibration.measure.samples import middle_mean
from specsim.cost.shapes import Floats, StepShape, StepTime, Term, Trust
from studies.live_experiment import COLD_LOOKUP, WARM_LOOKUP, profile_file


@dataclass(frozen=True)
class Costs:
    """What prices a pair's rounds: its passes from kernels, and its host."""

    target: EnginePass
    draft: EnginePass

    @classmethod
    def read(cls, folder: Path, pair: Pair, lookups: pd.DataFrame) -> Costs:
        """From the profile and the lookups in a folder of results."""
        profile = read_measured(str(profile_file(folder, pair.key)))
        assert profile.host is not None
        looked: dict[str, Lookup | None] = {COLD_LOOKUP: None, WARM_LOOKUP: None}
        if pair.orders is not None:
            mine = lookups[lookups["pair"] == pair.name]
            looked = {who: fit_lookup(mine[mine["who"] == who]) for who in looked}
        target = EnginePass(profile, profile.host, pair.target, looked[COLD_LOOKUP])
        return cls(target, EnginePass(profile, profile.host, pair.draft, looked[WARM_LOOKUP]))


def fit_lookup(samples: pd.DataFrame) -> Lookup:
    """Seconds a call and a row, non-negative, from the middle means at each number of rows."""
    typical = samples.groupby("rows")["seconds"].agg(_middle)
    rows, seconds = typical.index.to_numpy(dtype=np.float64), typical.to_numpy(dtype=np.float64)
    found, _ = nnls(np.column_stack([np.ones(rows.size), rows]) / seconds[:, None], np.ones(rows.size))
    return Lookup(float(found[0]), float(found[1]))


@dataclass(frozen=True)
class WholePasses:
    """Seconds of one pair's passes by (name, batch, query tokens) over attended spans, each timed as a whole.

    Between measured spans, and a little past them, linear.
    """

    curves: dict[tuple[str, int, int], tuple[Floats, Floats]]

    @classmethod
    def of(cls, passes: pd.DataFrame) -> WholePasses:
        """Middle mean of the samples at each point."""
        curves: dict[tuple[str, int, int], tuple[Floats, Floats]] = {}
        points = passes.groupby(["name", "batch", "queries", "span"])["seconds"].agg(_middle).reset_index()
        for (name, batch, queries), part in points.groupby(["name", "batch", "queries"]):
            curves[name, batch, queries] = part["span"].to_numpy(float), part["seconds"].to_numpy(float)
        return cls(curves)

    def price(self, name: str) -> Price:
        """Of passes of one name."""

        def of(shape: StepShape) -> StepTime:
            (segment,) = shape.segments
            batch = int(np.asarray(segment.sequences))
            queries = round(float(np.asarray(segment.query_tokens)) / batch)
            spans, seconds = self.curves[name, batch, queries]
            span = float(np.asarray(segment.kv_max))
            slope = (seconds[-1] - seconds[0]) / (spans[-1] - spans[0]) if len(spans) > 1 else 0.0
            value = np.asarray(seconds[0] + slope * (span - spans[0]))
            return StepTime({"pass": Term(value, "pass", np.asarray(Trust.INTERPOLATED, dtype=np.int8))})

        return of


def _middle(seconds: pd.Series) -> float:
    return middle_mean(seconds.to_numpy())


def predict(
    costs: Costs, passes: WholePasses | None, *, batch: int, context: int, k: int, tokens_per_round: float, rounds: int
) -> tuple[float, dict[str, float]]:
    """Tokens per second of a batch through ``rounds`` rounds from ``context``, and seconds of a round by part.

    passes: None for the prediction from kernels.
    """
    names = ("decode", "verify", "draft_first", "draft")
    instead: dict[str, Price] = {} if passes is None else {name: passes.price(name) for name in names}
    program = priced_round(costs.target, costs.draft, k, instead)
    parts = round_parts(program, batch, context + tokens_per_round * (rounds + 1) / 2.0)
    return batch * tokens_per_round / sum(parts.values()), parts
