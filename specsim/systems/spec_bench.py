"""Spec-Bench: how a survey compares speculative methods on equal footing (arXiv 2401.07851, Findings of ACL 2024).

Two metrics over 480 prompts at batch 1: speedup is the mean over prompts of tokens per second, over the same mean of
plain decoding; mean accepted tokens is the mean over decoding steps of tokens emitted. A method is a drafter kind, a
number of tokens to verify, and host work around a step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import LengthOnly
from specsim.errors import InputError
from specsim.simulation.in_series import chains_in_series
from specsim.simulation.outcome import Outcome
from specsim.systems.composition import never
from specsim.systems.descriptor import Parameter, System
from specsim.systems.reproduction import Row

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Drafting = Literal["independent model", "heads", "early exit", "retrieval", "lookahead"]
Verification = Literal["greedy", "speculative sampling", "token tree"]


@dataclass(frozen=True)
class Method:
    """A row of the survey's taxonomy: how drafts are made, checked, and how many tokens a step verifies."""

    name: str
    drafting: Drafting
    verification: Verification
    verified_tokens: int
    source: str


METHODS = (
    Method("EAGLE", "heads", "token tree", 26, "EAGLE's default static tree, with its root"),
    Method("SpS", "independent model", "greedy", 6, "assisted generation's schedule starts at 5 tokens (assumed mean)"),
    Method("Medusa", "heads", "token tree", 64, "mc_sim_7b_63: 63 nodes and the root (Spec-Bench's setting)"),
    Method("PLD", "retrieval", "greedy", 11, "10 candidate tokens (Spec-Bench's setting)"),
)


@dataclass(frozen=True)
class Generation:
    """One prompt's decoding: tokens that each step emitted, and its wall time."""

    step_tokens: Ints
    seconds: float


def speedup(method: list[Generation], plain: list[Generation]) -> float:
    """Mean over prompts of new tokens / wall time, over the same mean of plain decoding (not a ratio of totals)."""
    return _mean_speed(method) / _mean_speed(plain)


def mean_accepted_tokens(generations: list[Generation]) -> float:
    """Tokens emitted per decoding step, all steps of all prompts alike; plain decoding has 1."""
    if not generations:
        raise InputError("no generations", field="generations")
    return float(np.concatenate([g.step_tokens for g in generations]).mean())


def _mean_speed(generations: list[Generation]) -> float:
    if not generations or any(g.seconds <= 0 for g in generations):
        raise InputError("needs generations with a wall time above 0", field="generations")
    return float(np.mean([g.step_tokens.sum() / g.seconds for g in generations]))


@dataclass(frozen=True)
class Machine:
    """A device and its plain decoding speeds of Vicuna by size, tokens/s (the paper's Tables 5 and 6)."""

    name: str
    bytes_per_s: float
    flops: float
    plain: dict[str, float]


A100 = Machine("A100-80G", 2.04e12, 312e12, {"7B": 40.24, "13B": 31.38, "33B": 16.34})
RTX_3090 = Machine("RTX 3090", 0.936e12, 71e12, {"7B": 36.74})
"""Peak bf16 arithmetic and bandwidth from the data sheets (the 3090's with fp16 accumulation 142, fp32 71 TFLOP/s)."""

PARAMETERS = {"7B": 6.74e9, "13B": 13.0e9, "33B": 32.5e9}
LAYERS = {"7B": 32, "13B": 40, "33B": 60}
HIDDEN = {"7B": 4096, "13B": 5120, "33B": 6656}
VOCABULARY, EAGLE_PASSES = 32_000, 5
"""Llama's sizes; EAGLE's tree is five levels deep."""

LEADERBOARD = {
    "EAGLE": {"7B": (3.58, 2.10), "13B": (3.64, 2.16), "33B": (3.39, 2.43)},
    "SpS": {"7B": (2.28, 1.52), "13B": (2.19, 1.54), "33B": (2.01, 1.57)},
    "Medusa": {"7B": (2.31, 1.71), "13B": (2.39, 1.80), "33B": (2.33, 1.76)},
    "PLD": {"7B": (1.75, 1.66), "13B": (1.67, 1.56), "33B": (1.54, 1.40)},
}
"""A100: (mean accepted tokens, overall speedup) by size; repository state of 2025-04-22."""

SPS_3090 = (2.28, 1.79)


def step_s(machine: Machine, size: str) -> float:
    """Seconds of a plain decoding step."""
    return 1.0 / machine.plain[size]


def host_s(machine: Machine, size: str) -> float:
    """What a step takes beyond streaming the weights: 2 bytes a parameter over the bandwidth (additive, assumed)."""
    return step_s(machine, size) - 2.0 * PARAMETERS[size] / machine.bytes_per_s


