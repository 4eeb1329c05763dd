"""SpecFormer: one parallel drafting pass and few drafted tokens, for large batches (arXiv 2511.20340, AAAI 2026).

Lossless (greedy, exact match). A head on the target drafts k tokens in one pass; the target verifies bs (k + 1) tokens.
Its tables come from a stack whose step takes 24 to 38 ms whatever the batch: a floor set by the host. A step here is
max(floor x theta, roofline), theta being the relative step with drafting and verification bookkeeping.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import LengthOnly
from specsim.errors import InputError
from specsim.simulation.expanded import Outcome
from specsim.simulation.in_series import Drawn, in_series
from specsim.systems.descriptor import Parameter, System
from specsim.systems.reproduction import Row

Floats = NDArray[np.float64]

A100_FLOPS, A100_BANDWIDTH = 311.84e12, 2.04e12
"""The paper's example: their ratio is 152.86 tokens."""

PLAIN = {
    "4B": {1: 30.0, 16: 588.0, 64: 2346.0, 128: 4582.0},
    "8B": {1: 31.0, 16: 488.0, 64: 1904.0, 128: 3882.0},
    "14B": {1: 26.0, 16: 436.0, 64: 1713.0, 128: 3458.0},
}
"""Tokens/s without speculation, Qwen3, by batch (Table 3)."""

THETA = {"4B": 1.21, "8B": 1.20, "14B": 1.17}
"""Relative step cost at batch 1, k = 4 (Table 3)."""

KAPPA = {"4B": 1.84, "8B": 1.75, "14B": 1.71}
"""Tokens per step at k = 4, batch 64 (Table 3); batch 128 prints none, and takes these."""

WITH_FOUR = {"4B": {64: 3621.0, 128: 7263.0}, "8B": {64: 2834.0, 128: 5761.0}, "14B": {64: 2524.0, 128: 5090.0}}
"""Tokens/s at k = 4 (Table 3)."""

TABLE_1_PLAIN = {1: 41.0, 16: 681.0, 128: 5143.0}
TABLE_1_FOUR = {1: (2.20, 73.0), 16: (2.19, 1212.0), 128: (2.18, 9154.0)}
"""Table 1: no speculation, and (kappa, tokens/s) at k = 4, by batch."""


@dataclass(frozen=True)
class Chip:
    """Peak arithmetic and bandwidth of the device a target runs on."""

    flops: float
    bytes_per_s: float

    @property
    def ratio(self) -> float:
        """Tokens in flight at which a dense bf16 pass turns from bandwidth to arithmetic."""
        return self.flops / self.bytes_per_s


def roofline_s(parameters: float, tokens: float, chip: Chip) -> float:
    """Seconds of a dense pass: the larger of reading 2 bytes a parameter and 2 FLOPs a parameter and token."""
    if parameters <= 0 or tokens <= 0:
        raise InputError("needs parameters and tokens above 0", field="parameters, tokens")
    return max(2.0 * parameters / chip.bytes_per_s, 2.0 * parameters * tokens / chip.flops)


def roofline_speedup(parameters: float, *, batch: int, k: int, tokens_per_step: float, chip: Chip) -> float:
    """Speedup on a pure roofline, drafting free: kappa x plain step / step over bs (k + 1) tokens.

    It is kappa while batch (k + 1) stays below the chip's ratio, falls beyond it, and is below 1 at large batches.
    """
    plain = roofline_s(parameters, batch, chip)
    return tokens_per_step * plain / roofline_s(parameters, batch * (k + 1), chip)


def tokens_per_s(
    batch: int, *, kappa: float, theta: float, floor_s: float, parameters: float, chip: Chip | None, k: int
) -> float:
    """Batch tokens per second: bs kappa / max(theta floor, roofline); chip None: the floor alone."""
    step = theta * floor_s
    if chip is not None:
        step = max(step, roofline_s(parameters, batch * (k + 1), chip))
    return batch * kappa / step


