"""SPEED's law against its simulation, and on looped models that obey the same law: fifteen measured rows."""

from __future__ import annotations

import numpy as np

from specsim.systems import speed
from specsim.systems.reproduction import Check, Given, Reproduction, Row

TASKS = ("GSM8K", "MATH-500", "BBH", "HumanEval+", "MBPP+")
LOOPED = {
    # model: depth, guess after, factor, tokens an execution, measured speedup
    "Ouro-1.4B": (4, 1, 0.83, (3.13, 3.25, 3.30, 3.73, 3.36), (2.64, 2.64, 2.66, 3.17, 2.79)),
    "Ouro-2.6B": (4, 1, 0.86, (3.43, 3.50, 3.49, 3.78, 3.44), (3.03, 2.93, 2.89, 3.36, 3.00)),
    "Raven-Llama-3.2": (32, 4, 0.64, (6.55, 7.43, 7.21, 7.52, 7.14), (4.06, 4.76, 4.57, 4.89, 4.55)),
}
"""LOOPSPEC, Table 1 (batch 1, BF16, RTX PRO 6000, SGLang, greedy)."""

MONTE_CARLO = 0.004
"""Relative standard error of each row's tokens an execution."""


def reproduce() -> Reproduction:
    rows = []
    for right in (0.0, 0.5, 0.9, 1.0):
        for depth, guess_at in ((4, 1), (6, 2), (8, 3)):
            made = speed.simulate(np.random.default_rng(1), right=right, depth=depth, guess_at=guess_at, tokens=30_000)
            law = speed.ticks_per_token(right, depth, guess_at)
            label = f"ticks a token, {right:g} right, depth {depth}, guess after {guess_at}"
            rows.append(Row(label, law, 1 / made.tokens_per_s, 0.01, "law"))
    misfits = []
    for model, (depth, guess_at, factor, counts, speedups) in LOOPED.items():
        for task, count, measured in zip(TASKS, counts, speedups, strict=True):
            right = (depth - depth / count) / (depth - guess_at)
            spread = (depth - guess_at) * np.sqrt(right * (1 - right)) * count / depth
            tokens = int((spread / MONTE_CARLO) ** 2)
            made = speed.simulate(np.random.default_rng(2), right=right, depth=depth, guess_at=guess_at, tokens=tokens)
            ours = depth * made.tokens_per_s
            rows.append(Row(f"{model}, {task}: tokens an execution", count, ours, 0.01))
            rows.append(Row(f"{model}, {task}: speedup", measured, factor * ours, 0.05))
            misfits.append(factor * ours / measured - 1)
    checks = (
        Check(
            "the fifteen speedups with one factor a model",
            f"worst {100 * max(map(abs, misfits)):.1f} %",
            max(map(abs, misfits)) <= 0.05,
        ),
    )
    return Reproduction(
        "speed",
        "the pipeline's law, and fifteen rows of looped models that obey it",
        tuple(rows),
        checks,
        (
            Given("depth, guess point", "4 and 1; 32 and 4", "published", "LOOPSPEC, Table 1"),
            Given("share of right guesses", "fifteen", "fitted", "solved from each row's tokens an execution"),
            Given("factor for work outside the loop", "0.83, 0.86, 0.64", "fitted", "one a model: calibration"),
        ),
        (
            (
                "SPEED's own paper prints figures only; no number of it was found. The rows are another paper's, of"
                " looped models under the same cost law."
            ),
        ),
    )
