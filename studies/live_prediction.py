"""The predicting half of ``studies.fidelity_live``: rounds priced from microbenchmarks through a round program."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from specsim.cost.shapes import Floats, Segment, StepShape, StepTime, Term, Trust
from specsim.simulation.program import Batch, Pass, RoundProgram


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

    def host_time(self, batch: int, k: int) -> StepTime:
        """Drawing, rejecting and committing of a round."""
        value = np.interp(float(k), *self.host[batch])
        return StepTime({"round": Term(np.asarray(value), "host", np.asarray(Trust.INTERPOLATED, dtype=np.int8))})


def program(costs: Costs, k: int) -> RoundProgram:
    """The live engine's round: one drafting pass of two tokens, K - 1 of one, a pass of K + 1 of the target."""

    def tokens(each: int) -> StepShape | object:
        def shape(batch: Batch) -> StepShape:
            n = np.asarray(batch.sequences, dtype=np.float64)
            # The engine attends to one span for the whole batch: the longest sequence and what the round can add.
            span = np.asarray(batch.kv_tokens, dtype=np.float64) / n + k + 1
            kind = "verify" if each > 1 else "decode"
            return StepShape((Segment(kind, n, n * each, batch.kv_tokens, n, kv_max=span),))

        return shape

    def a_pass(name: str, each: int, repeats: int = 1) -> Pass:
        return Pass(name, name, tokens(each), lambda shape: costs.price(name, shape), repeats=repeats)

    passes = [a_pass("draft_first", 2)] if k else []
    if k > 1:
        passes.append(a_pass("draft", 1, k - 1))
    passes.append(a_pass("verify" if k else "decode", k + 1))
    return RoundProgram(f"live, K={k}", k, tuple(passes), lambda batch: costs.host_time(int(batch.sequences), k))


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
