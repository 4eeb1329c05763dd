"""Staged speculative decoding: a tree for the target, and a drafter sped up by n-grams in turn (arXiv 2308.04623).

Lossless. Three models on one device at batch 1: a 762M target, a 40M drafter, a trigram table. The drafter runs once a
level of the tree; with n-grams proposing ahead, one of its passes makes several levels. Cost is weights read per token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.drafting.trees import OptimalTrees, Tree
from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import RoundProgram
from specsim.simulation.round_rules import DrawnRounds
from specsim.systems.composition import Composition, on_servers
from specsim.systems.descriptor import Parameter, System
from specsim.systems.draft_tree import TREE_ASSUMED
from specsim.systems.reproduction import Row
from specsim.systems.sequoia import SHIPPED_ACCEPTANCE
from specsim.systems.tree_rounds import TreeRounds, run_tree
from specsim.theory.tokens import expected_rounds_iid

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

DRAFT_OVER_TARGET = 40.0 / 762.0
"""Weights of a drafting pass over those of a target pass (printed sizes); the n-gram table reads next to nothing."""

BANDWIDTH = {"greedy": (0.31, 0.23), "top-k": (0.48, 0.35)}
"""Weights read per token, relative to plain decoding: (speculative, staged), HumanEval, RTX 4090 (printed)."""

TOKENS_PER_S = {"greedy": (150.0, 350.0, 475.0), "top-k": (150.0, 219.0, 298.0)}
"""Plain, speculative and staged tokens per second (printed)."""

NODES, DEPTH, AHEAD = 32, 12, 8
"""Tree budget, its levels, and tokens that n-grams propose: assumed; shapes and acceptance are not in the paper."""


def rank_law(rate: float) -> Floats:
    """Acceptance by child rank: ``rate`` for the first, the rest shared as in Sequoia's shipped vector (assumed)."""
    shares = np.array(SHIPPED_ACCEPTANCE[1:]) / (1.0 - SHIPPED_ACCEPTANCE[0])
    return np.concatenate([[rate], (1.0 - rate) * shares])


def bandwidth(tokens: float, drafting_passes: float) -> float:
    """Weights read per token, in target passes: (1 + passes c) / tokens."""
    return (1.0 + drafting_passes * DRAFT_OVER_TARGET) / tokens


def drafting_passes(agreement: float, *, ahead: int = AHEAD, depth: int = DEPTH) -> float:
    """Mean passes of the drafter for a tree of ``depth`` levels when n-grams propose ``ahead`` tokens each time.

    A pass makes 1 + (n-grams agreed with) levels, i.i.d., the last one perhaps more than needed. Agreement 0: one pass
    a level.
    """
    return expected_rounds_iid(agreement, ahead, depth)


def run_staged(
    tree: Tree, rate: float, agreement: float, *, ahead: int, rounds: int, rng: np.random.Generator
) -> tuple[float, float]:
    """Simulate all three stages: (tokens per round, drafting passes per round)."""
    passes = run_drafting(agreement, ahead, depth=tree.depth, rounds=rounds, rng=rng)
    return float(run_tree(tree, rank_law(rate), rounds=rounds, rng=rng).mean()), float(passes.mean())


def run_drafting(agreement: float, ahead: int, *, depth: int, rounds: int, rng: np.random.Generator) -> Floats:
    """Passes of the drafter in each of ``rounds`` rounds, n-grams proposing ``ahead`` tokens before each."""
    left, passes = np.full(rounds, depth), np.zeros(rounds)
    while np.any(left > 0):
        passes += left > 0
        left = left - 1 - np.logical_and.accumulate(rng.random((rounds, ahead)) < agreement, axis=1).sum(axis=1)
    return passes


@dataclass(frozen=True)
class Fitted:
    """One tree for both columns, and what the greedy column (and top-k's two-stage cell) say about acceptance."""

    tree: Tree
    rates: dict[str, float]
    agreement: float


