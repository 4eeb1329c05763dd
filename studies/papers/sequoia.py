"""Sequoia's 20 A100 speedups from its tokens per step, and its optimal trees against simulated ones."""

from __future__ import annotations

import numpy as np

from specsim.drafting.trees import OptimalTrees, sequences
from specsim.systems import sequoia
from specsim.systems.reproduction import Check, Given, Reproduction, Row
from specsim.systems.tree_rounds import run_tree

SIZES = ((8, 4), (32, 6), (128, 10))


def reproduce() -> Reproduction:
    rows = list(sequoia.rows())
    trees = OptimalTrees.of(sequoia.SHIPPED_ACCEPTANCE, nodes=128, depth=10)
    for nodes, depth in SIZES:
        tree = trees.tree(nodes, depth)
        ran = run_tree(tree, sequoia.SHIPPED_ACCEPTANCE, rounds=100_000, rng=np.random.default_rng(nodes))
        law = trees.expected_tokens(nodes, depth)
        rows.append(Row(f"tokens a round, optimal tree ({nodes}, {depth})", law, float(ran.mean()), 0.01, "law"))
    wide = sequences(width=5, depth=8)
    gain = trees.expected_tokens(wide.size, 8) / wide.expected_tokens(sequoia.SHIPPED_ACCEPTANCE)
    greedy, sampled = (
        OptimalTrees.of(p, nodes=64, depth=12).best_shape(lambda n: 1.0 + 0.0005 * n, 0.02)[1]
        for p in ([0.85, 0.05, 0.03, 0.02], [0.6, 0.15, 0.08, 0.05])
    )
    return Reproduction(
        "sequoia",
        "optimal trees and the machine",
        tuple(rows),
        (
            Check(
                "the optimal tree emits more than five chains of eight with as many nodes",
                f"{gain:.2f} times",
                gain > 1,
            ),
            Check("a surer first child asks for a deeper tree", f"{greedy} against {sampled} levels", greedy > sampled),
        ),
        (
            Given("tokens per step, tree size and depth", "Table 3", "published", "paper"),
            Given("t(n), by model and temperature", "1.04 to 1.24", "fitted", "to the same rows, least squares"),
            Given("c of the 68M drafter", "0.5 ms over 24.2 and 31.2 ms", "derived", "printed times"),
            Given("c of the 1.3B drafter", "0.108", "fitted", "to the 33B rows"),
            Given("acceptance by rank", "ten values", "published", "the authors' code; its pair is not stated"),
        ),
        (
            (
                "The speedups are a calibration: t(n) is fitted to the rows it is shown beside. The trees are "
                "checked on their own."
            ),
        ),
    )
