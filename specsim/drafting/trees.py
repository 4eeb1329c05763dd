"""Which tree to draft: fixed shapes, Sequoia's optimal one by dynamic programme, and ones grown by path probability."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

NEVER = -np.inf
"""Worth of a tree that does not exist."""

LEAST = 1e-300
"""Stands for a probability of 0 in products with NEVER, which would be no number."""


@dataclass(frozen=True)
class Tree:
    """A draft tree with its root, the last committed token, as node 0.

    parents[i] < i is node i's parent (-1 for the root); ranks[i] counts its elder siblings, 0 for the likeliest child.
    """

    parents: tuple[int, ...]
    ranks: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.parents or self.parents[0] != -1 or len(self.parents) != len(self.ranks):
            raise InputError("starts with the root, whose parent is -1, and has one rank a node", field="parents")
        if any(not 0 <= parent < i for i, parent in enumerate(self.parents[1:], start=1)):
            raise InputError("every node comes after its parent", field="parents")

    @property
    def size(self) -> int:
        """Nodes, the root included: tokens that the target verifies."""
        return len(self.parents)

    @property
    def levels(self) -> Ints:
        """Level of each node, the root's being 0; shape (size,)."""
        level = np.zeros(self.size, dtype=np.int64)
        for i, parent in enumerate(self.parents[1:], start=1):
            level[i] = level[parent] + 1
        return level

    @property
    def depth(self) -> int:
        """Drafting passes in sequence: levels below the root."""
        return int(self.levels.max())

    def expected_tokens(self, rank_acceptance: ArrayLike) -> float:
        """Tokens per round, bonus included, when child j of an accepted node is the accepted one with p_j.

        Sum over nodes of the product of p along the path, the root counting 1 (Sequoia, arXiv 2402.12374).
        """
        return float(self.node_survival(rank_acceptance).sum())

    def node_survival(self, rank_acceptance: ArrayLike) -> Floats:
        """P(a node is on the accepted path), the root's being 1, shape (size,). Ranks beyond the vector never are."""
        p = np.asarray(rank_acceptance, dtype=np.float64)
        worth = np.ones(self.size)
        for i, (parent, rank) in enumerate(zip(self.parents[1:], self.ranks[1:], strict=True), start=1):
            worth[i] = worth[parent] * (p[rank] if rank < len(p) else 0.0)
        return worth


def chain(k: int) -> Tree:
    """K drafted tokens in a row."""
    return sequences(width=1, depth=k)


def sequences(*, width: int, depth: int) -> Tree:
    """``width`` separate chains of ``depth`` tokens that share the root (k-sequence trees; SpecInfer's 5 x 8)."""
    if width < 1 or depth < 0:
        raise InputError(f"width {width}, depth {depth}; give width >= 1 and depth >= 0", field="width, depth")
    parents, ranks = [-1], [0]
    for branch in range(width if depth else 0):
        for level in range(depth):
            parents.append(0 if level == 0 else len(parents) - 1)
            ranks.append(branch if level == 0 else 0)
    return Tree(tuple(parents), tuple(ranks))


def full_branching(branches: Sequence[int]) -> Tree:
    """Every node of level i has ``branches[i]`` children (SpecInfer's expansion configuration)."""
    parents, ranks, level = [-1], [0], [0]
    for width in branches:
        below = []
        for node in level:
            for rank in range(width):
                below.append(len(parents))
                parents.append(node)
                ranks.append(rank)
        level = below
    return Tree(tuple(parents), tuple(ranks))


