"""MagicDec: speculation pays again at long context and large batch (arXiv 2408.11049, ICLR 2025). Lossless.

The drafter is cheap where it matters: a small model, or the target itself over a sparse cache of ``budget`` tokens. One
group of GPUs. T_SD / T_T = (gamma T_D / T_T + T_V / T_T) / Omega(gamma, alpha).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import Iid
from specsim.cost.drafter import Drafter
from specsim.cost.shapes import Segment, StepShape
from specsim.simulation.in_series import chains_in_series
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import Batch, RoundProgram
from specsim.systems.composition import Composition, on_the_replica
from specsim.systems.descriptor import Parameter, System
from specsim.systems.draft_verify import draft_verify
from specsim.systems.reproduction import Row
from specsim.theory.tokens import expected_tokens_iid

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]

A100_BANDWIDTH = 8 * 2.04e12
"""Bytes per second of eight A100 (2.04 TB/s each, data sheet), the tensor-parallel group of the paper."""

LLAMA2_KV_BYTES = 2 * 32 * 4096 * 2
LLAMA31_KV_BYTES = 2 * 32 * 8 * 128 * 2
"""Cache bytes of a token: 2 x layers x width of keys x 2 bytes (32 layers; 32 heads, or 8 of 128 for Llama 3.1)."""

PLAIN_MS = {
    2048: {32: 9.47, 48: 10.9, 64: 13.9, 128: 19.2, 256: 30.4},
    4000: {32: 11.9, 48: 14.4, 64: 19.3, 128: 28.9, 256: 48.8},
    8000: {32: 16.5, 48: 21.5, 64: 31.5, 128: 49.9},
    16000: {32: 26.3, 48: 35.9, 64: 55.1},
    24000: {32: 35.7, 48: 50.1},
    32000: {32: 45.0},
}
"""Plain ms per step of Llama-2-7B-32K on 8 A100, {context: {batch: ms}}: the project page's speculative latency times
its ratio; batch labels of all but the 8000 row follow the figure's order."""

ACCEPTANCE = {4_000: 0.84, 8_000: 0.83, 16_000: 0.82, 32_000: 0.81, 64_000: 0.79, 100_000: 0.79}
"""Llama-3.1-8B drafting for itself over a sink and window of 512 tokens, PG-19 (project page)."""

SPEEDUPS_32K = {32: (3, 1.22), 64: (3, 1.38), 128: (4, 1.47)}
"""Llama-3.1-8B for itself, 8 A100, context 32k: {batch: (gamma, speedup)} at the best gamma (project page)."""

BUDGET = 512


@dataclass(frozen=True)
class GroupLaw:
    """Seconds of a pass of a group of GPUs: floor + a token's arithmetic + one read of the cache + its arithmetic.

    floor_s: what an empty pass takes (weights, launches, collectives). token_s: for each token. bytes_per_s: of cache
    read, once a sequence however many tokens are verified. query_s: attention's arithmetic for each verified token
    beyond a sequence's first, per cached token.
    """

    floor_s: float
    token_s: float
    bytes_per_s: float
    query_s: float = 0.0

    def seconds(self, batch: int, context: float, *, kv_bytes: float, tokens: int = 1) -> float:
        """A pass over ``tokens`` tokens of each of ``batch`` sequences with so much cached each."""
        read = batch * context * kv_bytes / self.bytes_per_s
        return self.floor_s + self.token_s * batch * tokens + read + self.query_s * batch * (tokens - 1) * context


@cache
def plain_law() -> GroupLaw:
    """Floor, cost of a token and cache bandwidth: least squares on the 20 plain latencies of Llama-2-7B-32K."""
    rows = [(b, s, ms) for s, by_batch in PLAIN_MS.items() for b, ms in by_batch.items()]
    design = np.array([[1.0, b, b * s] for b, s, _ in rows])
    floor, token, cached = np.linalg.lstsq(design, np.array([ms / 1e3 for _, _, ms in rows]), rcond=None)[0]
    return GroupLaw(float(floor), float(token), LLAMA2_KV_BYTES / float(cached))


def speedup(law: GroupLaw, *, batch: int, context: int, k: int, rate: float, kv_bytes: float, budget: int) -> float:
    """Omega / (gamma T_D / T_T + T_V / T_T), the drafter being the target over ``budget`` cached tokens."""
    plain = law.seconds(batch, context, kv_bytes=kv_bytes)
    draft = law.seconds(batch, min(budget, context), kv_bytes=kv_bytes)
    verify = law.seconds(batch, context, kv_bytes=kv_bytes, tokens=k + 1)
    return float(expected_tokens_iid(rate, k)) * plain / (k * draft + verify)


def with_query_cost(law: GroupLaw, batch: int) -> GroupLaw:
    """The law whose arithmetic of verifying attention gives the published 32k speedup at one batch: one constant."""
    k, published = SPEEDUPS_32K[batch]
    s, kv = 32_000, LLAMA31_KV_BYTES
    plain, draft = (law.seconds(batch, c, kv_bytes=kv) for c in (s, BUDGET))
    flat = law.seconds(batch, s, kv_bytes=kv, tokens=k + 1)
    verify = float(expected_tokens_iid(ACCEPTANCE[s], k)) * plain / published - k * draft
    return GroupLaw(law.floor_s, law.token_s, law.bytes_per_s, (verify - flat) / (batch * k * s))


