"""Sequoia: the optimal draft tree for a node budget and a machine (arXiv 2402.12374, NeurIPS 2024). Lossless.

One drafter, one target, one device. The tree comes from ``drafting.trees.OptimalTrees``; a round takes t(n) + d c plain
steps. Children are drawn without replacement and verified by ``verification.nodes.recursive_without_replacement``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.cost.drafter import SEQUENTIAL
from specsim.drafting.trees import OptimalTrees
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import Batch
from specsim.systems.composition import Composition, NotApplicable, on_the_replica
from specsim.systems.descriptor import Parameter, System
from specsim.systems.draft_tree import TREE_ASSUMED
from specsim.systems.reproduction import Row
from specsim.systems.tree_rounds import TreeRounds, run_tree

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Ints = NDArray[np.int64]

SHIPPED_ACCEPTANCE = (0.634, 0.108, 0.057, 0.0225, 0.0195, 0.015, 0.0045, 0.003, 0.012, 0.0045)
"""Acceptance by child rank in the authors' repository; the pair is not stated. None of 32 children: 0.0735."""


def tree_speedup(tokens: float, *, verify_ratio: float, draft_ratio: float, depth: int) -> float:
    """Tokens per round over its time in plain steps: tokens / (t(n) + d c) (section 4.3)."""
    return tokens / (verify_ratio + depth * draft_ratio)


@dataclass(frozen=True)
class _Row:
    pair: str
    temperature: float
    data: str
    nodes: int
    depth: int
    speedup: float
    tokens: float


TABLE_3 = (
    _Row("7B", 0.0, "C4", 128, 10, 4.04, 5.08),
    _Row("7B", 0.0, "OpenWebText", 128, 7, 3.22, 3.86),
    _Row("7B", 0.0, "CNN", 128, 7, 3.41, 4.05),
    _Row("7B", 0.0, "MT-Bench", 128, 10, 4.03, 4.98),
    _Row("7B", 0.6, "C4", 128, 7, 3.18, 3.92),
    _Row("7B", 0.6, "OpenWebText", 128, 6, 2.71, 3.33),
    _Row("7B", 0.6, "CNN", 128, 6, 2.83, 3.45),
    _Row("7B", 0.6, "MT-Bench", 128, 7, 3.18, 3.96),
    _Row("13B", 0.0, "C4", 64, 9, 3.73, 4.20),
    _Row("13B", 0.0, "OpenWebText", 64, 7, 3.18, 3.49),
    _Row("13B", 0.0, "CNN", 64, 7, 3.33, 3.68),
    _Row("13B", 0.6, "C4", 64, 7, 3.19, 3.57),
    _Row("13B", 0.6, "OpenWebText", 64, 6, 2.77, 3.06),
    _Row("13B", 0.6, "CNN", 64, 6, 2.88, 3.17),
    _Row("33B", 0.0, "C4", 64, 6, 2.27, 4.28),
    _Row("33B", 0.0, "OpenWebText", 64, 5, 2.21, 3.93),
    _Row("33B", 0.0, "CNN", 64, 5, 2.21, 3.93),
    _Row("33B", 0.6, "C4", 64, 6, 2.19, 4.16),
    _Row("33B", 0.6, "OpenWebText", 64, 5, 2.13, 3.82),
    _Row("33B", 0.6, "CNN", 64, 5, 2.16, 3.86),
)
"""A100 speedups and tokens per step of the paper's Table 3 (and its MT-Bench rows), by pair and temperature."""

DRAFT_RATIO = {"7B": 0.5 / 24.2, "13B": 0.5 / 31.2}
"""c of the 68M drafter: 0.5 ms a token over 24.2 ms a decode step (printed), and over 31.2 ms = ms/token x speedup."""


def fitted_terms(pair: str, *, temperature: float) -> tuple[float, float]:
    """(t(n), c) of a pair on the A100, least squares over its rows of Table 3; c is given for the 68M drafter.

    7B and 13B: one t for each temperature (sampling has a cost of its own). 33B with its 1.3B drafter: t and c over all
    six rows. What a round takes is tokens / speedup, so the fit is linear.
    """
    rows = [r for r in TABLE_3 if r.pair == pair and (pair == "33B" or r.temperature == temperature)]
    taken = np.array([r.tokens / r.speedup for r in rows])
    depth = np.array([float(r.depth) for r in rows])
    if pair in DRAFT_RATIO:
        c = DRAFT_RATIO[pair]
        return float(np.mean(taken - c * depth)), c
    t, c = np.linalg.lstsq(np.column_stack([np.ones(len(rows)), depth]), taken, rcond=None)[0]
    return float(t), float(c)


