"""Spec-Bench: larger targets from the 7B column, against keeping the step-cost ratio."""

from __future__ import annotations

import numpy as np

from specsim.systems import spec_bench
from specsim.systems.reproduction import Check, Given, Reproduction, Row


def reproduce() -> Reproduction:
    rows = list(spec_bench.rows())
    for method in spec_bench.METHODS:
        for size in ("13B", "33B"):
            accepted, published = spec_bench.LEADERBOARD[method.name][size]
            what = f"A100, Vicuna-{size}, {method.name}: constant ratio"
            rows.append(Row(what, published, spec_bench.constant_ratio(method, accepted)))
    ours, constant = spec_bench.mean_errors()
    sps = next(m for m in spec_bench.METHODS if m.name == "SpS")
    small = spec_bench.predicted(sps, spec_bench.RTX_3090, "7B", spec_bench.SPS_3090[0])
    large = spec_bench.predicted(sps, spec_bench.A100, "7B", spec_bench.LEADERBOARD["SpS"]["7B"][0])
    made = spec_bench.simulate(np.random.default_rng(0))
    rows.append(Row("A100, Vicuna-7B, SpS simulated: speedup (fitted)", 1.52, made.tokens_per_s / 40.24, 0.02))
    return Reproduction(
        "spec-bench",
        "one protocol, many methods",
        tuple(rows),
        (
            Check(
                "13B and 33B better than by a constant step-cost ratio",
                f"mean error {100 * ours:.1f} % against {100 * constant:.1f} %",
                ours < constant,
            ),
            Check("SpS gains more on the RTX 3090 than on the A100", f"{small:.2f} against {large:.2f}", small > large),
        ),
        (
            Given("accepted tokens and speedups", "leaderboard of 2025-04-22", "published", "repository"),
            Given("plain speeds", "40.24, 31.38, 16.34 and 36.74 tokens/s", "published", "the paper's Tables 5 and 6"),
            Given("fixed time of a method", "0.9 to 15 ms", "fitted", "to its 7B column on the A100"),
            Given(
                "what grows with the target",
                "FLOPs of verified tokens, EAGLE's layer and head",
                "derived",
                "data sheets",
            ),
            Given("tokens verified", "26, 6, 64, 11", "published", "methods' settings; SpS's is assumed"),
            Given("host on the RTX 3090", "in proportion to its plain step", "assumed", "-"),
        ),
        (
            (
                "Plain speeds (PyTorch 2.0) and leaderboard (2.5) come from different software, which moved single "
                "methods by more than 10 %."
            ),
        ),
    )
