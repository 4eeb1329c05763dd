"""Beams: the count recursion against simulated layers, and target calls per beam step."""

from __future__ import annotations

import numpy as np

from specsim.systems import dsbd
from specsim.systems.reproduction import Check, Given, Reproduction, Row


def _layers(n: int, rng: np.random.Generator) -> tuple[dsbd.Layer, ...]:
    return tuple(dsbd.Layer(rng.dirichlet(np.full(12, 0.6)), rng.dirichlet(np.full(12, 0.6))) for _ in range(n))


def reproduce() -> Reproduction:
    rng, apart, away, trials = np.random.default_rng(0), 0.0, 0.0, 200_000
    for drafts in (2, 4, 6):
        (layer,) = _layers(1, rng)
        counts, first = dsbd.run_layer(layer, drafts=drafts, wanted=1, trials=trials, rng=rng)
        expected = dsbd.count_law(dsbd.acceptance_by_failures(layer.p, layer.q, drafts))
        apart = max(apart, float(np.abs(np.bincount(counts, minlength=drafts + 1) / trials - expected).max()))
        away = max(away, 0.5 * float(np.abs(np.bincount(first, minlength=12) / trials - layer.p).sum()))
    rows = []
    for threshold in (0.7, 0.9):
        ran = dsbd.run_rounds(_layers(40, rng), drafts=6, gamma=3, threshold=threshold, least=1, rounds=60_000, rng=rng)
        law = dsbd.target_calls_per_step(ran.acceptance, 3)
        what = f"target calls a beam step, t = {threshold} (layers pass with {ran.acceptance:.3f})"
        rows.append(Row(what, law, float(1 / ran.steps.mean()), 0.02, "law"))
    return Reproduction(
        "dsbd",
        "beams that are accepted in layers",
        tuple(rows),
        (
            Check("counts of accepted beams within 0.005 of the recursion", f"{apart:.4f} at most", apart < 0.005),
            Check("an output beam has the target's beam law", f"TV {away:.4f}", away < 0.006),
        ),
        (
            Given("gamma 3, t 0.7 and 0.9, W_S up to 6", "-", "published", "paper and code"),
            Given("beam laws", "Dirichlet pairs", "assumed", "acceptance was not found"),
        ),
        (
            (
                "The printed acceptance ratio is upside down; p'/q, as in the code, is what is lossless. t bounds a"
                " layer's acceptance from below: measured rates exceed it."
            ),
        ),
    )
