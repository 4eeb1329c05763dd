"""Tandem transformers: a small model that attends to the large one's states (arXiv 2402.08644, ICML 2024).

Alone it is lossy: blocks of gamma tokens, the large model's pass refreshes its states and gives one token free. With
verification (SPEED's) it is lossless speculative decoding. The small model needs the large one's states of every
earlier block, so drafting cannot overlap verification. One device.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from specsim.acceptance.signals import CopulaSignals, Ints, Signals
from specsim.drafting.stopping import EXTRA
from specsim.simulation.expanded import run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.outcome import Outcome
from specsim.simulation.round_rules import SignalRounds
from specsim.simulation.topology import on_one
from specsim.systems.composition import Composition
from specsim.systems.descriptor import Parameter, System
from specsim.systems.leviathan import serial_round
from specsim.systems.reproduction import Row
from specsim.systems.signal_chain import signal_chain

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

SMALL_OVER_LARGE = 1.0 / 6.40
"""c: one decode step of Gecko over one of Bison, TPUv5e, batch 1 (printed: Gecko decodes 6.40 times as fast)."""

STANDALONE_BLOCK = 3
"""gamma of the standalone figure: inferred, 2.75 being printed without it; gamma = 2 would give 2.29, 4 give 3.08."""

LM1B_FIXED_RUNS = (51.53, 360.73)
LM1B_ADAPTIVE_RUNS = (54.67, 271.63)
"""Runs of (large, small) per LM1B sample at the fixed block of 7 and with the learned stop (Table 5)."""


@dataclass(frozen=True)
class LearnedStop:
    """Draft while the predicted agreement of the next token is at least ``threshold``; at most ``most`` tokens.

    The paper's stop is a two-layer network on entropies, top-k probabilities and embeddings, trained on TV and compared
    with tau = 0.8, capped at 17 or 27. That its output is compared as an agreement is our reading.
    """

    threshold: float = 0.8
    most: int = 17

    def lengths(self, signals: Signals) -> Ints:
        """Positions before the first whose predicted acceptance is below the threshold; 1 at least."""
        shown = min(self.most, signals.acceptance.shape[1])
        stop = signals.acceptance[:, :shown] < self.threshold
        first = np.where(stop.any(axis=1), np.argmax(stop, axis=1) + EXTRA["drop"], shown)
        return np.asarray(np.maximum(first, 1), dtype=np.int64)


def standalone_speedup(block: int, small_over_large: float) -> float:
    """(gamma + 1) / (1 + gamma c): gamma small steps and one large pass, which adds a token, for gamma + 1 tokens."""
    return (block + 1.0) / (1.0 + block * small_over_large)


def run_seconds(large_runs: float, small_runs: float, small_over_large: float) -> float:
    """Time of a sample in large-model steps, from how often each model ran; a block verifies as fast as one token."""
    return large_runs + small_runs * small_over_large


def rows() -> tuple[Row, ...]:
    """Standalone decode speed, and the learned stop over the fixed block; nothing is fitted."""
    c = SMALL_OVER_LARGE
    gain = run_seconds(*LM1B_FIXED_RUNS, c) / run_seconds(*LM1B_ADAPTIVE_RUNS, c)
    return (
        Row("standalone, gamma = 3: decode speedup", 2.75, standalone_speedup(STANDALONE_BLOCK, c), 0.02),
        Row("LM1B, learned stop over gamma = 7: decode speedup", 1.103, gain, 0.02),
    )


def simulate(
    rng: np.random.Generator,
    *,
    rate: float = 0.90,
    correlation: float = 0.7,
    threshold: float = 0.8,
    most: int = 17,
    small_over_large: float = SMALL_OVER_LARGE,
    tokens: int = 20_000,
) -> Outcome:
    """One lossless stream with the learned stop; seconds are large-model steps."""
    rule = SignalRounds(CopulaSignals((rate,), correlation), LearnedStop(threshold, most), 1, rng)
    programs = {k: serial_round(k, draft_s=small_over_large, verify_s=1.0) for k in range(1, most + 1)}
    return run_expanded(programs, rule, streams(1, tokens), on_one("gpu"), rng, seats=1, prompt_cached=True)


def _compose(setting: Setting) -> Composition:
    threshold = setting.number("threshold", most=1.0)
    return signal_chain(
        setting,
        "draft_model",
        least=1,
        policy=lambda most: LearnedStop(threshold, most),
        assumed=(
            "the draft model's acceptance is what it reaches on the large model's states (without them it has less)",
            "projecting the large model's states takes what the small model's own pass over their tokens takes: less",
        ),
    )


SYSTEM = System(
    name="tandem",
    title="Tandem Transformers for Inference Efficient LLMs",
    paper="2402.08644",
    year=2024,
    lossless="with verification; standalone not",
    topology="both models on one device; the small one reads the large one's states",
    pipeline="small x block (on the large model's states) -> large over the block -> commit; never overlapped",
    rule="standalone: nothing is checked, the large pass adds a token; else the first mismatch is replaced",
    parameters=(
        Parameter("rate", 0.90, "acceptance per position", "implied by printed run counts (1 - TV would be .859)"),
        Parameter("correlation", 0.7, "between the stop network's score and acceptance", "assumed"),
        Parameter("threshold", 0.8, "tau: predicted agreement below which drafting stops", "printed"),
        Parameter("most", 17, "longest block", "printed: 17 or 27"),
        Parameter("small_over_large", SMALL_OVER_LARGE, "c: decode step of the small over the large", "printed: 6.40x"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=("the stop network's output is compared as an agreement", "a block verifies in one step's time"),
    batches="1 and 4 samples in the paper; batch 1 here",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("correlation", None, "between the stop network's score and acceptance, 0 to below 1", "-"),
        Parameter("threshold", 0.8, "tau: predicted agreement below which drafting stops", "printed"),
        Parameter("most", 17, "longest block", "printed: 17 or 27"),
    ),
    study="tandem",
)
