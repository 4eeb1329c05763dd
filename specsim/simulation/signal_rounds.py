"""Rounds of a two-stage chain on one device whose length a policy decides from signals: many requests at once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.signals import Ints, SignalProcess
from specsim.drafting.adaptive import LengthController
from specsim.drafting.stopping import LengthPolicy
from specsim.errors import InputError

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class RoundSeconds:
    """Seconds of a round: ``draft_s`` for each drafted token, one after the other, then ``verify_s``.

    verify_s: one time for all, or a function of the drafted tokens.
    wasted_drafts: drafting passes of a round whose token is never verified (1 for rules that drop the unsure token).
    """

    draft_s: float
    verify_s: float | Callable[[Ints], Floats]
    wasted_drafts: int = 0

    def of(self, drafted: Ints) -> Floats:
        """Seconds of rounds that draft so many tokens, same shape."""
        passes = drafted + self.wasted_drafts
        verifying = self.verify_s(drafted) if callable(self.verify_s) else self.verify_s
        return np.asarray(self.draft_s * passes + verifying, dtype=np.float64)


@dataclass(frozen=True)
class Rounds:
    """What happened: drafted and accepted tokens and seconds of every round, arrays of shape (requests, rounds)."""

    drafted: Ints
    accepted: Ints
    seconds: Floats

    @property
    def tokens(self) -> Ints:
        """Tokens emitted in each round, the bonus or correction included."""
        return np.asarray(self.accepted + 1)

    @property
    def tokens_per_round(self) -> float:
        """Acceptance length."""
        return float(self.tokens.mean())

    @property
    def tokens_per_s(self) -> float:
        """Tokens over seconds, all requests weighted by their time."""
        return float(self.tokens.sum() / self.seconds.sum())

    @property
    def verification_rate(self) -> float:
        """Target passes per token emitted."""
        return float(self.tokens.size / self.tokens.sum())

    @property
    def discard_rate(self) -> float:
        """Drafted tokens that were not accepted, per token emitted."""
        return float((self.drafted - self.accepted).sum() / self.tokens.sum())

    def after(self, rounds: int) -> Rounds:
        """Without each request's first rounds."""
        return Rounds(self.drafted[:, rounds:], self.accepted[:, rounds:], self.seconds[:, rounds:])


def run_rounds(
    process: SignalProcess,
    policy: LengthPolicy | LengthController,
    cost: RoundSeconds,
    *,
    requests: int,
    rounds: int,
    rng: np.random.Generator,
) -> Rounds:
    """Draft, decide, verify, commit: ``rounds`` rounds of each of ``requests`` independent requests.

    The policy is shown signals only; controllers learn from a round once it is verified. Raises InputError for a
    length that is negative or longer than what was shown.
    """
    if requests < 1 or rounds < 1:
        raise InputError(f"{requests} requests of {rounds} rounds; give 1 or more", field="requests, rounds")
    latent = process.start(requests, rng)
    drafted = np.empty((requests, rounds), dtype=np.int64)
    accepted = np.empty_like(drafted)
    controller = policy if isinstance(policy, LengthController) else None
    state = controller.start(requests) if controller else np.zeros((requests, 0))
    for t in range(rounds):
        shown = process.draft(latent, policy.most, rng)
        if isinstance(policy, LengthController):
            lengths = policy.lengths(state, shown.signals)
        else:
            lengths = policy.lengths(shown.signals)
        accepted[:, t], latent = process.settle(shown, lengths, rng)
        drafted[:, t] = lengths
        if controller:
            state = controller.learn(state, shown.signals, lengths, accepted[:, t])
    return Rounds(drafted, accepted, cost.of(drafted))