@dataclass(frozen=True)
class OptimalTrees:
    """Sequoia's dynamic programme: the best tree of every size and depth for acceptance by child rank.

    With G[n, d] the most expected tokens of n nodes (root included) and at most d levels below it, and F_b[m] the same
    when the root has its first b children only,

        F_0[m] = 1 (m = 1),   F_b[m] = max_{y} F_{b-1}[y] + p_b G[m - y, d - 1],   G[m, d] = max_b F_b[m]

    (arXiv 2402.12374, section 4.1). O(depth x ranks x nodes^2), one vectorised maximum for each (depth, rank).
    Probabilities need not fall with the rank.
    """

    best: Floats
    """G, shape (nodes + 1, depth + 1), NEVER where no such tree is."""
    partial: Floats
    """F, shape (depth + 1, ranks + 1, nodes + 1)."""
    rank_acceptance: Floats

    @classmethod
    def of(cls, rank_acceptance: ArrayLike, *, nodes: int, depth: int) -> OptimalTrees:
        """Solve for all sizes up to ``nodes`` (root included) and depths up to ``depth``."""
        p = np.atleast_1d(np.asarray(rank_acceptance, dtype=np.float64))
        if p.ndim != 1 or not p.size or np.any(p < 0) or float(p.sum()) > 1.0 + 1e-9:
            raise InputError("needs probabilities by rank that sum to at most 1", field="rank_acceptance")
        if nodes < 1 or depth < 0:
            raise InputError(f"{nodes} nodes, depth {depth}: a tree has its root at least", field="nodes, depth")
        p = p[: max(nodes - 1, 1)]
        partial = np.full((depth + 1, len(p) + 1, nodes + 1), NEVER)
        partial[:, 0, 1] = 1.0
        best = np.full((nodes + 1, depth + 1), NEVER)
        best[1, :] = 1.0
        left = np.arange(nodes + 1)[:, None] - np.arange(nodes + 1)[None, :]
        apart = np.where(left > 0, left, 0)
        room = np.empty(apart.shape)
        for d in range(1, depth + 1):
            child = best[apart, d - 1]
            for b in range(1, len(p) + 1):
                # F_{b-1} has b nodes at least, so the first b columns and rows hold no tree.
                sums = np.multiply(child[b:, b:], max(p[b - 1], LEAST), out=room[b:, b:])
                sums += partial[d, b - 1, b:]
                sums.max(axis=1, out=partial[d, b, b:])
            best[:, d] = partial[d].max(axis=0)
        return cls(best, partial, p)

    def expected_tokens(self, nodes: int, depth: int) -> float:
        """Most tokens per round of a tree of exactly ``nodes`` nodes (root included) within ``depth`` levels.

        NEVER where ranks and levels cannot hold so many.
        """
        return float(self.best[nodes, depth])

    def tree(self, nodes: int, depth: int) -> Tree:
        """A tree that reaches ``expected_tokens``, by walking the programme back. Nodes in breadth-first order."""
        if self.best[nodes, depth] <= 0:
            raise InputError(f"no tree of {nodes} nodes has {depth} levels and {len(self.rank_acceptance)} ranks")
        parents, ranks, waiting = [-1], [0], [(0, nodes, depth)]
        while waiting:
            node, size, d = waiting.pop(0)
            for rank, below in enumerate(self._children(size, d)):
                waiting.append((len(parents), below, d - 1))
                parents.append(node)
                ranks.append(rank)
        return Tree(tuple(parents), tuple(ranks))

    def best_shape(self, verify_ratio: Callable[[int], float], draft_ratio: float) -> tuple[int, int, float]:
        """(nodes, depth, speedup) that maximise G[n, d] / (t(n) + d c): the hardware-aware choice (section 4.3).

        verify_ratio: t(n), seconds to verify n tokens over those of one. draft_ratio: c, one drafting pass over one
        decode step. The smaller tree where two are equal; (1, 0) is plain decoding.
        """
        nodes, depth = self.best.shape[0] - 1, self.best.shape[1] - 1
        times = np.array([verify_ratio(n) for n in range(1, nodes + 1)])[:, None] + draft_ratio * np.arange(depth + 1)
        if not np.all(times > 0):
            raise InputError("a round must take more than no time", field="verify_ratio")
        gain = self.best[1:] / times
        n, d = np.unravel_index(int(np.argmax(gain)), gain.shape)
        return int(n) + 1, int(d), float(gain[n, d])

    def _children(self, size: int, depth: int) -> list[int]:
        """Sizes of the root's subtrees in a best tree, by rank."""
        if size == 1:
            return []
        b = int(np.argmax(self.partial[depth, :, size]))
        sizes: list[int] = []
        while b > 0:
            y = np.arange(1, size)
            options = (
                self.partial[depth, b - 1, y] + max(self.rank_acceptance[b - 1], LEAST) * self.best[size - y, depth - 1]
            )
            kept = int(y[np.argmax(options)])
            sizes.append(size - kept)
            size, b = kept, b - 1
        return sizes[::-1]