def floor_s(plain_tokens_per_s: dict[int, float]) -> float:
    """The host's floor from rows without speculation: least squares of step time = bs / tokens per second to one value.

    The batch-1 row stands apart (it has the least to hide behind) and enters like the others.
    """
    return float(np.mean([batch / rate for batch, rate in plain_tokens_per_s.items()]))


def rows() -> tuple[Row, ...]:
    """K = 4 throughput at batch 64 and 128 from the floor of plain rows, kappa, and the batch-1 theta.

    Each batch has its own plain row, and so its own floor; nothing is fitted on a speculative row except batch 1's
    theta, which the paper prints. Table 1's rows take theta from its batch 1.
    """
    made = []
    for model, by_batch in WITH_FOUR.items():
        for batch, published in by_batch.items():
            ours = KAPPA[model] * PLAIN[model][batch] / THETA[model]
            made.append(Row(f"Qwen3-{model}, batch {batch}, k = 4: tokens/s", published, ours, 0.10))
        one = floor_s({b: r for b, r in PLAIN[model].items() if b > 1})
        for batch, published in by_batch.items():
            ours = batch * KAPPA[model] / (THETA[model] * one)
            made.append(Row(f"Qwen3-{model}, batch {batch}, one floor: tokens/s", published, ours, 0.10))
    kappa, at_one = TABLE_1_FOUR[1]
    theta = kappa * TABLE_1_PLAIN[1] / at_one
    for batch, (kappa, published) in TABLE_1_FOUR.items():
        fitted = " (fitted)" if batch == 1 else ""
        ours = kappa * TABLE_1_PLAIN[batch] / theta
        made.append(Row(f"Qwen2.5-7B, batch {batch}, k = 4: tokens/s{fitted}", published, ours, 0.10))
    return tuple(made)


def simulate(
    rng: np.random.Generator,
    *,
    batch: int = 64,
    k: int = 4,
    kappa: float = 1.75,
    theta: float = 1.20,
    floor_ms: float = 33.0,
    billions: float = 8.0,
    flops: float = 989e12,
    bytes_per_s: float = 3.35e12,
    tokens: int = 20_000,
) -> Outcome:
    """One of ``batch`` streams; a step takes max(theta floor, roofline)."""
    step = max(theta * floor_ms / 1e3, roofline_s(billions * 1e9, batch * (k + 1), Chip(flops, bytes_per_s)))
    process = LengthOnly(kappa, k)

    def draw(n: int) -> Drawn:
        accepted = process.verify(np.zeros((1, 0)), k, rng, rounds=n)[0][0]
        return Drawn(np.full(n, k), accepted, accepted + 1, np.full(n, step))

    return in_series(draw, tokens=tokens)


SYSTEM = System(
    name="specformer",
    title="Scaling LLM Speculative Decoding: Non-Autoregressive Forecasting in Large-Batch Scenarios",
    paper="2511.20340",
    year=2025,
    lossless="yes (greedy)",
    topology="a head on the target, one device",
    pipeline="one drafting pass for k tokens -> verify bs (k + 1) tokens -> commit",
    rule="keep tokens equal to the target's own choice",
    parameters=(
        Parameter("batch", 64, "sequences", "Table 3"),
        Parameter("k", 4, "drafted tokens", "Table 3"),
        Parameter("kappa", 1.75, "tokens per step", "Table 3, Qwen3-8B"),
        Parameter("theta", 1.20, "relative step with speculation", "Table 3, Qwen3-8B, batch 1"),
        Parameter("floor_ms", 33.0, "step without speculation", "Table 3's plain rows, Qwen3-8B"),
        Parameter("billions", 8.0, "parameters of the target", "its name"),
        Parameter("flops", 989e12, "peak arithmetic", "assumed H100: an A100 could not reach the tables"),
        Parameter("bytes_per_s", 3.35e12, "bandwidth", "same"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=("the GPU is not stated", "acceptance is i.i.d. with the printed tokens per step"),
    batches="any batch up to the chip's ratio / (k + 1)",
    simulate=simulate,
    study="specformer",
)
