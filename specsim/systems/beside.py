"""Other models beside the target on its replica: their memory, their passes, and what a prompt runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from specsim.cost.drafter import Drafter
from specsim.cost.drafting import load_draft_host
from specsim.cost.memory import Memory, cache_memory
from specsim.cost.shapes import Segment, StepShape, StepTime
from specsim.cost.step import StepCost
from specsim.simulation.program import Batch, Pass, RoundProgram
from specsim.systems.draft_verify import logit_rows, prefill_segments

if TYPE_CHECKING:
    from specsim.planning.setting import Setting


def memory_with(setting: Setting, drafters: Sequence[tuple[Drafter, int]]) -> Memory:
    """Where the replica's memory goes that holds all of these drafters, each for so many drafted tokens."""
    given = setting.deployment.precision
    tp, kv = given["tensor_parallel"], given["kv_dtype"]
    weights = sum(d.weight_bytes(k, tensor_parallel=tp, dtype=d.weight_dtype(given["dtype"])) for d, k in drafters)
    return memory_beside(
        setting, weights, sum(d.kv_bytes_per_token(tensor_parallel=tp, kv_dtype=kv) for d, _ in drafters)
    )


def memory_beside(setting: Setting, weight_bytes: float, token_bytes: float) -> Memory:
    """The same with so many bytes of weights beside the target, and of cache a token, on each GPU."""
    given = setting.deployment
    return cache_memory(
        given.target, hardware=given.profile.hardware, beside_weight_bytes=weight_bytes, beside_token_bytes=token_bytes,
        **given.scenario.serving.memory_limits, **given.precision,
    )  # fmt: skip


def model_pass(
    setting: Setting,
    name: str,
    drafter: Drafter,
    shape: Callable[[Batch], StepShape],
    *,
    repeats: int = 1,
    after: tuple[str, ...] = (),
    checks: int = 0,
    picks: bool = True,
) -> Pass:
    """A pass of a draft model on the replica.

    checks: drafted tokens a sequence that it accepts or rejects. picks: it draws tokens from its logits where it
    does neither (else others read them).
    """
    given = setting.deployment
    host = load_draft_host(given.engine)
    own = {**given.precision, "dtype": drafter.weight_dtype(given.precision["dtype"])}
    cost = StepCost(drafter.next_pass(1, **own), given.profile, given.engine)
    small = given.profile.elementwise

    def seconds(step: StepShape) -> StepTime:
        busy = cost.cost(step)
        rows, n = logit_rows(step), np.asarray(step.segments[0].sequences, dtype=np.float64)
        if checks:
            busy = busy + host.around(n, n * checks, given.target.vocab, small)
        elif picks:
            busy = busy + StepTime({"pick": host.pick(rows, given.target.vocab, drafter.draft_vocab, small)})
        return busy + StepTime({"launch": host.waiting(host.model_calls + host.pass_calls, busy)})

    return Pass(name, drafter.name, shape, seconds, repeats, after=after, forward=cost.forward)


def prompt_program(setting: Setting, drafters: Sequence[Drafter], *, k: int, kind: int) -> RoundProgram:
    """What a prompt runs where several models read it: the target's pass and one of each; no round is of it."""

    def read(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        return StepShape((Segment("decode", n, n, batch.kv_tokens, n), *prefill_segments(batch)))

    own = tuple(
        model_pass(setting, f"read_{i}", d, read, after=(f"read_{i - 1}" if i else "decode",))
        for i, d in enumerate(drafters)
    )
    plain = setting.deployment.program(None, 0)
    return RoundProgram("prompts", k, (*plain.passes, *own), plain.host, kind)
