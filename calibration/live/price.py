"""The live engine's round priced from a profile that was measured on the same machine: kernels, laws, one program."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from calibration.live.program import Price, live_round
from specsim.cost.measured_host import MeasuredHost
from specsim.cost.model_shape import ModelShape
from specsim.cost.profile import Profile
from specsim.cost.shapes import Floats, ForwardShape, Segment, StepShape, StepTime, Term, Trust
from specsim.cost.step import StepCost
from specsim.simulation.program import Batch, RoundProgram

PARTS = ("draft", "verify", "attention", "sampling", "host")
"""Of a round: attention is the verification's own, verify what else is in that pass."""


@dataclass(frozen=True)
class Lookup:
    """Seconds in which an n-gram on the host gives its laws, a call and a row."""

    call_s: float
    row_s: float

    def seconds(self, rows: Floats) -> Floats:
        """Of one call for ``rows`` contexts."""
        return self.call_s + self.row_s * rows


@dataclass(frozen=True, eq=False)
class EnginePass:
    """Prices a pass of one model of the live engine: eager, at the vocabulary and the span that it has.

    model: None where nothing is computed but a lookup. lookup: an n-gram whose laws are taken in place of a softmax.
    """

    profile: Profile
    host: MeasuredHost
    model: ModelShape | None
    lookup: Lookup | None = None

    def __call__(self, shape: StepShape) -> StepTime:
        """Terms of the pass; sequences attend to ``kv_max`` tokens, the new ones included."""
        (segment,) = shape.segments
        rows = np.asarray(segment.logit_rows, dtype=np.float64)
        looked = {} if self.lookup is None else {"lookup": _term(self.lookup.seconds(rows))}
        if self.model is None:
            return StepTime(looked)
        tokens, span = np.asarray(segment.query_tokens, dtype=np.float64), np.asarray(segment.kv_max, dtype=np.float64)
        cached = np.asarray(segment.sequences, dtype=np.float64) * span - tokens
        whole = Segment(segment.kind, segment.sequences, tokens, cached, rows)
        terms = dict(self._step.cost(StepShape((whole,), mode="eager")).terms)
        entries = tokens * span * (1.0 + self.model.heads / self.model.kv_heads)
        terms["around"] = _term(self.host.around_pass_s(tokens, entries))
        if self.lookup is None:
            terms["softmax"] = _term(self.host.softmax_of_s(rows, self.model.vocab))
        return StepTime({**terms, **looked})

    @cached_property
    def _step(self) -> StepCost:
        assert self.model is not None
        return StepCost(engine_forward(self.model, self.profile.dtype), self.profile, self.host.engine())


def engine_forward(model: ModelShape, dtype: str) -> ForwardShape:
    """What the live engine executes of a model: the vocabulary unpadded, embedding and last norm priced with a pass."""
    forward = model.forward(dtype=dtype, kv_dtype=dtype)
    ends = replace(model, layers=0, windowed_layers=0).forward(dtype=dtype, kv_dtype=dtype)
    return replace(
        forward,
        linears=tuple(replace(x, n=model.vocab) if x.name == "lm_head" else x for x in forward.linears),
        elementwise_kernels=forward.elementwise_kernels - ends.elementwise_kernels,
        elementwise_bytes_per_token=forward.elementwise_bytes_per_token - ends.elementwise_bytes_per_token,
    )


def priced_round(
    target: EnginePass, draft: EnginePass, k: int, instead: Mapping[str, Price] | None = None
) -> RoundProgram:
    """The live engine's round of ``k`` drafted tokens at these prices; ``instead``: other prices of passes by name."""
    assert target.model is not None
    host, vocab = target.host, target.model.vocab

    def around(shape: StepShape) -> StepTime:
        n = np.asarray(shape.segments[0].sequences, dtype=np.float64)
        return StepTime({"sampling": _term(host.drawing_s(n, k, vocab)), "keeping": _term(host.host_s(n, k))})

    passes: dict[str, Price] = {"decode": target, "verify": target, "draft_first": draft, "draft": draft}
    return live_round(k, host=around, **(passes | dict(instead or {})))


def round_parts(program: RoundProgram, batch: int, context: float) -> dict[str, float]:
    """Seconds of a round by part, of ``batch`` sequences with ``context`` tokens each."""
    parts = dict.fromkeys(PARTS, 0.0)
    for name, term in program.time(Batch(batch, batch * context)).terms.items():
        of, _, what = name.partition(".")
        if of in ("verify", "decode"):
            part = "attention" if "attention" in what else "verify"
        elif of == "host":
            part = "sampling" if what == "sampling" else "host"
        else:
            part = "draft"
        parts[part] += float(term.seconds)
    return parts


def _term(seconds: Floats) -> Term:
    return Term(np.asarray(seconds), "measured_host", np.full(np.shape(seconds), Trust.PARAMETRIC, dtype=np.int8))
