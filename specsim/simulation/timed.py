"""Passes whose time is given, not priced from a profile: for papers that print times, and for idealisations."""

from __future__ import annotations

from collections.abc import Callable
from numbers import Real

import numpy as np
from numpy.typing import ArrayLike

from specsim.cost.shapes import Floats, Segment, StepShape, StepTime, Term, Trust
from specsim.errors import InputError
from specsim.simulation.program import Batch, Pass, RoundProgram

Seconds = Callable[[ArrayLike, ArrayLike], ArrayLike]
"""Seconds of a pass from its sequences and their cached tokens (summed); arrays broadcast."""


def timed_pass(
    name: str,
    seconds: float | Seconds,
    *,
    device: str = "gpu",
    after: tuple[str, ...] = (),
    repeats: int = 1,
    bytes_in: float = 0.0,
    prompt_bytes_in: float = 0.0,
    prefill_s_per_token: float = 0.0,
) -> Pass:
    """A pass of ``seconds``, a constant or a law of (sequences, cached tokens); prefill adds its time per token.

    Raises InputError for a negative time, and where a law fails on arrays (when it is first asked).
    """
    if not callable(seconds):
        _check(seconds, f"stage {name}: seconds")
    _check(prefill_s_per_token, f"stage {name}: prefill_s_per_token")
    if repeats < 0:
        raise InputError(f"{repeats} passes; give 0 or more", field=f"stage {name}: repeats")

    def shape(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        decode = Segment("decode", n, n, batch.kv_tokens, n)
        chunks = (Segment("prefill", 1, chunk.tokens, chunk.past, float(chunk.last)) for chunk in batch.prefill)
        return StepShape((decode, *chunks))

    def cost(step: StepShape) -> StepTime:
        decode = step.segments[0]
        n, kv = np.broadcast_arrays(np.asarray(decode.sequences, np.float64), np.asarray(decode.kv_tokens, np.float64))
        total = np.where(n > 0, _asked(seconds, n, kv, name) if callable(seconds) else float(seconds), 0.0)
        for chunk in step.segments[1:]:
            total = total + prefill_s_per_token * np.asarray(chunk.query_tokens, dtype=np.float64) / max(repeats, 1)
        trust = np.full(np.shape(total), Trust.TRANSFERRED, dtype=np.int8)
        return StepTime({"given": Term(total, "given", trust)})

    return Pass(name, "given", shape, cost, repeats, device, after, bytes_in=bytes_in, prompt_bytes_in=prompt_bytes_in)


def timed_program(name: str, k: int, *passes: Pass, kind: int | None = None, bonus: int = 1) -> RoundProgram:
    """A round of given passes, without host work; ``kind`` and ``bonus`` as a RoundProgram has them."""
    return RoundProgram(name, k, passes, no_host, kind, bonus)


def _check(seconds: float, field: str) -> None:
    if not isinstance(seconds, Real) or not 0 <= seconds < np.inf:
        raise InputError(f"{seconds!r} s; give 0 or more", field=field)


def _asked(law: Seconds, n: Floats, kv: Floats, name: str) -> Floats:
    field = f"stage {name}: seconds"
    try:
        made = np.asarray(law(n, kv), dtype=np.float64)
        fits = np.broadcast_shapes(made.shape, n.shape) == n.shape
    except (TypeError, ValueError) as error:
        raise InputError(
            f"the law fails on arrays of sequences and cached tokens, which it must take: {error}", field=field
        ) from error
    if not fits:
        raise InputError(f"the law makes shape {made.shape} of arrays of shape {n.shape}", field=field)
    return made


def no_host(batch: Batch) -> StepTime:
    """Host work that takes no time."""
    zero = np.zeros(np.shape(np.asarray(batch.sequences, dtype=np.float64)))
    return StepTime({"none": Term(zero, "none", np.zeros(zero.shape, dtype=np.int8))})
