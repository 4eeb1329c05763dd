"""Staged speculation: calibrated on the greedy column, the top-k column predicted."""

from __future__ import annotations

import numpy as np

from specsim.systems import staged
from specsim.systems.reproduction import Given, Reproduction, Row


def reproduce() -> Reproduction:
    known, rows = staged.fitted(), list(staged.rows())
    for column in ("greedy", "top-k"):
        tokens, passes = staged.run_staged(
            known.tree,
            known.rates[column],
            known.agreement,
            ahead=staged.AHEAD,
            rounds=60_000,
            rng=np.random.default_rng(3),
        )
        law = staged.bandwidth(
            known.tree.expected_tokens(staged.rank_law(known.rates[column])),
            staged.drafting_passes(known.agreement, depth=known.tree.depth),
        )
        rows.append(
            Row(f"{column}, three stages simulated: weights read", law, staged.bandwidth(tokens, passes), 0.01, "law")
        )
    return Reproduction(
        "staged",
        "a drafter with a drafter",
        tuple(rows),
        (),
        (
            Given("weights read and tokens/s", "two columns", "published", "paper"),
            Given(
                "acceptance of each column",
                f"{known.rates['greedy']:.3f}, {known.rates['top-k']:.3f}",
                "fitted",
                "to two stages",
            ),
            Given("agreement of the n-grams", f"{known.agreement:.3f}", "fitted", "to greedy, three stages"),
            Given("tree", "32 nodes, 12 levels, the same for both columns", "assumed", "shapes were not found"),
            Given("overhead of Python", "1.40", "fitted", "to all four speeds"),
        ),
        (
            (
                "The prediction rests on one tree for both columns. If each cell had the best tree for its own "
                "costs, top-k's would be shallower, there would be less drafting to save, and the ratio would come "
                "out 20 % too high."
            ),
        ),
    )
