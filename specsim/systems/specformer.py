"""SpecFormer: one parallel drafting pass and few drafted tokens, for large batches (arXiv 2511.20340, AAAI 2026).

Lossless (greedy, exact match). A head on the target drafts k tokens in one pass; the target verifies bs (k + 1) tokens.
Its tables come from a stack whose step takes 24 to 38 ms whatever the batch: a floor set by the host. A step here is
max(floor x theta, roofline), theta being the relative step with drafting and verification bookkeeping.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import LengthOnly
from specsim.cost.drafter import Drafter
from specsim.cost.drafting import load_draft_host
from specsim.cost.model_shape import ModelShape
from specsim.cost.shapes import ForwardShape, Linear, Segment, StepShape, StepTime
from specsim.cost.step import StepCost
from specsim.errors import InputError
from specsim.simulation.in_series import chains_in_series
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import Batch, Pass, RoundProgram
from specsim.systems.beside import memory_beside
from specsim.systems.composition import Composition, NotApplicable, on_the_replica
from specsim.systems.descriptor import Parameter, System
from specsim.systems.draft_verify import logit_rows, prefill_segments, speculative_host
from specsim.systems.reproduction import Row

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

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
    return chains_in_series(LengthOnly(kappa, k), k, step, rng, tokens=tokens)


LAYERS_READ = 4
"""Hidden states that the head joins: the first, the middle and the last two."""


@dataclass(frozen=True)
class Head:
    """The head for ``k`` drafted tokens on a target, as what its two passes execute on one rank; all in 16 bits.

    context: over verified tokens, the joined states down to one width and a causal layer like one of the target's, then
    a product that opens ``k`` positions from each sequence's last. positions: over these, a layer that looks both ways,
    and the target's LM head. One layer's cache is kept.
    """

    context: ForwardShape
    positions: ForwardShape

    @classmethod
    def on(cls, target: ModelShape, k: int, precision: Mapping[str, Any]) -> Head:
        """Raises NotApplicable for a mixture of experts, whose dense layer no source describes."""
        if target.experts:
            raise NotApplicable("is described for dense targets only: a mixture of experts does not say a head's width")
        h, cut = target.hidden, {**precision, "dtype": "bf16"}
        layer = replace(target, name="SpecFormer head", layers=1, dense_layers=None, windowed_layers=0, window=None)
        shape = layer.forward(**cut)
        inner = tuple(x for x in shape.linears if x.name != "lm_head")
        tp = shape.tensor_parallel
        down = Linear("down", h // tp, LAYERS_READ * h)
        opens = Linear("positions", k * h // tp, h, rows="logits")
        return cls(replace(shape, linears=(down, *inner, opens)), shape)

    @property
    def weight_bytes(self) -> float:
        """On one rank; the LM head is the target's."""
        owned = [x for x in (*self.context.linears, *self.positions.linears) if x.name != "lm_head"]
        return sum(2.0 * x.n * x.k * x.count for x in owned)

    def passes(self, setting: Setting, k: int) -> tuple[Pass, Pass]:
        """Both passes after the target's, which verifies ``k`` tokens a sequence."""
        given = setting.deployment
        host, small = load_draft_host(given.engine), given.profile.elementwise
        costs = [StepCost(forward, given.profile, given.engine) for forward in (self.context, self.positions)]

        def read(batch: Batch) -> StepShape:
            n = np.asarray(batch.sequences, dtype=np.float64)
            verified = Segment("verify", n, n * (1.0 + k), batch.kv_tokens, n, kv_max=batch.kv_max)
            return StepShape((verified, *prefill_segments(batch)))

        def draft(batch: Batch) -> StepShape:
            n = np.asarray(batch.sequences, dtype=np.float64)
            return StepShape((Segment("verify", n, n * k, np.zeros_like(n), n * k),))

        def opened(shape: StepShape) -> StepTime:
            busy = costs[0].cost(shape)
            return busy + StepTime({"prepare": host.work(host.first_calls, busy.total_s)})

        def drafted(shape: StepShape) -> StepTime:
            vocab = given.target.vocab
            busy = costs[1].cost(shape) + StepTime({"pick": host.pick(logit_rows(shape), vocab, vocab, small)})
            return busy + StepTime({"launch": host.waiting(host.model_calls, busy)})

        name = self.context.name
        return (
            Pass("draft_context", name, read, opened, after=("verify",), forward=self.context),
            Pass("draft", name, draft, drafted, after=("draft_context",), forward=self.positions),
        )


def _compose(setting: Setting) -> Composition:
    given, k = setting.deployment, setting.count("k")
    process = LengthOnly(setting.number("tokens_per_round", least=1.0, most=k + 1.0), k)
    head = Head.on(given.target, k, given.precision)
    drafter = Drafter("medusa", head.context.name, given.target, draft_vocab=given.target.vocab)
    host = speculative_host(given.engine, load_draft_host(given.engine), drafter, k, given.profile)
    program = RoundProgram(
        f"SpecFormer, K={k}", k, (setting.verify_pass(k, device="gpu"), *head.passes(setting, k)), host
    )
    return on_the_replica(
        setting,
        None,
        {k: program},
        process,
        ran_with=f"its head, K = {k} in one pass",
        assumed=("both of the head's layers are as wide as the target's", "its attention over positions is causal"),
        memory=memory_beside(setting, head.weight_bytes, head.context.kv_bytes_per_token),
    )


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
    compose=_compose,
    inputs=(
        Parameter("tokens_per_round", None, "tokens a round of a head trained for this target", "-"),
        Parameter("k", 4, "drafted tokens", "Table 3"),
    ),
    study="specformer",
)
