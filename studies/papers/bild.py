"""BiLD against rejection sampling from its printed rates, and its loop against a renewal sum."""

from __future__ import annotations

import numpy as np

from specsim.systems import bild
from specsim.systems.reproduction import Check, Given, Reproduction, Row


def reproduce() -> Reproduction:
    rows = list(bild.rows())
    for fates in (bild.Fates(0.2109, 0.0156), bild.Fates(0.3233, 0.0641)):
        ran = bild.run(fates, correlation=0.0, rounds=200_000, rng=np.random.default_rng(8))
        exact, what = bild.per_token(fates), f"fallback {fates.fallback}, rollback {fates.rollback}"
        rows.append(Row(f"{what}: large passes a token", exact.large, ran.large, 0.01, "law"))
        rows.append(Row(f"{what}: small steps a token", exact.small, ran.small, 0.01, "law"))
    for c in (0.25, 0.33, 0.45):
        gains = [
            bild.time_from_rates(*t["rejection sampling"], c) / bild.time_from_rates(*t["BiLD"], c)
            for t in bild.TABLE_4.values()
        ]
        for task, gain in zip(bild.TABLE_4, gains, strict=True):
            rows.append(Row(f"{task}: the gain if c were {c}", bild.GAIN[task], gain))
    extra = bild.per_token(bild.Fates(0.2, 0.2))
    return Reproduction(
        "bild",
        "fallback and rollback",
        tuple(rows),
        (
            Check(
                "a rollback costs a large pass more",
                f"{extra.large:.3f} large passes a token, {extra.rolled_back:.3f} of them after rollbacks",
                extra.rolled_back > 0,
            ),
        ),
        (
            Given("shares of fallback and rollback", "Table 4", "published", "paper"),
            Given("small over large", "8/24, 6/24", "assumed", "ratio of layers; the latency ratio is not published"),
            Given("time a token", "c (1 + rollback) + fallback", "derived", "-"),
        ),
        ("Absolute speedups would need the encoder's and the framework's share, which are not published.",),
    )
