"""One checkable sentence about what decides a choice."""

from __future__ import annotations

import numpy as np

from specsim.simulation.program import Batch, RoundProgram

PARTS = {
    "drafting": "the draft passes",
    "attention": "attention over the cache while verifying",
    "linear": "linear layers while verifying",
    "experts": "experts touched while verifying",
    "collectives": "collectives while verifying",
    "host": "host work",
}


def round_parts(program: RoundProgram, batch: Batch) -> dict[str, float]:
    """Seconds of a round by part: drafting, attention, linear, experts, collectives, host.

    LM head and element-wise work count as linear. The parts add up to the round.
    Terms of the target's pass are split by kind, all other passes are drafting.
    """
    parts: dict[str, float] = {}
    for name, term in program.time(batch).terms.items():
        where, _, kind = name.partition(".")
        if where == "host":
            part = "host"
        elif where not in ("verify", "decode"):
            part = "drafting"
        elif kind == "launch":
            part = "host"
        elif kind in ("collectives", "experts"):
            part = kind
        elif kind.endswith("attention"):
            part = "attention"
        else:
            part = "linear"
        parts[part] = parts.get(part, 0.0) + float(np.sum(term.seconds))
    return parts


def explain(plain: RoundProgram, program: RoundProgram, batch: Batch, *, tokens_per_round: float | None) -> str:
    """Compare a speculative round with a plain step and name what costs most of the difference."""
    before, after = round_parts(plain, batch), round_parts(program, batch)
    plain_s, round_s = sum(before.values()), sum(after.values())
    extra = {part: after.get(part, 0.0) - before.get(part, 0.0) for part in after}
    dominant = max(extra, key=lambda part: extra[part])
    where = f"K={program.k} at batch {float(np.asarray(batch.sequences)):.0f}"
    cost = (
        f"a round takes {round_s * 1e3:.2f} ms against {plain_s * 1e3:.2f} ms for a plain step "
        f"({round_s / plain_s:.2f}x), most of the extra in {PARTS[dominant]} (+{extra[dominant] * 1e3:.2f} ms)"
    )
    if tokens_per_round is None:
        return f"{where}: {cost}; it pays from {round_s / plain_s:.2f} tokens a round."
    ratio = tokens_per_round * plain_s / round_s
    verdict = "faster" if ratio > 1 else "slower"
    return (
        f"{where}: {cost}; {tokens_per_round:.2f} tokens a round make it {ratio:.2f}x, {verdict} than plain decoding."
    )
