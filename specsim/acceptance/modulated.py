"""Acceptance with memory from token to token: a hidden state that moves once a token and sets the rate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.checks import checked_k, checked_rates
from specsim.acceptance.laws import round_start_law, stationary_law
from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class MarkovModulated:
    """A hidden state per request sets the conditional rate of the next token and moves once for every token emitted.

    rates: acceptance rate in each state. transition: probability of moving from state (row) to state (column) over one
    token. Rounds start where the last one ended, so long drafts start more often in hard states: even the first
    position's survival depends on K, as it does on real traces.
    """

    rates: tuple[float, ...]
    transition: tuple[tuple[float, ...], ...]

    def __post_init__(self) -> None:
        checked_rates(self.rates, field="rates")
        rows = [len(row) for row in self.transition]
        if rows != [len(self.rates)] * len(self.rates):
            raise InputError(f"has rows of {rows}; give a square matrix, one row a state", field="transition")
        stationary_law(self.transition)

    @property
    def name(self) -> str:
        """The kind of process and its states."""
        rates = ", ".join(f"{rate:.3f}" for rate in self.rates)
        return f"acceptance by a hidden state that moves once a token (rates {rates})"

    @property
    def max_k(self) -> int | None:
        """None: defined for any length."""
        return None

    def survival(self, k: int) -> Floats:
        """``pi (Lambda M)^(i+1) 1`` with pi the law of the state where rounds start (theory.md), shape (k,)."""
        if checked_k(k) == 0:
            return np.zeros(0)
        law = round_start_law(self.rates, self.transition, k)
        kernel = np.asarray(self.rates)[:, None] * np.asarray(self.transition)
        values = np.empty(k)
        for i in range(k):
            law = law @ kernel
            values[i] = law.sum()
        return values

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """States of n new requests by the token-level stationary law, shape (n,)."""
        return rng.choice(len(self.rates), size=n, p=stationary_law(self.transition))

    def verify(
        self, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        """Accepted counts, shape (requests, rounds), and the states after them: one uniform number a round."""
        cumulative = self._outcomes(k)
        states, state = len(self.rates), np.asarray(latent)
        counts = np.empty((len(state), rounds), dtype=np.int64)
        u = rng.random((len(state), rounds))
        for t in range(rounds):
            outcome = (cumulative[state] <= u[:, t, None]).sum(axis=1)
            counts[:, t], state = outcome // states, outcome % states
        return counts, state

    def _outcomes(self, k: int) -> Floats:
        """Cumulated joint law of (accepted, next state) from each state, shape (states, (k + 1) * states - 1)."""
        kept: dict[int, Floats] = self.__dict__.setdefault("_joint", {})
        if checked_k(k) not in kept:
            lam, move = np.asarray(self.rates)[:, None], np.asarray(self.transition)
            power, laws = np.eye(len(lam)), []
            for _ in range(k):
                laws.append(power @ ((1.0 - lam) * move))
                power = power @ (lam * move)
            laws.append(power @ move)
            kept[k] = np.cumsum(np.concatenate(laws, axis=1), axis=1)[:, :-1]
        return kept[k]
