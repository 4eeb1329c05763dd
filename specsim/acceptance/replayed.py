"""Conversations whose every token is drawn beforehand: all policies that are compared meet the very same ones."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.checks import checked_k
from specsim.acceptance.laws import stationary_law
from specsim.acceptance.modulated import MarkovModulated
from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Replayed:
    """Whether a draft of each token would be accepted, and the state it is drawn in; shape (conversations, tokens).

    A round that starts at a token accepts up to the next draft that fails, and the one after goes on behind the token
    that corrected it: what a token does depends on its place, never on the windows before. A conversation longer than
    its row starts it again. A request's latent is (row, place).
    """

    accepts: NDArray[np.bool_]
    states: Ints

    def __post_init__(self) -> None:
        if self.accepts.ndim != 2 or self.accepts.size == 0 or self.accepts.shape != self.states.shape:
            raise InputError("needs (conversations, tokens), the same for both", field="accepts, states")

    @property
    def name(self) -> str:
        """How many conversations, and their mean acceptance."""
        return f"{len(self.accepts)} conversations replayed, acceptance {self.accepts.mean():.3f}"

    @property
    def max_k(self) -> int | None:
        """None: defined for any length up to a conversation's."""
        return None

    @cached_property
    def runs(self) -> Ints:
        """Drafts accepted in a row from each place on, cut at the end of the row."""
        runs = np.zeros((len(self.accepts), self.accepts.shape[1] + 1), dtype=np.int64)
        for t in range(self.accepts.shape[1] - 1, -1, -1):
            runs[:, t] = np.where(self.accepts[:, t], runs[:, t + 1] + 1, 0)
        return runs[:, :-1]

    def survival(self, k: int) -> Floats:
        """Share of places from which so many drafts in a row are accepted (rounds may start anywhere), shape (k,)."""
        return np.array([float((self.runs >= i).mean()) for i in range(1, checked_k(k) + 1)])

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:  # noqa: ARG002 (the interface's argument)
        """The first ``n`` conversations at their first token, shape (n, 2)."""
        if n > len(self.accepts):
            raise InputError(f"{n} conversations, {len(self.accepts)} are drawn", field="conversations")
        return np.column_stack([np.arange(n), np.zeros(n, dtype=np.int64)])

    def verify(
        self,
        latent: NDArray[Any],
        k: int,
        rng: np.random.Generator,  # noqa: ARG002 (the interface's argument)
        *,
        rounds: int = 1,
    ) -> tuple[Ints, NDArray[Any]]:
        """Accepted counts, shape (requests, rounds), and where the next rounds start. Nothing is drawn."""
        row, at = latent[:, 0], latent[:, 1]
        counts = np.empty((len(latent), rounds), dtype=np.int64)
        for t in range(rounds):
            counts[:, t] = np.minimum(self.runs[row, at], k)
            at = (at + counts[:, t] + 1) % self.accepts.shape[1]
        return counts, np.column_stack([row, at])


def replayed(process: MarkovModulated, conversations: int, tokens: int, rng: np.random.Generator) -> Replayed:
    """Draw conversations of a process whose hidden state moves with every token."""
    if conversations < 1 or tokens < 1:
        raise InputError(f"{conversations} conversations of {tokens} tokens; give 1 or more", field="conversations")
    move = np.cumsum(np.asarray(process.transition), axis=1)
    states = np.empty((conversations, tokens), dtype=np.int64)
    states[:, 0] = rng.choice(len(process.rates), size=conversations, p=stationary_law(process.transition))
    for t in range(1, tokens):
        u = rng.random((conversations, 1))
        states[:, t] = np.minimum((u >= move[states[:, t - 1]]).sum(axis=1), len(process.rates) - 1)
    return Replayed(rng.random(states.shape) < np.asarray(process.rates)[states], states)