def scaling_s(method: Method, machine: Machine, size: str) -> float:
    """The part of a method's extra time that grows with the target.

    Arithmetic of the tokens verified, 2 FLOPs a parameter and token at peak, not hidden behind the weights; and for
    EAGLE the weights of five passes of one layer and the LM head.
    """
    extra = 2.0 * PARAMETERS[size] * method.verified_tokens / machine.flops
    if method.name == "EAGLE":
        layer = PARAMETERS[size] / LAYERS[size]
        extra += EAGLE_PASSES * 2.0 * (layer + HIDDEN[size] * VOCABULARY) / machine.bytes_per_s
    return extra


def fixed_s(method: Method) -> float:
    """The part that does not: drafting launches and bookkeeping, from the method's 7B column on the A100 (fitted)."""
    accepted, gained = LEADERBOARD[method.name]["7B"]
    return step_s(A100, "7B") * (accepted / gained - 1.0) - scaling_s(method, A100, "7B")


def predicted(method: Method, machine: Machine, size: str, accepted: float) -> float:
    """Speedup from mean accepted tokens: accepted / (1 + (fixed + scaling) / plain step).

    On another machine the fixed part is scaled by that machine's host time over the A100's.
    """
    fixed = fixed_s(method) * host_s(machine, "7B") / host_s(A100, "7B")
    return accepted / (1.0 + (fixed + scaling_s(method, machine, size)) / step_s(machine, size))


def constant_ratio(method: Method, accepted: float) -> float:
    """The rival: the 7B column's relative step cost, kept for every size."""
    at_7b = LEADERBOARD[method.name]["7B"]
    return accepted * at_7b[1] / at_7b[0]


def mean_errors() -> tuple[float, float]:
    """Mean absolute error over the 13B and 33B columns: (this model, constant ratio)."""
    ours, rival = [], []
    for method in METHODS:
        for size in ("13B", "33B"):
            accepted, published = LEADERBOARD[method.name][size]
            ours.append(abs(predicted(method, A100, size, accepted) / published - 1.0))
            rival.append(abs(constant_ratio(method, accepted) / published - 1.0))
    return float(np.mean(ours)), float(np.mean(rival))


def rows() -> tuple[Row, ...]:
    """13B and 33B of four methods from the 7B column and their accepted tokens; SpS on the RTX 3090."""
    made = []
    for method in METHODS:
        for size in ("13B", "33B"):
            accepted, published = LEADERBOARD[method.name][size]
            within = 0.12 if size == "33B" and method.name in ("EAGLE", "SpS") else 0.15
            ours = predicted(method, A100, size, accepted)
            made.append(Row(f"A100, Vicuna-{size}, {method.name}: speedup", published, ours, within))
    accepted, published = SPS_3090
    sps = next(m for m in METHODS if m.name == "SpS")
    made.append(Row("RTX 3090, Vicuna-7B, SpS: speedup", published, predicted(sps, RTX_3090, "7B", accepted), 0.15))
    return tuple(made)


def simulate(
    rng: np.random.Generator,
    *,
    accepted: float = 2.28,
    k: int = 5,
    plain_ms: float = 24.85,
    extra_ms: float = 12.4,
    tokens: int = 20_000,
) -> Outcome:
    """One stream of a method, as the benchmark sees it: steps of ``accepted`` tokens, plain time plus an extra."""
    seconds = (plain_ms + extra_ms) / 1e3
    return chains_in_series(LengthOnly(accepted, k), k, seconds, rng, tokens=tokens)


SYSTEM = System(
    name="spec-bench",
    title="Unlocking Efficiency in Large Language Model Inference: A Survey of Speculative Decoding",
    paper="2401.07851",
    year=2024,
    lossless="depends on the method",
    topology="one device, batch 1",
    pipeline="draft (model, heads, early exit, retrieval, lookahead) -> verify (greedy, sampling, tree) -> commit",
    rule="mean over prompts of tokens per second over plain decoding's; tokens emitted per step",
    parameters=(
        Parameter("accepted", 2.28, "mean accepted tokens, bonus included", "leaderboard: SpS, A100, Vicuna-7B"),
        Parameter("k", 5, "drafted tokens", "assumed: assisted generation's schedule starts there"),
        Parameter("plain_ms", 24.85, "a plain step", "Table 6: 40.24 tokens/s"),
        Parameter("extra_ms", 12.4, "what a step takes beyond it", "derived: accepted / speedup - 1, of a plain step"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=("a method's host work doesn't depend on the target's size", "acceptance is i.i.d. within a draft"),
    batches="batch 1 by protocol",
    simulate=simulate,
    compose=never("is a survey, not a way to draft; eagle, eagle2, medusa, ngram and leviathan are methods of its"),
    study="spec_bench",
)
