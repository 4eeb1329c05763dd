"""Draft, then verify: the iteration of vLLM V1, as a round program."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Literal

import numpy as np

from specsim.cost.drafter import Drafter
from specsim.cost.drafting import DraftHost, load_draft_host
from specsim.cost.engine import Engine
from specsim.cost.model import ModelShape
from specsim.cost.profile import Profile
from specsim.cost.shapes import Floats, Segment, StepShape, StepTime
from specsim.cost.step import StepCost
from specsim.errors import InputError
from specsim.simulation.program import Batch, Pass, RoundProgram


def draft_verify(
    target: ModelShape,
    drafter: Drafter | None = None,
    *,
    k: int,
    profile: Profile,
    engine: Engine,
    draft_profile: Profile | None = None,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    kv_dtype: str = "bf16",
    draft_dtype: str | None = None,
) -> RoundProgram:
    """One iteration: a pass of the target over K+1 tokens a sequence and the prefill chunks, then drafting.

    The drafter's first pass takes every token of the step (it must cache them too) and draws logits for one row a
    request; K-1 passes of one token a request follow. Medusa's heads take one pass; n-gram lookup works on the host;
    K = 0 is plain decoding, whatever the drafter. Time follows depth and launches: a drafting pass costs its kernels
    or the host's calls around it, whichever is longer. Requests that still prefill don't speculate, as in vLLM.

    A drafter's ``proposal_rate`` below 1 thins the verified tokens evenly over the batch. Weights are of the profile's
    precision: ``dtype`` only tells apart those that share a profile (fp8 and fp8_static). A draft model's are of the
    profile's that prices it, unless ``draft_dtype`` says otherwise; the cache's precision is ``kv_dtype``, whatever the
    weights'. Raises InputError for a negative ``k``, a drafter of another target, a missing drafter, a profile of
    another ``dtype``, and whatever the profile cannot price.
    """
    if k < 0:
        raise InputError(f"{k} drafted tokens; give 0 or more", field="drafter.num_speculative_tokens")
    dtype = profile.weight_dtype(dtype)
    main = StepCost(target.forward(tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=kv_dtype), profile, engine)
    if k == 0 or drafter is None or drafter.method == "none":
        if k:
            raise InputError(f"{k} drafted tokens without a drafter", field="drafter.num_speculative_tokens")
        return RoundProgram(f"{target.name} decoding", 0, (verify_pass(target, main, 0.0),), _plain_host(engine))
    if drafter.target.hidden != target.hidden or drafter.target.vocab != target.vocab:
        raise InputError(f"{drafter.name} drafts for {drafter.target.name}, not {target.name}", field="drafter.model")
    host = load_draft_host(engine)
    drafted = k * drafter.proposal_rate
    passes = (
        verify_pass(target, main, drafted),
        *_drafting(
            drafter,
            k,
            drafted,
            draft_profile or profile,
            engine,
            host,
            tensor_parallel,
            draft_dtype or drafter.weight_dtype(draft_profile.dtype if draft_profile else dtype),
            kv_dtype,
        ),
    )
    return RoundProgram(
        f"{target.name} with {drafter.name}, K={k}",
        k,
        passes,
        speculative_host(engine, host, drafter, drafted, profile),
    )


def verify_pass(target: ModelShape, cost: StepCost, drafted: float, *, device: str = "gpu") -> Pass:
    """The target's pass: 1 + ``drafted`` tokens and as many rows of logits a decoding sequence."""

    def shape(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        rows = n * (1.0 + drafted)
        kind: Literal["verify", "decode"] = "verify" if drafted else "decode"
        decode = Segment(kind, n, rows, batch.kv_tokens, rows, kv_max=batch.kv_max)
        return StepShape((decode, *prefill_segments(batch)))

    name = "verify" if drafted else "decode"
    return Pass(name, target.name, shape, cost.cost, device=device, forward=cost.forward)


def _drafting(
    drafter: Drafter,
    k: int,
    drafted: float,
    profile: Profile,
    engine: Engine,
    host: DraftHost,
    tensor_parallel: int,
    dtype: str,
    kv_dtype: str,
) -> tuple[Pass, ...]:
    if not drafter.on_gpu:
        return ()
    maps = drafter.draft_vocab != drafter.target.vocab and drafter.method == "eagle3"
    launches = host.model_calls + (host.mapping_calls if maps else 0.0)
    preparing = host.first_calls + (host.fuse_calls if drafter.method == "eagle3" else 0.0)
    split = {"tensor_parallel": tensor_parallel}
    following = StepCost(drafter.next_pass(k, **split, dtype=dtype, kv_dtype=kv_dtype), profile, engine)

    def pick(shape: StepShape) -> StepTime:
        rows = logit_rows(shape) * (1 if drafter.sequential else k)
        return StepTime({"pick": host.pick(rows, drafter.target.vocab, drafter.draft_vocab, profile.elementwise)})

    def next_shape(batch: Batch) -> StepShape:
        n, cached, longest = _after_first(batch, drafted, k)
        return StepShape((Segment("decode", n, n, cached, n, kv_max=longest),))

    def next_cost(shape: StepShape) -> StepTime:
        busy = following.cost(shape) + pick(shape)
        return busy + StepTime({"launch": host.waiting(launches + host.pass_calls, busy)})

    if not drafter.sequential:
        return (Pass("draft", drafter.name, next_shape, next_cost, after=("verify",), forward=following.forward),)
    opening = StepCost(drafter.first_pass(k, **split, dtype=dtype, kv_dtype=kv_dtype), profile, engine)

    def first_shape(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        caught_up = Segment("verify", n, n * (1.0 + drafted), batch.kv_tokens, n, kv_max=batch.kv_max)
        return StepShape((caught_up, *prefill_segments(batch)))

    def first_cost(shape: StepShape) -> StepTime:
        busy = opening.cost(shape) + pick(shape)
        return busy + StepTime({"prepare": host.work(preparing, busy.total_s), "launch": host.waiting(launches, busy)})

    first = Pass("draft_first", drafter.name, first_shape, first_cost, after=("verify",), forward=opening.forward)
    if k == 1:
        return (first,)
    rest = Pass("draft", drafter.name, next_shape, next_cost, k - 1, after=("draft_first",), forward=following.forward)
    return (first, rest)


def _after_first(batch: Batch, drafted: float, k: int) -> tuple[Floats, Floats, Floats | None]:
    """Sequences, cached tokens and the longest cache that the middle one of the K-1 following passes sees."""
    n = np.asarray(batch.sequences, dtype=np.float64)
    grown = 1.0 + drafted + (k - 1) / 2.0
    chunks = len(batch.prefill)
    prompts = [np.add(chunk.past, chunk.tokens, dtype=np.float64) for chunk in batch.prefill]
    cached = np.asarray(batch.kv_tokens, dtype=np.float64) + n * grown + sum(prompts)
    if batch.kv_max is None and not chunks:
        return n, cached, None
    mean = np.asarray(batch.kv_tokens, dtype=np.float64) / np.maximum(n, 1.0)
    longest = np.asarray(mean if batch.kv_max is None else batch.kv_max, dtype=np.float64) + grown
    for prompt in prompts:
        longest = np.maximum(longest, prompt)
    return n + chunks, cached, longest


def prefill_segments(batch: Batch) -> tuple[Segment, ...]:
    """The batch's prefill chunks, like ones together. vLLM computes a row of logits for each, finished or not."""
    if any(np.ndim(chunk.tokens) or np.ndim(chunk.past) for chunk in batch.prefill):  # many mixes at once: one by one
        return tuple(Segment("prefill", 1.0, chunk.tokens, chunk.past, 1.0) for chunk in batch.prefill)
    alike = Counter((float(np.asarray(chunk.tokens)), float(np.asarray(chunk.past))) for chunk in batch.prefill)
    return tuple(
        Segment("prefill", float(count), count * tokens, count * past, float(count))
        for (tokens, past), count in alike.items()
    )


def logit_rows(shape: StepShape) -> Floats:
    """Rows of logits that a pass computes, over all its segments."""
    rows = np.zeros(())
    for segment in shape.segments:
        rows = rows + np.asarray(segment.logit_rows, dtype=np.float64)
    return rows


def iteration_load(batch: Batch, drafted: float) -> tuple[Floats, Floats, Floats]:
    """Requests that are sampled for, tokens in the step, and drafted tokens to compare."""
    n = np.asarray(batch.sequences, dtype=np.float64)
    tokens = n * (1.0 + drafted) + sum(np.asarray(chunk.tokens, dtype=np.float64) for chunk in batch.prefill)
    return n + float(sum(chunk.last for chunk in batch.prefill)), tokens, n * drafted


def _plain_host(engine: Engine) -> Callable[[Batch], StepTime]:
    def host(batch: Batch) -> StepTime:
        requests, tokens, _ = iteration_load(batch, 0.0)
        return engine.host_time(requests, query_tokens=tokens)

    return host


def speculative_host(
    engine: Engine, host: DraftHost, drafter: Drafter, drafted: float, profile: Profile
) -> Callable[[Batch], StepTime]:
    """The host's share of an iteration that verifies ``drafted`` tokens a sequence."""

    def work(batch: Batch) -> StepTime:
        requests, tokens, rejected = iteration_load(batch, drafted)
        extra = host.around(batch.sequences, rejected, drafter.target.vocab, profile.elementwise)
        if drafter.method == "ngram":
            extra = extra + StepTime({"lookup": host.lookup(batch.sequences, batch.kv_tokens)})
        return engine.host_time(requests, query_tokens=tokens, drafted=rejected) + extra

    return work