def rows() -> tuple[Row, ...]:
    """Table 3's 20 A100 speedups from their printed tokens per step; t(n), and c for 33B, are fitted to them."""
    made = []
    for row in TABLE_3:
        t, c = fitted_terms(row.pair, temperature=row.temperature)
        ours = tree_speedup(row.tokens, verify_ratio=t, draft_ratio=c, depth=row.depth)
        setting = f"{row.pair}, T = {row.temperature:g}, {row.data}, tree ({row.nodes}, {row.depth})"
        made.append(Row(f"{setting}: speedup", row.speedup, ours, 0.03))
    return tuple(made)


def simulate(
    rng: np.random.Generator,
    *,
    nodes: int = 128,
    depth: int = 10,
    verify_ratio: float = 1.044,
    draft_ratio: float = 0.0207,
    tokens: int = 20_000,
) -> Outcome:
    """One stream with the optimal tree for the shipped acceptance vector; seconds are plain decoding steps."""
    tree = OptimalTrees.of(SHIPPED_ACCEPTANCE, nodes=nodes, depth=depth).tree(nodes, depth)
    seconds = verify_ratio + tree.depth * draft_ratio

    def draw(n: int) -> Drawn:
        emitted = run_tree(tree, SHIPPED_ACCEPTANCE, rounds=n, rng=rng)
        return Drawn(np.full(n, tree.size - 1), emitted - 1, emitted, np.full(n, seconds))

    return in_series(draw, tokens=tokens)


def _compose(setting: Setting) -> Composition:
    """The tree that serves one sequence fastest on this hardware, by the paper's own search."""
    candidate, ranks = setting.ranked(*SEQUENTIAL)
    most, depth = setting.count("nodes"), setting.count("depth")
    context = setting.deployment.decode_context_tokens
    batch = Batch(1.0, context)
    plain = float(setting.deployment.program(None, 0).seconds(batch))

    def verify_ratio(nodes: int) -> float:
        if nodes == 1:
            return 1.0
        return float(setting.tree_program(candidate, steps=1, branches=nodes - 1, tokens=nodes).seconds(batch)) / plain

    longer = setting.tree_program(candidate, steps=3, branches=(1, 1), tokens=4).seconds(batch)
    shorter = setting.tree_program(candidate, steps=2, branches=(1,), tokens=4).seconds(batch)
    draft_ratio = float(longer - shorter) / plain
    knots = np.unique(np.rint(np.geomspace(1, most, min(most, 24))).astype(int))
    ratios = np.array([verify_ratio(int(n)) for n in knots])
    trees = OptimalTrees.of(ranks, nodes=most, depth=depth)
    nodes, levels, _ = trees.best_shape(
        lambda n: float(np.interp(n, knots, ratios)) - draft_ratio * (n > 1), draft_ratio
    )
    if nodes == 1:
        raise NotApplicable("drafts no tree here: for one sequence plain decoding is faster than any on this hardware")
    tree = trees.tree(nodes, levels)
    inner = np.unique(np.array(tree.parents[1:]))
    widths = tuple(int((tree.levels[inner] == level).sum()) for level in range(1, tree.depth))
    program = setting.tree_program(candidate, steps=tree.depth, branches=widths, tokens=tree.size)
    return on_the_replica(
        setting,
        candidate,
        {program.k: program},
        TreeRounds(tree, ranks),
        ran_with=f"{candidate.short}, tree of {tree.size}, {tree.depth} levels",
        assumed=(
            "acceptance by rank is the same in every context (the paper's own assumption)",
            TREE_ASSUMED,
        ),
        one_at_a_time=True,
    )


SYSTEM = System(
    name="sequoia",
    title="Sequoia: Scalable and Robust Speculative Decoding",
    paper="2402.12374",
    year=2024,
    lossless="yes",
    topology="drafter and target on one device (or the target's weights streamed from the host)",
    pipeline="draft a level x depth -> verify the tree in one pass -> commit the accepted path",
    rule="children drawn without replacement; each tested with min(1, p'/q'), residual after a rejection",
    parameters=(
        Parameter("nodes", 128, "tree size, root included", "Table 3, 7B on C4, greedy"),
        Parameter("depth", 10, "levels that are drafted", "same row"),
        Parameter("verify_ratio", 1.044, "time to verify the tree over one decode step", "fitted to Table 3's 7B rows"),
        Parameter("draft_ratio", 0.0207, "time of a drafting pass over one decode step", "printed: 0.5 ms / 24.2 ms"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=(
        "acceptance depends on a child's rank only (the paper's own assumption)",
        "the acceptance vector is the one the authors' code ships; its pair is not stated",
    ),
    batches="batch 1: the tree is sized for one sequence",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("nodes", 128, "largest tree considered, root included", "Table 3, the largest tree"),
        Parameter("depth", 10, "most levels considered", "Table 3, the deepest tree"),
    ),
    study="sequoia",
)