def grown_tree(
    children: Callable[[tuple[int, ...]], Sequence[float]], *, nodes: int, depth: int
) -> tuple[Tree, Floats]:
    """The ``nodes`` likeliest paths under context-dependent probabilities, and each node's path probability.

    children(path) gives the drafter's probabilities of a node's children, likeliest first; ``path`` lists the ranks
    from the root. Path probabilities never rise along a path, so taking the likeliest open node each time is optimal
    for a node budget (DySpec, arXiv 2410.11744; EAGLE-2, 2406.16858, keeps the best of a wider beam).
    """
    if nodes < 1:
        raise InputError(f"{nodes}: a tree has its root at least", field="nodes")
    parents, ranks, worth = [-1], [0], [1.0]
    paths: list[tuple[int, ...]] = [()]
    heap: list[tuple[float, int, int, int]] = []

    def offer(node: int, rank: int) -> None:
        options = known[node]
        if rank < len(options) and options[rank] > 0:
            heapq.heappush(heap, (-worth[node] * float(options[rank]), len(paths[node]), node, rank))

    known: dict[int, Sequence[float]] = {}

    def opened(node: int) -> None:
        if len(paths[node]) < depth:
            known[node] = children(paths[node])
            if any(a < b for a, b in zip(known[node], known[node][1:], strict=False)):
                raise InputError(f"children of {paths[node]} are not in falling order", field="children")
            offer(node, 0)

    opened(0)
    while heap and len(parents) < nodes:
        negative, _, node, rank = heapq.heappop(heap)
        parents.append(node)
        ranks.append(rank)
        worth.append(-negative)
        paths.append((*paths[node], rank))
        offer(node, rank + 1)
        opened(len(parents) - 1)
    return Tree(tuple(parents), tuple(ranks)), np.array(worth)


def beam_tree(
    children: Callable[[tuple[int, ...]], Sequence[float]], *, steps: int, branches: int, tokens: int
) -> tuple[Tree, Floats]:
    """EAGLE-2's tree (arXiv 2406.16858): a beam, then the ``tokens`` - 1 likeliest of all that it drafted.

    Each of ``steps`` passes drafts ``branches`` children of every node of the beam, and the ``branches`` likeliest
    paths of the new level are the next beam. children(path) gives the drafter's probabilities by rank. Path
    probabilities never rise along a path, so what is kept hangs together. Returns the tree,
    root included, and path probabilities.
    """
    for name, value, low in (("steps", steps, 1), ("branches", branches, 1), ("tokens", tokens, 2)):
        if value < low:
            raise InputError(f"{value}; give {low} or more", field=name)
    drafted: list[tuple[float, tuple[int, ...]]] = []
    beam: list[tuple[float, tuple[int, ...]]] = [(1.0, ())]
    for _ in range(steps):
        level = [(worth * float(p), (*path, rank)) for worth, path in beam for rank, p in enumerate(children(path))]
        level = sorted((one for one in level if one[1][-1] < branches and one[0] > 0), key=_likeliest)
        drafted += level
        beam = level[:branches]
    kept = sorted(sorted(drafted, key=_likeliest)[: tokens - 1], key=lambda one: (len(one[1]), one[1]))
    number: dict[tuple[int, ...], int] = {(): 0}
    for _, path in kept:
        number[path] = len(number)
    parents = (-1, *(number[path[:-1]] for _, path in kept))
    ranks = (0, *(path[-1] for _, path in kept))
    return Tree(parents, ranks), np.array([1.0, *(worth for worth, _ in kept)])


def _likeliest(one: tuple[float, tuple[int, ...]]) -> tuple[float, int, tuple[int, ...]]:
    """Parents before their children where the probabilities are equal."""
    return -one[0], len(one[1]), one[1]