@cache
def fitted() -> Fitted:
    """Greedy: the rate whose best tree reads 0.31, then the n-grams' agreement that makes it 0.23. Top-k: 0.48."""
    from scipy.optimize import brentq

    def trees(rate: float) -> OptimalTrees:
        return OptimalTrees.of(rank_law(rate), nodes=NODES, depth=DEPTH)

    (two, three), (top_k, _) = BANDWIDTH["greedy"], BANDWIDTH["top-k"]
    greedy = brentq(lambda a: bandwidth(trees(a).expected_tokens(NODES, DEPTH), DEPTH) - two, 0.05, 0.99)
    tree = trees(greedy).tree(NODES, DEPTH)

    def tokens(rate: float) -> float:
        return tree.expected_tokens(rank_law(rate))

    other = brentq(lambda a: bandwidth(tokens(a), tree.depth) - top_k, 0.05, 0.99)
    agreement = brentq(
        lambda b: bandwidth(tokens(greedy), drafting_passes(b, depth=tree.depth)) - three, 0.0, 1.0 - 1e-9
    )
    return Fitted(tree, {"greedy": float(greedy), "top-k": float(other)}, float(agreement))


def rows() -> tuple[Row, ...]:
    """Calibrated on the greedy column and top-k's two-stage cell: top-k's three-stage cell, their ratio, and speeds.

    A common overhead h links weights read to speed: tokens per second = plain / (bandwidth x h), h = 1.40 from all four
    cells (fitted).
    """
    known = fitted()
    tokens = known.tree.expected_tokens(rank_law(known.rates["top-k"]))
    ours = bandwidth(tokens, drafting_passes(known.agreement, depth=known.tree.depth))
    two, three = BANDWIDTH["top-k"]
    made = [
        Row("top-k, staged over speculative: weights read", three / two, ours / two, 0.10),
        Row("top-k, staged: weights read per token", three, ours, 0.10),
        Row("the same ratio with the best tree for each of the four cells", three / two, _with_best_trees()),
    ]
    for column, (plain, speculative, staged) in TOKENS_PER_S.items():
        for name, read, published in zip(
            ("speculative", "staged"), BANDWIDTH[column], (speculative, staged), strict=True
        ):
            made.append(Row(f"{column}, {name}: tokens/s at h = 1.40", published, plain / (read * 1.40), 0.05))
    return tuple(made)


def _with_best_trees() -> float:
    """Top-k's ratio if every cell had its own best depth: there is then less drafting to save."""
    from scipy.optimize import brentq

    def best(rate: float, levels: float) -> float:
        trees = OptimalTrees.of(rank_law(rate), nodes=NODES, depth=NODES - 1)
        return 1.0 / trees.best_shape(lambda _: 1.0, DRAFT_OVER_TARGET / levels)[2]

    (two, three), (top_k, _) = BANDWIDTH["greedy"], BANDWIDTH["top-k"]
    greedy, other = (brentq(lambda a, r=r: best(a, 1.0) - r, 0.05, 0.99) for r in (two, top_k))
    levels = brentq(lambda x: best(greedy, x) - three, 1.0, 1e3)
    return best(other, levels) / top_k


def simulate(
    rng: np.random.Generator,
    *,
    rate: float = 0.7956,
    agreement: float = 0.7374,
    ahead: int = AHEAD,
    nodes: int = NODES,
    depth: int = DEPTH,
    tokens: int = 20_000,
) -> Outcome:
    """One stream; a second is the time to read the target's weights once."""
    tree = OptimalTrees.of(rank_law(rate), nodes=nodes, depth=depth).tree(nodes, depth)

    def draw(n: int) -> Drawn:
        emitted = run_tree(tree, rank_law(rate), rounds=n, rng=rng)
        passes = run_drafting(agreement, ahead, depth=tree.depth, rounds=n, rng=rng)
        return Drawn(np.full(n, tree.size - 1), emitted - 1, emitted, 1.0 + passes * DRAFT_OVER_TARGET)

    return in_series(draw, tokens=tokens)


