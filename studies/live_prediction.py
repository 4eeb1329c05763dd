"""The predicting half of ``studies.fidelity_live``: rounds priced from microbenchmarks through a round program."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd

from calibration.live.program import live_round
from specsim.cost.shapes import Floats, StepShape, StepTime, Term, Trust
from specsim.simulation.program import Batch, RoundProgram


@dataclass(frozen=True)
class Costs:
    """Seconds of one pair's passes by (name, batch, query tokens) over attended spans, and of the host by (batch, K).

    Between measured spans, and between measured K for the host, linear.
    """

    passes: dict[tuple[str, int, int], tuple[Floats, Floats]]
    host: dict[int, tuple[Floats, Floats]]

    @classmethod
    def of(cls, passes: pd.DataFrame, host: pd.DataFrame) -> Costs:
        """Mean of the samples at each point."""
        curves: dict[tuple[str, int, int], tuple[Floats, Floats]] = {}
        points = passes.groupby(["name", "batch", "queries", "span"])["seconds"].mean().reset_index()
        for (name, batch, queries), part in points.groupby(["name", "batch", "queries"]):
            curves[name, batch, queries] = part["span"].to_numpy(float), part["seconds"].to_numpy(float)
        points = host.groupby(["batch", "k"])["seconds"].mean().reset_index()
        hosts = {
            batch: (part["k"].to_numpy(float), part["seconds"].to_numpy(float))
            for batch, part in points.groupby("batch")
        }
        return cls(curves, hosts)

    def price(self, name: str, shape: StepShape) -> StepTime:
        """A pass of equal sequences, at the span that the engine attends to."""
        (segment,) = shape.segments
        batch = int(np.asarray(segment.sequences))
        queries = round(float(np.asarray(segment.query_tokens)) / batch)
        span = float(np.asarray(segment.kv_max))
        spans, seconds = self.passes[name, batch, queries]
        if len(spans) > 1:  # a line through the two ends, also a little past them
            slope = (seconds[-1] - seconds[0]) / (spans[-1] - spans[0])
            value = seconds[0] + slope * (span - spans[0])
        else:
            value = seconds[0]
        return StepTime({"pass": Term(np.asarray(value), "pass", np.asarray(Trust.INTERPOLATED, dtype=np.int8))})

    def host_time(self, k: int, shape: StepShape) -> StepTime:
        """Drawing, rejecting and committing of a round that verifies ``shape``."""
        value = np.interp(float(k), *self.host[int(np.asarray(shape.segments[0].sequences))])
        return StepTime({"round": Term(np.asarray(value), "host", np.asarray(Trust.INTERPOLATED, dtype=np.int8))})


def program(costs: Costs, k: int) -> RoundProgram:
    """The live engine's round at these costs."""
    price = {name: partial(costs.price, name) for name in ("decode", "verify", "draft_first", "draft")}
    return live_round(k, **price, host=partial(costs.host_time, k))


def predict(
    costs: Costs, *, batch: int, context: int, k: int, tokens_per_round: float, rounds: int
) -> tuple[float, dict[str, float]]:
    """Tokens per second of a batch through ``rounds`` rounds from ``context``, and seconds of a round by phase."""
    grown = context + tokens_per_round * (rounds + 1) / 2.0
    time = program(costs, k).time(Batch(batch, batch * grown))
    phases = {"draft": 0.0, "verify": 0.0, "host": 0.0}
    for name, term in time.terms.items():
        phase = {"draft_first": "draft", "decode": "verify"}.get(name.split(".")[0], name.split(".")[0])
        phases[phase] += float(term.seconds)
    return batch * tokens_per_round / sum(phases.values()), phases
