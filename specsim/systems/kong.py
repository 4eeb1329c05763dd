"""Kong et al.: mean latency of a serving engine under load, with and without speculation (arXiv 2605.15051).

No new method: a law. In-flight requests slow each other linearly, L = C1 + B C2; Little's law B = RPS L closes it:

    L = C1 / (1 - RPS C2),   C = c_p + (g / E)(c_v + k c_d),   E = (1 - a^(k+1)) / (1 - a)

for C1 and C2 each (prefill, one verification, one draft step; g output tokens). It holds before saturation.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation.engine import simulate as serve
from specsim.simulation.outcome import Outcome
from specsim.simulation.workload import Fixed, Gamma, Workload
from specsim.systems.composition import never
from specsim.systems.descriptor import Parameter, System
from specsim.systems.timed_serving import LLAMA_8B_H100, ROOMY, LinearStep
from specsim.theory.tokens import expected_tokens_iid

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Costs:
    """Seconds of prefill, one verification and one drafted token: alone (c1), and for each request in flight (c2)."""

    prefill_s: float
    verify_s: float
    draft_s: float

    def total(self, *, output: int, k: int, rate: float) -> float:
        """c_p + (g / E)(c_v + k c_d)."""
        tokens = float(expected_tokens_iid(rate, k))
        return self.prefill_s + output / tokens * (self.verify_s + k * self.draft_s)


@dataclass(frozen=True)
class Law:
    """C1 and C2 of one configuration."""

    alone_s: float
    per_request_s: float

    @property
    def capacity_per_s(self) -> float:
        """Request rate at which the law diverges: 1 / C2."""
        return 1.0 / self.per_request_s

    def latency_s(self, requests_per_s: float) -> float:
        """Mean latency, C1 / (1 - RPS C2); raises InputError at or beyond saturation."""
        if requests_per_s * self.per_request_s >= 1.0:
            raise InputError(
                f"{requests_per_s} per second saturates this configuration (at {self.capacity_per_s:.3g})",
                field="requests_per_s",
            )
        return self.alone_s / (1.0 - requests_per_s * self.per_request_s)


def law(alone: Costs, shared: Costs, *, output: int, k: int, rate: float) -> Law:
    """The law of a draft length; k = 0 is plain decoding, whose E is 1."""
    return Law(alone.total(output=output, k=k, rate=rate), shared.total(output=output, k=k, rate=rate))


def speedup(plain: Law, speculative: Law, requests_per_s: float) -> float:
    """Latency without over latency with speculation: (1 / C1R) (1 + (1 - C2R) r / (1 - r)), r = RPS C2 of plain."""
    return plain.latency_s(requests_per_s) / speculative.latency_s(requests_per_s)


def break_even_per_s(plain: Law, speculative: Law) -> float:
    """Request rate at which both are equally fast: r* / C2, r* = (1 - C1R) / (C2R - C1R); inf where there is none.

    0 where speculation is slower even alone.
    """
    c1, c2 = speculative.alone_s / plain.alone_s, speculative.per_request_s / plain.per_request_s
    if c1 >= 1.0:
        return 0.0
    if c2 <= 1.0:
        return float("inf")
    return (1.0 - c1) / (c2 - c1) / plain.per_request_s


@dataclass(frozen=True)
class Measured:
    """Mean latency of one run: prompt and output tokens of every request, request rate."""

    prompt: int
    output: int
    requests_per_s: float
    latency_s: float


@dataclass(frozen=True)
class Fitted:
    """C1 and C2 over prompt and output lengths for one draft length, with the scaling that the paper finds.

    C1 = a0 + a1 P + a2 g and C2 = b1 P + g (b2 + b3 (P + g / 2)): prefill grows with the prompt, and each request in
    flight slows a step by its share of the work and by its cache, P + g / 2 tokens on average. (E and k are constant
    within a fit, so c_v + k c_d over E is one coefficient.)
    """

    alone: tuple[float, float, float]
    shared: tuple[float, float, float]

    def law(self, prompt: int, output: int) -> Law:
        """C1 and C2 of one pair of lengths."""
        (a0, a1, a2), (b1, b2, b3) = self.alone, self.shared
        return Law(a0 + a1 * prompt + a2 * output, b1 * prompt + output * (b2 + b3 * (prompt + output / 2)))


def fit(runs: Sequence[Measured]) -> Fitted:
    """Least squares on the relative error of latency; start from linear fits at low and high load. All costs >= 0."""
    from scipy.optimize import least_squares

    p = np.array([r.prompt for r in runs], dtype=np.float64)
    g = np.array([r.output for r in runs], dtype=np.float64)
    rate = np.array([r.requests_per_s for r in runs])
    seen = np.array([r.latency_s for r in runs])
    first = np.stack([np.ones_like(p), p, g])
    second = np.stack([p, g, g * (p + g / 2)])
    scale = np.concatenate([1.0 / first.mean(axis=1), 1.0 / second.mean(axis=1)])

    def misfit(x: Floats) -> Floats:
        c1, c2 = (x[:3] * scale[:3]) @ first, (x[3:] * scale[3:]) @ second
        ours = c1 / np.maximum(1.0 - rate * c2, 1e-3)
        return np.asarray(np.log(np.maximum(ours, 1e-12) / seen))

    start = np.concatenate([np.full(3, seen.min() / 3), np.full(3, 0.1 / rate.max())])
    x = least_squares(misfit, start, bounds=(0.0, np.inf)).x * scale
    return Fitted(tuple(float(v) for v in x[:3]), tuple(float(v) for v in x[3:]))  # type: ignore[arg-type]


GOLDEN_ALONE, GOLDEN_SHARED = Costs(40e-3, 20e-3, 2e-3), Costs(10e-3, 0.25e-3, 0.12e-3)
"""Costs of a worked example (not the paper's, which prints none): 512 output tokens, acceptance 0.6."""


STEADY = 400.0
"""Shape of the gamma gaps between requests: nearly constant, as the paper's constant rates are."""


def measure(
    step: LinearStep,
    *,
    k: int,
    rate: float,
    prompt: int,
    output: int,
    requests_per_s: float,
    requests: int,
    rng: np.random.Generator,
) -> tuple[Measured, Outcome]:
    """Simulate one constant-rate run of the serving engine; its mean latency is that of the middle 40 %."""
    load = Workload(Gamma(requests_per_s, STEADY), Fixed(prompt), Fixed(output))
    ran = serve(step.program(k), Iid(rate), load, ROOMY, rng, num_requests=requests)
    middle = ran.e2e_s[requests * 4 // 10 : requests * 8 // 10]
    return Measured(prompt, output, requests_per_s, float(middle.mean())), Outcome(ran, (), ())


def simulate(
    rng: np.random.Generator,
    *,
    rate: float = 0.6,
    k: int = 3,
    prompt: int = 512,
    output: int = 512,
    requests_per_s: float = 8.0,
    requests: int = 300,
) -> Outcome:
    """One constant-rate run on the folded executor."""
    return measure(
        LLAMA_8B_H100,
        k=k,
        rate=rate,
        prompt=prompt,
        output=output,
        requests_per_s=requests_per_s,
        requests=requests,
        rng=rng,
    )[1]


SYSTEM = System(
    name="kong",
    title="An Interpretable Latency Model for Speculative Decoding in LLM Serving",
    paper="2605.15051",
    year=2026,
    lossless="yes (ordinary chains)",
    topology="drafter and target on one replica, continuous batching",
    pipeline="draft x k -> verify -> commit, under a constant request rate",
    rule="a law, no rule: L = C1 / (1 - RPS C2), C = c_p + (g / E)(c_v + k c_d)",
    parameters=(
        Parameter("rate", 0.6, "acceptance per position (imposed)", "within the paper's 0.5 to 1"),
        Parameter("k", 3, "drafted tokens", "within the paper's 1 to 10"),
        Parameter("prompt", 512, "prompt tokens", "one of 256, 512, 768, 1024"),
        Parameter("output", 512, "output tokens", "one of 256, 512, 768, 1024"),
        Parameter("requests_per_s", 8.0, "request rate", "assumed"),
        Parameter("requests", 300, "requests simulated", "-"),
    ),
    assumptions=(
        "step time is linear in tokens and cache, coefficients from data sheets (fitted ones were not found)",
        "before saturation; MoE coverage is left out",
    ),
    batches="continuous batching is what it is about",
    simulate=simulate,
    compose=never("is a law of latency under load, not a way to draft; specsim plan has a scenario's own"),
    study="kong",
)
