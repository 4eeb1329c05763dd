"""SpecDec++: stop drafting once a rejection is likely (Huang et al., arXiv 2405.19715, COLM 2025). Lossless.

One drafter, one target. A head on the drafter predicts each token's acceptance; drafting stops after token k once
1 - prod_{i <= k} a_i > h, candidates bounded to [2, 20]. The paper proves that a threshold is optimal; its constant is
tuned (h = 0.3 in the released script).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.signals import CopulaSignals
from specsim.cost.drafter import SEQUENTIAL
from specsim.drafting.stopping import SurvivalThreshold
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
from specsim.theory.tokens import expected_tokens_iid

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]

RELEASED_H, RELEASED_BOUNDS = 0.3, (2, 20)

LENGTHS = (4, 6, 8, 10, 12, 14)

FIGURE = {
    "Alpaca": ((0.285, 0.241, 0.215, 0.202, 0.194, 0.187), (0.39, 0.64, 0.86, 1.13, 1.36, 1.59)),
    "HumanEval": ((0.266, 0.217, 0.191, 0.175, 0.165, 0.157), (0.32, 0.50, 0.70, 0.90, 1.12, 1.32)),
    "GSM8K": ((0.261, 0.210, 0.183, 0.168, 0.158, 0.149), (0.29, 0.45, 0.62, 0.81, 1.00, 1.17)),
}
"""Verification and discard rate (target passes, and drafted tokens thrown away, per token) at each fixed K.

Llama-2-chat 7B for 70B, sampling; digitised from the paper's Pareto figure (1-2 %), the K of each point inferred.
"""


def stop_when_rejection_likely(h: float = RELEASED_H, bounds: tuple[int, int] = RELEASED_BOUNDS) -> SurvivalThreshold:
    """The policy: the token at which P(some rejection) passes h is drafted and verified, and none after it."""
    return SurvivalThreshold(1.0 - h, bounds[1], least=bounds[0], unsure="verify")


def verification_rate(rate: float, k: int) -> float:
    """Target passes per token at a fixed K under i.i.d. acceptance: 1 / tokens per round."""
    return float(1.0 / expected_tokens_iid(rate, k))


def discard_rate(rate: float, k: int) -> float:
    """Drafted tokens not accepted, per token emitted: K v - (1 - v), the accepted being all but one of a round's."""
    v = verification_rate(rate, k)
    return k * v - (1.0 - v)


def fitted_rate(verification: Floats) -> float:
    """One i.i.d. rate for a data set: least squares on the logarithm of its verification rates over ``LENGTHS``."""
    from scipy.optimize import minimize_scalar

    def misfit(rate: float) -> float:
        ours = np.array([verification_rate(rate, k) for k in LENGTHS])
        return float(np.sum(np.log(ours / verification) ** 2))

    return float(minimize_scalar(misfit, bounds=(0.01, 0.99), method="bounded").x)


def rows() -> tuple[Row, ...]:
    """18 verification rates from one acceptance a data set (fitted), and the 18 discard rates that follow."""
    made = []
    for data, (verification, discard) in FIGURE.items():
        rate = fitted_rate(np.array(verification))
        for k, v, d in zip(LENGTHS, verification, discard, strict=True):
            setting = f"{data}, K = {k}, rate {rate:.3f}"
            made.append(Row(f"{setting}: verification rate", v, verification_rate(rate, k), 0.01))
            made.append(Row(f"{setting}: discard rate", d, discard_rate(rate, k)))
    return tuple(made)


def simulate(
    rng: np.random.Generator,
    *,
    rate: float = 0.82,
    correlation: float = 0.7,
    h: float = RELEASED_H,
    most: int = 20,
    draft_s: float = 0.0209,
    verify_s: float = 0.116,
    tokens: int = 20_000,
) -> Outcome:
    """One stream whose head predicts acceptance as well as a Gaussian copula of that correlation does."""
    policy = stop_when_rejection_likely(h, (2, most))
    rule = SignalRounds(CopulaSignals((rate,), correlation), policy, 1, rng)
    programs = {k: serial_round(k, draft_s=draft_s, verify_s=verify_s) for k in range(2, most + 1)}
    return run_expanded(programs, rule, streams(1, tokens), on_one("gpu"), rng, seats=1, prompt_cached=True)


def _compose(setting: Setting) -> Composition:
    least = setting.count("least")
    h = setting.number("h", most=1.0)
    return signal_chain(
        setting,
        *SEQUENTIAL,
        least=least,
        policy=lambda most: stop_when_rejection_likely(h, (min(least, most), most)),
    )


SYSTEM = System(
    name="specdec++",
    title="SpecDec++: Boosting Speculative Decoding via Adaptive Candidate Lengths",
    paper="2405.19715",
    year=2024,
    lossless="yes",
    topology="drafter and target on one device group",
    pipeline="draft while P(some rejection) <= h -> verify -> commit",
    rule="stop after token k once 1 - prod a_i > h, a_i a head's prediction; min(1, p/q) and residual",
    parameters=(
        Parameter("rate", 0.82, "mean acceptance per position", "fitted to Alpaca's fixed-K verification rates"),
        Parameter("correlation", 0.7, "between the head's score and acceptance", "assumed"),
        Parameter("h", RELEASED_H, "threshold on P(some rejection)", "released example script"),
        Parameter("most", 20, "longest draft", "released settings: 2 to 20"),
        Parameter("draft_s", 0.0209, "seconds of a drafted token", "sample log: 2.795 s / 134"),
        Parameter("verify_s", 0.116, "seconds of a verification", "derived from published speeds"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=("signals and acceptance follow a Gaussian copula", "verification takes the same at every length"),
    batches="batch 1 in the paper",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("correlation", None, "between the head's score and acceptance, 0 to below 1", "-"),
        Parameter("h", RELEASED_H, "threshold on P(some rejection)", "released example script"),
        Parameter("least", RELEASED_BOUNDS[0], "shortest draft", "released settings: 2 to 20"),
        Parameter("most", RELEASED_BOUNDS[1], "longest draft", "released settings: 2 to 20"),
    ),
    study="specdec_plus",
)
