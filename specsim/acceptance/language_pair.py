"""A toy pair of language models, Markov over a small vocabulary, in which every quantity of a round is exact."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.checks import checked_k
from specsim.acceptance.laws import stationary_law
from specsim.acceptance.signals import Drafted, Signals, accepted_prefix
from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class LanguagePair:
    """Target and drafter laws of the next token given the last: two (vocab, vocab) matrices whose rows sum to 1.

    Verified by the token rule (arXiv 2211.17192), which is lossless. Signals: confidence q(x); the entropy of q;
    acceptance sum_x min(p, q) at the context, known before the token is drawn.
    """

    target: Floats
    drafter: Floats

    def __post_init__(self) -> None:
        for field, rows in (("target", self.target), ("drafter", self.drafter)):
            square = rows.ndim == 2 and rows.shape[0] == rows.shape[1] and rows.shape == self.target.shape
            if not square or np.any(rows < 0) or not np.allclose(rows.sum(axis=1), 1.0, atol=1e-9):
                raise InputError("must be a square matrix whose rows are laws", field=field)

    @property
    def name(self) -> str:
        """Vocabulary and mean acceptance in the target's own text."""
        mean = float(stationary_law(self.target) @ self.acceptance)
        return f"Markov language pair of {len(self.target)} tokens, 1 - E[TV] = {mean:.3f}"

    @property
    def max_k(self) -> int | None:
        """None: defined for any length."""
        return None

    @cached_property
    def acceptance(self) -> Floats:
        """P(a token drafted at each context is accepted) = 1 - TV = sum_x min(p, q), shape (vocab,)."""
        return np.asarray(np.minimum(self.target, self.drafter).sum(axis=1))

    @cached_property
    def entropy_nats(self) -> Floats:
        """Entropy of the drafter's law at each context, shape (vocab,)."""
        q = self.drafter
        return np.asarray(-np.where(q > 0, q * np.log(np.where(q > 0, q, 1.0)), 0.0).sum(axis=1))

    @cached_property
    def js_distance(self) -> Floats:
        """Jensen-Shannon distance sqrt(JS(p, q)) at each context, logarithms to base 2: in 0..1, shape (vocab,)."""
        p, q = self.target, self.drafter
        m = 0.5 * (p + q)

        def kl(a: Floats) -> Floats:
            return np.asarray(np.where(a > 0, a * np.log2(np.where(a > 0, a, 1.0) / np.where(m > 0, m, 1.0)), 0).sum(1))

        return np.asarray(np.sqrt(np.clip(0.5 * (kl(p) + kl(q)), 0.0, 1.0)))

    def round_start_law(self, k: int) -> Floats:
        """Stationary law of the last committed token where rounds of k drafted tokens start, shape (vocab,).

        A round passes i times through min(p, q) and ends in a residual (p - q)+, or after k in a bonus token of p.
        """
        accept = np.minimum(self.target, self.drafter)
        reject = np.maximum(self.target - self.drafter, 0.0)
        power, embedded = np.eye(len(accept)), np.zeros_like(accept)
        for _ in range(checked_k(k)):
            embedded += power @ reject
            power = power @ accept
        return stationary_law(embedded + power @ self.target)

    def survival(self, k: int) -> Floats:
        """Exact long-run survival of rounds of k drafted tokens, shape (k,)."""
        accept = np.minimum(self.target, self.drafter)
        law, out = self.round_start_law(k), np.empty(k)
        for i in range(k):
            law = law @ accept
            out[i] = law.sum()
        return out

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Last tokens of n new requests, from the target's stationary law."""
        return np.asarray(rng.choice(len(self.target), size=n, p=stationary_law(self.target)), dtype=np.int64)

    def draft(self, latent: NDArray[Any], k: int, rng: np.random.Generator) -> Drafted:
        """Chains of k tokens of the drafter from each last token; ``contexts`` is (rows, k + 1) with the last first."""
        contexts = np.empty((len(latent), checked_k(k) + 1), dtype=np.int64)
        contexts[:, 0] = latent
        for i in range(k):
            contexts[:, i + 1] = _drawn(self._drafter_steps, contexts[:, i], rng)
        before, token = contexts[:, :-1], contexts[:, 1:]
        p, q = self.target[before, token], self.drafter[before, token]
        shown = Signals(q, self.entropy_nats[before], self.acceptance[before])
        return Drafted(shown, rng.random(q.shape) * q < p, contexts)

    def settle(self, drafted: Drafted, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, NDArray[Any]]:
        """Accepted counts, and the token after them: from norm((p - q)+) after a rejection, from p after none."""
        accepted = accepted_prefix(drafted.accepts, lengths)
        context = drafted.contexts[np.arange(len(accepted)), accepted]
        corrected = _drawn(self._residual_steps, context, rng)
        bonus = _drawn(self._target_steps, context, rng)
        return accepted, np.where(accepted < lengths, corrected, bonus)

    def verify(
        self, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        """Accepted counts of consecutive full drafts, shape (requests, rounds), and the last tokens after them."""
        counts = np.empty((len(latent), rounds), dtype=np.int64)
        full = np.full(len(latent), k, dtype=np.int64)
        for t in range(rounds):
            counts[:, t], latent = self.settle(self.draft(latent, k, rng), full, rng)
        return counts, latent

    @cached_property
    def _target_steps(self) -> Floats:
        return np.cumsum(self.target, axis=1)

    @cached_property
    def _drafter_steps(self) -> Floats:
        return np.cumsum(self.drafter, axis=1)

    @cached_property
    def _residual_steps(self) -> Floats:
        excess = np.maximum(self.target - self.drafter, 0.0)
        total = excess.sum(axis=1, keepdims=True)
        return np.cumsum(np.where(total > 1e-15, excess / np.where(total > 1e-15, total, 1.0), self.target), axis=1)


def random_pair(vocab: int, *, acceptance: float, sharpness: float = 0.3, rng: np.random.Generator) -> LanguagePair:
    """A random pair whose mean acceptance in the target's own text is exactly ``acceptance``.

    Target rows are Dirichlet with concentrations spread over two decades around ``sharpness`` (sharp and flat
    contexts); the drafter is (1 - w) target + w other, so TV is w times that of an independent, sharper
    ``other``: w is solved.
    Raises InputError for an acceptance below what w = 1 gives.
    """
    if vocab < 2 or not sharpness > 0 or not 0 < acceptance <= 1:
        raise InputError(
            "needs vocab >= 2, sharpness > 0 and acceptance in (0, 1]", field="vocab, sharpness, acceptance"
        )
    target = _laws(vocab, sharpness, rng)
    other = _laws(vocab, 0.2 * sharpness, rng)
    apart = float(stationary_law(target) @ (0.5 * np.abs(target - other).sum(axis=1)))
    weight = (1.0 - acceptance) / apart
    if weight > 1.0:
        raise InputError(f"{acceptance} is below {1 - apart:.3f}, that of an unrelated drafter", field="acceptance")
    return LanguagePair(target, (1.0 - weight) * target + weight * other)


def _laws(vocab: int, sharpness: float, rng: np.random.Generator) -> Floats:
    concentration = sharpness * 10.0 ** rng.uniform(-1.0, 1.0, size=(vocab, 1))
    rows = rng.gamma(np.broadcast_to(concentration, (vocab, vocab))) + 1e-12
    return np.asarray(rows / rows.sum(axis=1, keepdims=True))


def _drawn(cumulative: Floats, context: NDArray[Any], rng: np.random.Generator) -> Ints:
    u = rng.random((len(context), 1))
    return np.asarray(np.minimum((u >= cumulative[context]).sum(axis=1), cumulative.shape[1] - 1), dtype=np.int64)