def rows() -> tuple[Row, ...]:
    """20 plain latencies (a fit of three constants), and the 32k speedups: batch 64 sets one constant, two follow."""
    law = plain_law()
    made = [
        Row(f"Llama-2-7B-32K, batch {b}, context {s}: plain ms (fitted)", ms, 1e3 * ours, 0.15 if b == 64 else 0.10)
        for s, by_batch in PLAIN_MS.items()
        for b, ms in by_batch.items()
        for ours in [law.seconds(b, s, kv_bytes=LLAMA2_KV_BYTES)]
    ]
    known = with_query_cost(law, 64)
    for batch, (k, published) in SPEEDUPS_32K.items():
        ours = speedup(
            known, batch=batch, context=32_000, k=k, rate=ACCEPTANCE[32_000], kv_bytes=LLAMA31_KV_BYTES, budget=BUDGET
        )
        fitted = " (fitted)" if batch == 64 else ""
        made.append(Row(f"Llama-3.1-8B, 32k, batch {batch}, gamma {k}: speedup{fitted}", published, ours, 0.10))
    return tuple(made)


def simulate(
    rng: np.random.Generator,
    *,
    batch: int = 64,
    context: int = 32_000,
    k: int = 3,
    rate: float = 0.81,
    budget: int = BUDGET,
    tokens: int = 20_000,
) -> Outcome:
    """One of ``batch`` streams of Llama-3.1-8B drafting for itself over a sparse cache, on 8 A100."""
    law, kv = with_query_cost(plain_law(), 64), LLAMA31_KV_BYTES
    draft = law.seconds(batch, min(budget, context), kv_bytes=kv)
    seconds = k * draft + law.seconds(batch, context, kv_bytes=kv, tokens=k + 1)
    return chains_in_series(Iid(rate), k, seconds, rng, tokens=tokens)


LONGEST = 8
"""Draft lengths considered; the best published ones are 2 to 5."""


def _round(setting: Setting, drafter: Drafter, k: int, budget: int) -> RoundProgram:
    """The target over its whole cache, and ``k`` of its passes of one token over ``budget`` cached ones.

    The drafter reads the verified cache itself, so it has nothing to catch up with and no prompt to read.
    """
    given = setting.deployment
    whole = draft_verify(given.target, drafter, k=k, profile=given.profile, engine=given.engine, **given.precision)

    def sparse(batch: Batch) -> StepShape:
        n, cached = (np.asarray(x, dtype=np.float64) for x in (batch.sequences, batch.kv_tokens))
        longest = None if batch.kv_max is None else np.minimum(batch.kv_max, budget)
        return StepShape((Segment("decode", n, n, np.minimum(cached, n * budget), n, kv_max=longest),))

    return replace(whole, passes=(whole.passes[0], *(replace(p, shape=sparse) for p in whole.passes[1:])))


def _compose(setting: Setting) -> Composition:
    given = setting.deployment
    budget, process = setting.count("budget"), Iid(setting.number("acceptance_rate", most=1.0))
    drafter = Drafter(
        "draft_model", f"{given.target.name} over {budget}", given.target, given.target, given.target.vocab
    )
    programs = {k: _round(setting, drafter, k, budget) for k in range(1, LONGEST + 1)}
    k = min(programs, key=lambda k: setting.slowness(programs[k], tokens=1.0 + float(process.survival(k).sum())))
    return on_the_replica(
        setting,
        None,
        {k: programs[k]},
        process,
        ran_with=f"itself over {budget} cached tokens, K = {k}",
        assumed=("the given acceptance is that of this budget; sink and window are read where they lie in the cache",),
    )


SYSTEM = System(
    name="magicdec",
    title="MagicDec: Breaking the Latency-Throughput Tradeoff for Long Context Generation",
    paper="2408.11049",
    year=2024,
    lossless="yes",
    topology="drafter and target on one group of GPUs (8-way tensor parallel)",
    pipeline="draft x k over a sparse cache -> verify over the whole cache -> commit",
    rule="min(1, p/q) and residual; the drafter sees a sink and a window of the cache",
    parameters=(
        Parameter("batch", 64, "sequences decoded together", "one of the published rows"),
        Parameter("context", 32_000, "cached tokens of a sequence", "one of the published rows"),
        Parameter("k", 3, "drafted tokens a round", "the row's best gamma"),
        Parameter("rate", 0.81, "acceptance per position", "published at 32k, budget 512"),
        Parameter("budget", BUDGET, "cached tokens that the drafter reads", "published"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=(
        "floor, token cost and bandwidth of Llama-2-7B's plain latencies hold for Llama-3.1-8B",
        "verifying attention's arithmetic is one constant, set by one published speedup",
    ),
    batches="any batch; all sequences have the same context here",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("acceptance_rate", None, "of the target's tokens over that budget, a position", "-"),
        Parameter("budget", BUDGET, "cached tokens that the drafting passes read", "published"),
    ),
    study="magicdec",
)
