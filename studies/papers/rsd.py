"""Reward-guided steps: FLOPs, the mixture law, and accuracy against cost."""

from __future__ import annotations

from functools import partial

import numpy as np

from specsim.systems import rsd
from specsim.systems.reproduction import Check, Given, Reproduction, Row

TASK = rsd.Steps(np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.65, 0.9]))
SIZES = rsd.Sizes(72.0, 1.5, 1.5)


def _always(kept: float, rewards: rsd.Floats) -> rsd.Floats:
    return np.full(np.shape(rewards), kept)


def reproduce() -> Reproduction:
    from scipy.stats import chisquare

    rows = list(rsd.rows())
    for kept in (0.0, 0.5, 0.8, 0.95):
        ran = rsd.run_steps(
            TASK, partial(_always, kept), SIZES, steps=200_000, mean_tokens=40.0,
            rng=np.random.default_rng(11),
        )  # fmt: skip
        law = rsd.flops_ratio(SIZES, kept)
        rows.append(Row(f"FLOPs ratio, {kept:g} kept", law, ran.plain_flops / ran.flops, 0.01, "law"))
    checks = []
    for name, omega in (("step", rsd.step_rule(0.6)), ("logistic", rsd.logistic_rule(0.6, 8.0))):
        ran = rsd.run_steps(TASK, omega, SIZES, steps=60_000, mean_tokens=40.0, rng=np.random.default_rng(10))
        p = float(chisquare(np.bincount(ran.kinds, minlength=3), TASK.mixture(omega) * 60_000).pvalue)
        checks.append(Check(f"steps have the law omega P_m + nu P_M ({name})", f"chi-square p = {p:.2f}", p > 1e-4))
    for delta, (cost, reward) in zip(
        (0.0, 0.5, 0.8, 1.0), rsd.accuracy_cost_front(TASK, SIZES, np.array([0.0, 0.5, 0.8, 1.0])), strict=True
    ):
        rows.append(Row(f"delta {delta:g}: mean reward at {cost:.3f} of the target's FLOPs", None, float(reward)))
    return Reproduction(
        "rsd",
        "a judge instead of verification",
        tuple(rows),
        tuple(checks),
        (
            Given("2 N FLOPs a token, judge included", "-", "published", "secondary summaries agree"),
            Given(
                "share kept at 4.4 times fewer FLOPs",
                "0.814",
                "derived",
                "by inversion: the operating point was not found",
            ),
            Given("rewards and laws of steps", "three kinds", "assumed", "synthetic"),
        ),
        (
            (
                "4.4 is an inversion and no test. Exact accounting of discarded drafts and of the judge's reading "
                "was not found."
            ),
        ),
    )
