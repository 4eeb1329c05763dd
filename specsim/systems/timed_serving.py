"""A serving engine whose step time is a given linear law: for systems that are about load, without a profile."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specsim.cost.shapes import StepTime, Term, Trust
from specsim.errors import InputError
from specsim.simulation.program import Batch, RoundProgram
from specsim.simulation.serving import Serving


@dataclass(frozen=True)
class LinearStep:
    """Seconds of a step: ``step_s`` + ``token_s`` a token in it + ``cached_s`` a cached token, and K x ``draft_s``.

    The form of SmartSpec's and Kong's cost models, T = a N_context + g N_batched + d; neither prints its coefficients.
    """

    step_s: float
    token_s: float
    cached_s: float
    draft_s: float

    def __post_init__(self) -> None:
        if min(self.step_s, self.token_s) <= 0 or min(self.cached_s, self.draft_s) < 0:
            raise InputError("needs step_s and token_s above 0, the others 0 or more", field="step_s, token_s")

    def program(self, k: int) -> RoundProgram:
        """A round that drafts ``k`` tokens, priced by this law."""

        def host(batch: Batch) -> StepTime:
            n = np.asarray(batch.sequences, dtype=np.float64)
            seconds = self.step_s + self.token_s * n * (k + 1) + self.cached_s * np.asarray(batch.kv_tokens)
            seconds = seconds + np.where(n > 0, k * self.draft_s, 0.0)
            for chunk in batch.prefill:
                seconds = seconds + self.token_s * np.asarray(chunk.tokens, dtype=np.float64)
            return StepTime({"given": Term(seconds, "given", np.full(np.shape(seconds), Trust.TRANSFERRED, np.int8))})

        return RoundProgram(f"draft {k}, verify", k, (), host)


ROOMY = Serving(max_num_seqs=256, max_num_batched_tokens=8192, num_blocks=100_000)
"""Limits of vLLM's defaults, and more cache than any of these runs needs."""

LLAMA_8B_H100 = LinearStep(
    step_s=16.06e9 / 3.35e12, token_s=16.06e9 / 989e12 / 0.6, cached_s=131_072 / 3.35e12, draft_s=4e-4
)
"""An 8B target on one H100, from the data sheet: 2 bytes a parameter over 3.35 TB/s; 2 FLOPs over 989 TFLOP/s at 60 %
(assumed); 128 kB a cached token; 0.4 ms a drafted token (assumed: a one-layer head)."""
