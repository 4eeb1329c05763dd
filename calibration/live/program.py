"""The live engine's round as a round program, for whatever prices its passes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from specsim.cost.shapes import Segment, StepShape, StepTime
from specsim.simulation.program import Batch, Pass, RoundProgram

Price = Callable[[StepShape], StepTime]


def live_round(k: int, *, decode: Price, verify: Price, draft_first: Price, draft: Price, host: Price) -> RoundProgram:
    """What ``engine.decode`` executes: a drafting pass of two tokens a sequence, K - 1 of one, then K + 1 verified.

    Each price is asked for its pass; a ``StepCost`` of the target serves as ``decode`` and ``verify``, one of the
    drafter as both drafting passes. ``host`` is given the verified step. Passes attend to one span for the whole
    batch, its longest sequence and what the round can add, which ``kv_max`` carries.
    """

    def shape(each: int, kind: Literal["decode", "verify"], rows: int) -> Callable[[Batch], StepShape]:
        def of(batch: Batch) -> StepShape:
            n = np.asarray(batch.sequences, dtype=np.float64)
            cached = np.asarray(batch.kv_tokens, dtype=np.float64)
            longest = cached / n if batch.kv_max is None else np.asarray(batch.kv_max, dtype=np.float64)
            return StepShape((Segment(kind, n, n * each, cached, n * rows, kv_max=longest + k + 1),), mode="eager")

        return of

    target = shape(k + 1, "verify" if k else "decode", k + 1)
    passes = [Pass("draft_first", "drafter", shape(2, "verify", 1), draft_first)] if k else []
    if k > 1:
        passes.append(Pass("draft", "drafter", shape(1, "decode", 1), draft, repeats=k - 1, after=("draft_first",)))
    after = (passes[-1].name,) if passes else ()
    passes.append(Pass("verify" if k else "decode", "target", target, verify if k else decode, after=after))
    return RoundProgram(f"live, K={k}", k, tuple(passes), lambda batch: host(target(batch)))
