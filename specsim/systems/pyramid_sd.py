"""PyramidSD: a qualifier between drafter and target, with fuzzy acceptance at both steps (arXiv 2510.12966). Lossy.

Three models on one device, one after the other: drafter 1B, qualifier 3B, target 8B. The drafter writes l_D tokens, the
qualifier checks them, until l_Q are held; the target checks these against the qualifier. It is the stack of
``systems.hsd`` with acceptance rates that depend on the tolerance. SD and FSD (fuzzy, two models) draft with the 3B.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation.in_series import in_series
from specsim.simulation.outcome import Outcome
from specsim.systems.composition import Composition
from specsim.systems.descriptor import Parameter, System
from specsim.systems.hsd import Hierarchy, seconds_per_token, target_rounds
from specsim.systems.reproduction import Row
from specsim.systems.stack import Pair, Stack
from specsim.theory.tokens import expected_tokens_iid

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]

LENGTHS = (1, 2, 3, 4, 5, 7, 10, 15, 20, 25)

TABLE_2 = {
    "SD": (50.89, 58.38, 61.83, 63.65, 65.01, 63.42, 56.65, 60.96, 50.13, 42.03),
    "FSD 0.2": (51.6, 59.14, 61.95, 66.13, 66.89, 66.51, 63.99, 61.01, 55.83, 57.22),
    "FSD 0.3": (52.14, 60.81, 66.09, 68.58, 71.16, 74.48, 75.24, 71.74, 67.93, 76.01),
    "FSD 0.4": (52.42, 61.06, 66.36, 69.81, 71.9, 76.81, 77.98, 81.86, 80.23, 75.75),
    "FSD 0.5": (52.36, 61.34, 67.06, 70.77, 72.09, 76.1, 79.56, 83.11, 82.26, 80.22),
}
"""Tokens/s by draft length, RTX 4090, CommonsenseQA, T = 0.7 (printed); 3B drafts for 8B."""

FUZZY_ROW = (85.75, 96.7, 102.0, 110.19, 112.85, 115.03, 116.68, 117.93, 122.89, 121.66)
"""PSD fuzzy at both steps, both tolerances 0.5, l_Q = 25, by l_D (printed)."""

BEST_OVER_SD = 124.13 / 65.01
"""Best PSD (tolerances 0.5 and 0.4, l_Q 25, l_D 15) over best SD (printed as 1.91)."""

STAGE_S = (6.7e-3, 14.5e-3, 48e-3)
"""Drafter step, qualifier pass, target pass of the loop: fitted to the 216 cells of the assisted variant."""

QUALIFIER_TO_TARGET = {0.2: 0.963, 0.3: 0.990, 0.4: 0.995, 0.5: 0.999}
"""Acceptance at the target by tolerance: from the same fit."""

DRAFTER_TO_QUALIFIER = {0.2: 0.935, 0.3: 0.975, 0.4: 0.992, 0.5: 0.999}
"""Acceptance at the qualifier by tolerance: fitted to the fuzzy table; 0.935 is the assisted variant's too."""


@dataclass(frozen=True)
class TwoModels:
    """Fitted law of SD and FSD: seconds of a draft step and of a target pass, acceptance of each variant."""

    draft_s: float
    target_s: float
    rates: dict[str, float]

    def tokens_per_s(self, variant: str, k: int) -> float:
        """E(a, K) / (K t_draft + t_target)."""
        return float(expected_tokens_iid(self.rates[variant], k)) / (k * self.draft_s + self.target_s)


@cache
def fitted_two_models(longest: int) -> TwoModels:
    """Least squares on the logarithm of the cells with draft lengths up to ``longest``: two times, five acceptances."""
    from scipy.optimize import least_squares

    used = [i for i, k in enumerate(LENGTHS) if k <= longest]
    k = np.array([LENGTHS[i] for i in used], dtype=np.float64)
    seen = np.log(np.array([[row[i] for i in used] for row in TABLE_2.values()]))

    def misfit(x: Floats) -> Floats:
        rate = 1.0 / (1.0 + np.exp(-x[2:, None]))
        ours = np.log(expected_tokens_iid(rate, k[None, :]) / (k * np.exp(x[0]) + np.exp(x[1])))
        return np.asarray((ours - seen).ravel())

    start = np.concatenate([np.log([0.01, 0.03]), np.full(len(TABLE_2), 3.0)])
    x = least_squares(misfit, start).x
    rates = dict(zip(TABLE_2, (float(a) for a in 1.0 / (1.0 + np.exp(-x[2:]))), strict=True))
    return TwoModels(float(np.exp(x[0])), float(np.exp(x[1])), rates)


