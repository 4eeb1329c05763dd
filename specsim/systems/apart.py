"""Drafting and verifying on devices of their own: the passes of either side, priced by their own hardware."""

from __future__ import annotations

import numpy as np

from specsim.cost.drafter import Drafter
from specsim.cost.drafting import load_draft_host
from specsim.cost.engine import Engine
from specsim.cost.profile import Profile
from specsim.cost.shapes import Segment, StepShape, StepTime
from specsim.cost.step import StepCost
from specsim.simulation.program import Batch, Pass
from specsim.systems.draft_verify import logit_rows, prefill_segments

TOKEN_BYTES = 4
"""A token's number, as engines send it."""


def draft_passes(
    drafter: Drafter,
    k: int,
    *,
    device: str,
    profile: Profile,
    engine: Engine,
    dtype: str = "bf16",
    kv_dtype: str = "bf16",
) -> tuple[Pass, ...]:
    """``k`` passes of a draft model of its own, one token a sequence each, on one GPU; prompts join the first.

    A model that reads nothing of the target's pass; what it has to catch up with after a rejection is one token.
    """
    forward = drafter.next_pass(k, dtype=drafter.weight_dtype(dtype), kv_dtype=kv_dtype)
    cost, host = StepCost(forward, profile, engine), load_draft_host(engine)

    def first(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        decode = Segment("decode", n, n, batch.kv_tokens, n, kv_max=batch.kv_max)
        return StepShape((decode, *prefill_segments(batch)))

    def following(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        cached = np.asarray(batch.kv_tokens, dtype=np.float64) + n * k / 2.0
        return StepShape((Segment("decode", n, n, cached, n),))

    def seconds(shape: StepShape) -> StepTime:
        pick = host.pick(logit_rows(shape), drafter.target.vocab, drafter.draft_vocab, profile.elementwise)
        return cost.cost(shape) + StepTime({"pick": pick})

    opening = Pass("draft_first", drafter.name, first, seconds, device=device, forward=forward)
    if k == 1:
        return (opening,)
    rest = Pass(
        "draft", drafter.name, following, seconds, k - 1, device=device, after=("draft_first",), forward=forward
    )
    return (opening, rest)