def _compose(setting: Setting) -> Composition:
    """The drafter's tree for a node budget; a round is of the kind of its drafting passes, 1 to the tree's levels."""
    candidate, ranks = setting.ranked("draft_model")
    nodes, depth, ahead = (setting.count(name) for name in ("nodes", "depth", "ahead"))
    agreement = setting.number("agreement", most=1.0)
    if nodes < 2:
        raise InputError(f"{nodes}; a tree has 2 nodes or more", field=f"systems.{setting.key}.nodes")
    levels = min(depth, nodes - 1)
    tree = OptimalTrees.of(ranks, nodes=nodes, depth=levels).tree(nodes, levels)
    process = TreeRounds(tree, ranks)
    inner = len(set(tree.parents[1:])) - 1  # the root's children come from the pass over what was accepted

    def program(passes: int) -> RoundProgram:
        """So many passes cover the inner nodes between them; each also checks what the n-grams proposed."""
        width = ahead + math.ceil(inner / max(passes - 1, 1))
        widths = (width,) * (passes - 1)
        made = setting.tree_program(candidate, steps=passes, branches=widths, tokens=tree.size)
        return replace(made, kind=passes)

    return on_servers(
        setting,
        candidate,
        {passes: program(passes) for passes in range(1, tree.depth + 1)},
        lambda requests, rng: StagedRounds(process, agreement, ahead, len(requests), rng),
        ran_with=f"n-grams -> {candidate.short}, tree of {tree.size}, {tree.depth} levels",
        assumed=(
            "the n-grams' table is on the host and takes no time",
            "acceptance by rank is the same in every context",
            TREE_ASSUMED,
        ),
        one_at_a_time=True,
    )


class StagedRounds:
    """Passes that the drafter needs for its tree with the n-grams' help, then the accepted path."""

    def __init__(
        self, process: TreeRounds, agreement: float, ahead: int, streams: int, rng: np.random.Generator
    ) -> None:
        self._drawn, self._nodes = DrawnRounds(process, streams, rng), process.tree.size - 1
        self._agreement, self._proposed, self._depth, self._rng = agreement, ahead, process.tree.depth, rng
        self._ahead: list[float] = []

    def length(self, stream: int) -> int:  # noqa: ARG002 - requests don't differ
        """Drafting passes, the kind of the round."""
        if not self._ahead:
            drawn = run_drafting(self._agreement, self._proposed, depth=self._depth, rounds=1024, rng=self._rng)
            self._ahead = drawn.tolist()
        return int(self._ahead.pop())

    def settle(self, stream: int, k: int) -> tuple[int, int]:  # noqa: ARG002 - always the whole tree
        """The accepted path and one more."""
        accepted = self._drawn.accepted(stream, self._nodes)
        return accepted, accepted + 1


SYSTEM = System(
    name="staged",
    title="Accelerating LLM Inference with Staged Speculative Decoding",
    paper="2308.04623",
    year=2023,
    lossless="yes",
    topology="target, drafter and n-gram table on one device",
    pipeline="[n-grams propose -> drafter verifies] per level x depth -> target verifies the tree -> commit",
    rule="rejection sampling (greedy: exact match) at both levels",
    parameters=(
        Parameter("rate", 0.7956, "acceptance of a node's first child", "fitted: greedy, two stages read 0.31"),
        Parameter("agreement", 0.7374, "of n-grams with the drafter", "fitted: greedy, three stages read 0.23"),
        Parameter("ahead", AHEAD, "tokens that n-grams propose", "assumed"),
        Parameter("nodes", NODES, "tree size, root included", "assumed: shapes are not published"),
        Parameter("depth", DEPTH, "its levels", "assumed"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=("a pass costs the weights it reads", "one tree for greedy and top-k"),
    batches="batch 1: trees fill the idle arithmetic of one sequence",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("agreement", None, "share of the n-grams' tokens that the drafter agrees with", "-"),
        Parameter("ahead", AHEAD, "tokens that n-grams propose", "assumed"),
        Parameter("nodes", NODES, "tree size, root included", "assumed: shapes are not published"),
        Parameter("depth", DEPTH, "its levels at most", "assumed"),
    ),
    study="staged",
)
