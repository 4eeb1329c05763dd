"""Draft a tree, then verify it: EAGLE's dynamic trees as SGLang runs them, as a round program."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import groupby

import numpy as np

from specsim.cost.drafter import Drafter
from specsim.cost.drafting import load_draft_host
from specsim.cost.engine import Engine
from specsim.cost.model import ModelShape
from specsim.cost.profile import Profile
from specsim.cost.shapes import Segment, StepShape, StepTime
from specsim.cost.step import StepCost
from specsim.errors import InputError
from specsim.simulation.program import Batch, Pass, RoundProgram
from specsim.systems.draft_verify import iteration_load, logit_rows, prefill_segments

TREE_ASSUMED = "attention of a tree is priced as a chain's of as many tokens"
"""What every composition that drafts trees says was assumed."""


def draft_tree(
    target: ModelShape,
    drafter: Drafter,
    *,
    steps: int,
    branches: int | Sequence[int],
    tokens: int,
    profile: Profile,
    engine: Engine,
    draft_profile: Profile | None = None,
    tensor_parallel: int = 1,
    dtype: str | None = None,
    kv_dtype: str = "bf16",
) -> RoundProgram:
    """A round of ``steps`` drafting passes over ``branches`` tokens a sequence, of whose tree ``tokens`` are verified.

    The names are SGLang's: speculative-num-steps, -eagle-topk, -num-draft-tokens (the tree with its root: a chain of
    K drafted tokens has K + 1). Passes: the target over ``tokens`` a sequence under a tree mask; the drafter over the
    accepted tokens, padded to ``steps`` + 1 in its captured graph; ``steps`` - 1 passes of ``branches`` tokens (of as
    many as ``branches`` says of each, where the tree's shape is fixed).

    Attention of a tree is priced as that of a chain of as many tokens. Weights are of the profile's precision:
    ``dtype`` only tells apart those that share one. Raises InputError for a tree that ``steps`` and ``branches`` cannot
    fill, for drafters that don't draft in sequence, and for a profile of another ``dtype``.
    """
    widths = _widths(steps, branches, tokens)
    if not drafter.sequential:
        raise InputError(f"{drafter.method} drafts no trees here; use eagle, eagle3 or mtp", field="drafter.method")
    host, tp = load_draft_host(engine), tensor_parallel
    dtype = profile.weight_dtype(dtype)
    own = drafter.weight_dtype(draft_profile.dtype if draft_profile else dtype)
    drafting = draft_profile or profile
    main = StepCost(target.forward(tensor_parallel=tp, dtype=dtype, kv_dtype=kv_dtype), profile, engine)
    opening = StepCost(drafter.first_pass(steps, tensor_parallel=tp, dtype=own, kv_dtype=kv_dtype), drafting, engine)
    following = StepCost(drafter.next_pass(steps, tensor_parallel=tp, dtype=own, kv_dtype=kv_dtype), drafting, engine)

    def verified(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        tree = Segment("tree", n, n * tokens, batch.kv_tokens, n * tokens, kv_max=batch.kv_max)
        return StepShape((tree, *prefill_segments(batch)))

    def extended(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        accepted = Segment("verify", n, n * (steps + 1), batch.kv_tokens, n, kv_max=batch.kv_max)
        return StepShape((accepted, *prefill_segments(batch)))

    def grown(batch: Batch, width: int) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        cached = np.asarray(batch.kv_tokens, dtype=np.float64) + n * (1.0 + steps / 2.0)
        rows = n * width
        return StepShape((Segment("tree", n, rows, cached, rows, kv_max=batch.kv_max),))

    def pick(shape: StepShape) -> StepTime:
        rows = logit_rows(shape)
        return StepTime({"pick": host.pick(rows, target.vocab, drafter.draft_vocab, drafting.elementwise)})

    def open_cost(shape: StepShape) -> StepTime:
        busy = opening.cost(shape) + pick(shape)
        return busy + StepTime({"prepare": host.work(host.first_calls, busy.total_s)})

    def grow_cost(shape: StepShape) -> StepTime:
        return following.cost(shape) + pick(shape)

    def work(batch: Batch) -> StepTime:
        sampled, scheduled, compared = iteration_load(batch, tokens - 1)
        sampling = engine.host_time(sampled, query_tokens=scheduled, drafted=compared)
        return sampling + host.around(batch.sequences, compared, target.vocab, profile.elementwise)

    passes = [
        Pass("verify", target.name, verified, main.cost, forward=main.forward),
        Pass("draft_first", drafter.name, extended, open_cost, after=("verify",), forward=opening.forward),
    ]
    for width, level in groupby(widths):
        name = "draft" if len(set(widths)) == 1 else f"draft_{len(passes)}"
        passes.append(
            Pass(
                name,
                drafter.name,
                partial(grown, width=width),
                grow_cost,
                repeats=len(list(level)),
                after=(passes[-1].name,),
                forward=following.forward,
            )
        )
    name = f"{target.name} with {drafter.name}, {steps} steps, {branches} branches, {tokens} tokens"
    return RoundProgram(name, tokens - 1, tuple(passes), work)


def _widths(steps: int, branches: int | Sequence[int], tokens: int) -> tuple[int, ...]:
    """Tokens of each of the ``steps`` - 1 passes after the first."""
    for name, value, low in (("steps", steps, 1), ("tokens", tokens, 2)):
        if value < low:
            raise InputError(f"{value}; give {low} or more", field=f"drafter.{name}")
    if not isinstance(branches, int):
        if len(branches) != steps - 1 or min(branches, default=1) < 1:
            raise InputError(f"{list(branches)}; {steps} steps have {steps - 1} widths of 1 or more", field="branches")
        return tuple(branches)
    if branches < 1:
        raise InputError(f"{branches}; give 1 or more", field="drafter.branches")
    most = 1 + branches + (steps - 1) * branches**2
    if tokens > most:
        raise InputError(
            f"{tokens}; {steps} steps of {branches} branches fill a tree of {most} at most", field="drafter.tokens"
        )
    return (branches,) * (steps - 1)
