"""Sequoia: the optimal draft tree for a node budget and a machine (arXiv 2402.12374, NeurIPS 2024). Lossless.

One drafter, one target, one device. The tree comes from ``drafting.trees.OptimalTrees``; a round takes t(n) + d c plain
steps. Children are drawn without replacement and verified by ``verification.nodes.recursive_without_replacement``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.drafting.trees import OptimalTrees, Tree
from specsim.simulation.expanded import Outcome
from specsim.simulation.in_series import Drawn, in_series
from specsim.systems.descriptor import Parameter, System
from specsim.systems.reproduction import Row

Ints = NDArray[np.int64]

SHIPPED_ACCEPTANCE = (0.634, 0.108, 0.057, 0.0225, 0.0195, 0.015, 0.0045, 0.003, 0.012, 0.0045)
"""Acceptance by child rank in the authors' repository; the pair is not stated. None of 32 children: 0.0735."""


def tree_speedup(tokens: float, *, verify_ratio: float, draft_ratio: float, depth: int) -> float:
    """Tokens per round over its time in plain steps: tokens / (t(n) + d c) (section 4.3)."""
    return tokens / (verify_ratio + depth * draft_ratio)


def run_tree(tree: Tree, rank_acceptance: ArrayLike, *, rounds: int, rng: np.random.Generator) -> Ints:
    """Tokens emitted in each of ``rounds`` rounds: at every accepted node one child at most is the accepted one.

    Its mean is ``tree.expected_tokens(rank_acceptance)``: the positional-acceptance assumption of the paper.
    """
    bounds = np.concatenate([[0.0], np.cumsum(np.asarray(rank_acceptance, dtype=np.float64))])
    child = np.full((tree.size, max(tree.ranks) + 1), -1, dtype=np.int64)
    for i, (parent, rank) in enumerate(zip(tree.parents[1:], tree.ranks[1:], strict=True), start=1):
        child[parent, rank] = i
    at: Ints = np.zeros(rounds, dtype=np.int64)
    tokens = np.ones(rounds, dtype=np.int64)
    for _ in range(tree.depth):
        ranks = np.searchsorted(bounds, rng.random(rounds), side="right") - 1
        known = (ranks < child.shape[1]) & (at >= 0)
        at = np.where(known, child[np.maximum(at, 0), np.minimum(ranks, child.shape[1] - 1)], -1)
        tokens += at >= 0
    return tokens


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
)