def three_models(at_qualifier: float, at_target: float, draft: int, qualify: int) -> Hierarchy:
    """The stack at two tolerances with l_D and l_Q tokens."""
    rates = (DRAFTER_TO_QUALIFIER[at_qualifier], QUALIFIER_TO_TARGET[at_target])
    return Hierarchy(STAGE_S, rates, (draft, qualify))


def rows() -> tuple[Row, ...]:
    """SD and FSD beyond K = 5 from a fit on K <= 5; the fuzzy row and the best gain from assisted costs."""
    law = fitted_two_models(5)
    made = []
    for variant, cells in TABLE_2.items():
        for k, published in zip(LENGTHS, cells, strict=True):
            kind = " (fitted)" if k <= 5 else ""
            made.append(Row(f"{variant}, K = {k}: tokens/s{kind}", published, law.tokens_per_s(variant, k), 0.10))
    speeds = {}
    for draft, published in zip(LENGTHS, FUZZY_ROW, strict=True):
        speeds[draft] = 1.0 / seconds_per_token(three_models(0.5, 0.5, draft, 25))
        made.append(Row(f"PSD fuzzy, l_Q = 25, l_D = {draft}: tokens/s", published, speeds[draft], 0.12))
    best = max(
        1.0 / seconds_per_token(three_models(tq, tt, d, q))
        for tq in DRAFTER_TO_QUALIFIER
        for tt in QUALIFIER_TO_TARGET
        for q in (5, 10, 15, 20, 25)
        for d in LENGTHS
        if d <= q
    )
    made.append(Row("best PSD over best SD", BEST_OVER_SD, best / max(TABLE_2["SD"]), 0.12))
    return tuple(made)


def simulate(
    rng: np.random.Generator, *, tolerance: float = 0.5, draft: int = 15, qualify: int = 25, tokens: int = 20_000
) -> Outcome:
    """One stream, fuzzy at both steps with one tolerance of 0.2, 0.3, 0.4 or 0.5."""
    if tolerance not in QUALIFIER_TO_TARGET:
        known = ", ".join(f"{t:g}" for t in QUALIFIER_TO_TARGET)
        raise InputError(f"{tolerance}: acceptance is known at {known} only", field="tolerance")
    stack = three_models(tolerance, tolerance, draft, qualify)
    return in_series(lambda n: target_rounds(stack, rounds=n, rng=rng), tokens=tokens)


def _compose(setting: Setting) -> Composition:
    lower, upper = (setting.number(name, most=1.0) for name in ("qualifier_rate", "target_rate"))
    stack = Stack(setting, Pair.of(setting), lower, Iid(upper), setting.count("draft"), setting.count("qualify"))
    return stack.compose(("tokens that either tolerance lets pass stand as the target's",))


SYSTEM = System(
    name="pyramid-sd",
    title="3-Model Speculative Decoding",
    paper="2510.12966",
    year=2025,
    lossless="no",
    topology="drafter, qualifier and target on one device, one after the other",
    pipeline="[drafter x l_D -> qualifier checks] until l_Q are held -> target checks against the qualifier -> commit",
    rule="keep while the models' laws differ by the tolerance at most, at each step",
    parameters=(
        Parameter("tolerance", 0.5, "of both steps", "printed sweep"),
        Parameter("draft", 15, "l_D", "printed sweep"),
        Parameter("qualify", 25, "l_Q", "printed sweep"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=("acceptance is i.i.d. at a tolerance", "stage times and acceptances come from fits to the tables"),
    batches="batch 1 in the paper",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("qualifier_rate", None, "acceptance of the smaller drafter by the larger at its tolerance", "-"),
        Parameter("target_rate", None, "acceptance of the larger drafter by the target at its tolerance", "-"),
        Parameter("draft", 15, "l_D", "printed: the best cell"),
        Parameter("qualify", 25, "l_Q", "printed: the best cell"),
    ),
    study="pyramid_sd",
)
