"""Rounds of a draft tree whose acceptance depends on a child's rank alone, as an acceptance process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.drafting.trees import Tree
from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def run_tree(tree: Tree, rank_acceptance: ArrayLike, *, rounds: int, rng: np.random.Generator) -> Ints:
    """Tokens emitted in each of ``rounds`` rounds: at every accepted node one child at most is the accepted one.

    Its mean is ``tree.expected_tokens(rank_acceptance)``: the positional-acceptance assumption of Sequoia.
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
class TreeRounds:
    """Accepted paths of one tree, round after round, independent: what the executors ask of a process.

    It drafts exactly ``tree.size - 1`` tokens; asked for another length it raises InputError.
    """

    tree: Tree
    rank_acceptance: tuple[float, ...]

    @property
    def name(self) -> str:
        """The tree's size."""
        return f"tree of {self.tree.size} nodes, acceptance by child rank"

    @property
    def max_k(self) -> int | None:
        """Nodes without the root."""
        return self.tree.size - 1

    def survival(self, k: int) -> Floats:
        """P(a path of i + 1 tokens is accepted), shape (k,); 0 below the tree's depth."""
        self._only(k)
        survival = self.tree.node_survival(self.rank_acceptance)
        reached = np.bincount(self.tree.levels, weights=survival, minlength=k + 1)
        return np.asarray(reached[1 : k + 1])

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:  # noqa: ARG002 - the interface's argument
        """Nothing to remember: shape (n, 0)."""
        return np.zeros((n, 0))

    def verify(
        self, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        """Accepted tokens of each round, shape (requests, rounds)."""
        self._only(k)
        drawn = run_tree(self.tree, self.rank_acceptance, rounds=len(latent) * rounds, rng=rng)
        return (drawn - 1).reshape(len(latent), rounds), latent

    def _only(self, k: int) -> None:
        if k != self.tree.size - 1:
            raise InputError(f"{k} drafted tokens of a tree that has {self.tree.size - 1}", field="k")
