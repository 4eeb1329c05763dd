"""Round programs: what one engine iteration executes, as passes with one commit, and what it costs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specsim.cost.flops import pass_flops
from specsim.cost.shapes import Floats, ForwardShape, StepShape, StepTime


@dataclass(frozen=True)
class PrefillChunk:
    """Part of one prompt that shares the step: ``tokens`` new ones after ``past`` cached; ``last`` ends the prompt.

    Numbers broadcast with the batch's decode fields, so that one call can price many mixes.
    """

    tokens: ArrayLike
    past: ArrayLike
    last: bool = True


@dataclass(frozen=True)
class Batch:
    """What the scheduler put into an iteration. The decode fields broadcast, so one call can price many iterations.

    sequences: requests that decode (each verifies ``k + 1`` positions when the program speculates).
    kv_tokens: their cached tokens, summed. kv_max: the longest of them (None: equal lengths).
    prefill: chunks that share the iteration.
    """

    sequences: ArrayLike
    kv_tokens: ArrayLike
    kv_max: ArrayLike | None = None
    prefill: tuple[PrefillChunk, ...] = ()


@dataclass(frozen=True)
class Pass:
    """One forward pass of one model on one device, after the passes named in ``after``.

    ``shape`` says what the pass executes for a batch; ``cost`` prices it; ``repeats`` counts equal passes in a row.
    bytes_in, prompt_bytes_in: what it receives from passes of another device, a sequence and round, and a prompt token.
    forward: the model's products and attention; None where only the time is known.
    """

    name: str
    model: str
    shape: Callable[[Batch], StepShape]
    cost: Callable[[StepShape], StepTime]
    repeats: int = 1
    device: str = "gpu"
    after: tuple[str, ...] = ()
    bytes_in: float = 0.0
    prompt_bytes_in: float = 0.0
    forward: ForwardShape | None = None


@dataclass(frozen=True)
class RoundProgram:
    """A draft/verify round of ``k`` drafted tokens (0: plain decoding) as passes, host work, and one commit.

    ``host`` prices work outside the passes (scheduling, sampling, rejection, input preparation). kind: what a round
    rule calls it where rounds of one draft length differ in their passes; None where the draft length says all. bonus:
    tokens that a round emits at most beside the accepted ones, the correction or bonus token.
    """

    name: str
    k: int
    passes: tuple[Pass, ...]
    host: Callable[[Batch], StepTime]
    kind: int | None = None
    bonus: int = 1

    @property
    def key(self) -> int:
        """What a round rule asks for: its kind, else its draft length."""
        return self.k if self.kind is None else self.kind

    @property
    def tokens_per_sequence(self) -> int:
        """Scheduled tokens that one decoding request takes from the budget, and the cache slots it looks ahead."""
        return self.k + 1

    def time(self, batch: Batch) -> StepTime:
        """Time of an iteration whose passes share one device, as terms named ``<pass>.<term>`` and ``host.<term>``."""
        total = self.host(batch).named("host")
        for p in self.passes:
            step = p.cost(p.shape(batch))
            total = total + (step if p.repeats == 1 else step.scaled(p.repeats)).named(p.name)
        return total

    def seconds(self, batch: Batch) -> np.ndarray[Any, np.dtype[np.float64]]:
        """Total time of an iteration, in seconds."""
        return self.time(batch).total_s

    def flops(self, batch: Batch) -> Floats:
        """Floating-point operations of an iteration, over its passes whose model is known, repeats counted."""
        known = [p for p in self.passes if p.forward is not None]
        return np.asarray(sum(p.repeats * pass_flops(_of(p), p.shape(batch)) for p in known), dtype=np.float64)


def _of(p: Pass) -> ForwardShape:
    assert p.forward is not None
    return p.forward
