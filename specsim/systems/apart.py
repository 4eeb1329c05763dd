"""Drafting and verifying on devices of their own: the passes of either side, priced by their own hardware."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from specsim.cost.drafter import Drafter
from specsim.cost.drafting import load_draft_host
from specsim.cost.engine import Engine
from specsim.cost.profile import Profile
from specsim.cost.shapes import ForwardShape, Segment, StepShape, StepTime, Term, Trust
from specsim.cost.step import StepCost
from specsim.simulation.program import Batch, Pass, RoundProgram
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
    dtype: str | None = None,
    kv_dtype: str = "bf16",
) -> tuple[Pass, ...]:
    """``k`` passes of a draft model of its own, one token a sequence each, on one GPU; prompts join the first.

    A model that reads nothing of the target's pass; what it has to catch up with after a rejection is one token. Its
    weights are of the profile's precision (InputError where ``dtype`` is another's), a head's of 16 bits.
    """
    forward = drafter.next_pass(k, dtype=drafter.weight_dtype(profile.weight_dtype(dtype)), kv_dtype=kv_dtype)
    cost, host = StepCost(forward, profile, engine), load_draft_host(engine)

    def seconds(shape: StepShape) -> StepTime:
        pick = host.pick(logit_rows(shape), drafter.target.vocab, drafter.draft_vocab, profile.elementwise)
        return cost.cost(shape) + StepTime({"pick": pick})

    return _in_a_row(drafter.name, k, seconds, device=device, forward=forward)


def device_passes(drafter: Drafter, k: int, *, device: str, draft_s: float, prompt_s: float) -> tuple[Pass, ...]:
    """The same on a device that no profile knows: ``draft_s`` a pass, ``prompt_s`` a token of a prompt.

    One sequence at a time. What it executes is counted from the draft model's shape, at its own precision.
    """

    def seconds(shape: StepShape) -> StepTime:
        decode, *prompts = shape.segments
        n, _ = np.broadcast_arrays(np.asarray(decode.sequences, np.float64), np.asarray(decode.kv_tokens, np.float64))
        total = draft_s * n
        for prompt in prompts:
            total = total + prompt_s * np.asarray(prompt.query_tokens, dtype=np.float64)
        trust = np.full(np.shape(total), Trust.TRANSFERRED, dtype=np.int8)
        return StepTime({"given": Term(np.asarray(total), "given", trust)})

    return _in_a_row(drafter.name, k, seconds, device=device, forward=drafter.next_pass(k))


def across(
    drafting: tuple[Pass, ...],
    verify: Pass,
    host: Callable[[Batch], StepTime],
    k: int,
    *,
    bytes_in: float,
    prompt_bytes_in: float,
) -> RoundProgram:
    """Draft ``k`` tokens on one device, send them, verify them on another: a round, in turn.

    bytes_in: of a sequence's message. prompt_bytes_in: a prompt token, which both devices compute one after the other.
    """
    tested = replace(verify, after=(drafting[-1].name,), bytes_in=bytes_in, prompt_bytes_in=prompt_bytes_in)
    return RoundProgram(f"draft {k} there, verify here", k, (tested, *drafting), host)


def _in_a_row(
    name: str, k: int, seconds: Callable[[StepShape], StepTime], *, device: str, forward: ForwardShape
) -> tuple[Pass, ...]:
    def first(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        decode = Segment("decode", n, n, batch.kv_tokens, n, kv_max=batch.kv_max)
        return StepShape((decode, *prefill_segments(batch)))

    def following(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        cached = np.asarray(batch.kv_tokens, dtype=np.float64) + n * k / 2.0
        return StepShape((Segment("decode", n, n, cached, n),))

    opening = Pass("draft_first", name, first, seconds, device=device, forward=forward)
    if k == 1:
        return (opening,)
    rest = Pass("draft", name, following, seconds, k - 1, device=device, after=("draft_first",), forward=forward)
    return (opening, rest)
