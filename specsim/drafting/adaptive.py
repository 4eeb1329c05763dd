"""Draft lengths that learn from what was accepted: controllers with a state a request, vectorised over requests.

A controller proposes from its state (and the signals where it reads them), and learns from each round's outcome after
verification: never from the outcome of the round that it is deciding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.signals import Ints, Signals
from specsim.drafting.stopping import EntropyThreshold
from specsim.errors import InputError
from specsim.theory.tokens import expected_tokens_iid

Floats = NDArray[np.float64]


@runtime_checkable
class LengthController(Protocol):
    """A policy with memory. ``state`` has one row a request; ``learn`` returns the next state."""

    @property
    def most(self) -> int:
        """Longest draft it ever asks for."""
        ...

    def start(self, n: int) -> Floats:
        """States of n new requests."""
        ...

    def lengths(self, state: Floats, signals: Signals) -> Ints:
        """Lengths of this round, shape (requests,)."""
        ...

    def learn(self, state: Floats, signals: Signals, drafted: Ints, accepted: Ints) -> Floats:
        """The state after a round that drafted and accepted so many tokens."""
        ...


@dataclass(frozen=True)
class BackOff:
    """One token more after a round in which all were accepted, one fewer after any other: least..most.

    Hugging Face's heuristic schedule adds 2 and takes 1 (``up``, ``down``); the first round drafts ``first``.
    """

    most: int
    first: int
    least: int = 1
    up: int = 2
    down: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.least <= self.first <= self.most or self.up < 1 or self.down < 1:
            raise InputError("needs 0 <= least <= first <= most and steps of 1 or more", field="least, first, most")

    def start(self, n: int) -> Floats:
        """The first window, shape (n,)."""
        return np.full(n, float(self.first))

    def lengths(self, state: Floats, signals: Signals) -> Ints:  # noqa: ARG002 (the interface's argument)
        """The window."""
        return state.astype(np.int64)

    def learn(self, state: Floats, signals: Signals, drafted: Ints, accepted: Ints) -> Floats:  # noqa: ARG002
        """Up after a clean round, down after a rejection."""
        moved = np.where(accepted == drafted, state + self.up, state - self.down)
        return np.asarray(np.clip(moved, self.least, self.most))


@dataclass(frozen=True)
class ThresholdWindow:
    """One token more when a round's accepted share is at least ``grow``, one fewer when it is below ``shrink``.

    The dynamic window with two thresholds that DSD compares with (arXiv 2511.21669); its thresholds are not published.
    """

    most: int
    first: int
    grow: float
    shrink: float
    least: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.first <= self.most or not 0 <= self.shrink <= self.grow <= 1:
            raise InputError(
                "needs 1 <= least <= first <= most, 0 <= shrink <= grow <= 1", field="least, first, most, grow, shrink"
            )

    def start(self, n: int) -> Floats:
        """The first window, shape (n,)."""
        return np.full(n, float(self.first))

    def lengths(self, state: Floats, signals: Signals) -> Ints:  # noqa: ARG002 (the interface's argument)
        """The window."""
        return state.astype(np.int64)

    def learn(self, state: Floats, signals: Signals, drafted: Ints, accepted: Ints) -> Floats:  # noqa: ARG002
        """Compare the accepted share with both thresholds."""
        share = accepted / np.maximum(drafted, 1)
        moved = state + (share >= self.grow) - (share < self.shrink)
        return np.asarray(np.clip(moved, self.least, self.most))


@dataclass(frozen=True)
class Goodput:
    """SmartSpec's controller: the one K for the batch with most expected tokens per second, 0 included.

    Each request's acceptance rate is tracked as accepted over tested tokens with exponential forgetting (``decay`` a
    round); K maximises sum_r (1 - a_r^(K+1)) / (1 - a_r) over round_s(K, requests) (arXiv 2406.14066). While K is 0
    nothing is tested, so a batch probes with K = 1 in one round of ``probe_every`` (None: never; the estimate is then
    frozen). The published moving average has no printed constants: ``decay`` and ``prior`` are the caller's.
    """

    most: int
    round_s: Callable[[Ints, int], Floats]
    decay: float
    prior: float
    probe_every: int | None = None

    def __post_init__(self) -> None:
        if not 0 < self.decay <= 1 or not 0 < self.prior < 1:
            raise InputError("needs decay in (0, 1] and prior in (0, 1)", field="decay, prior")

    def start(self, n: int) -> Floats:
        """Accepted, tested and rounds of each request, shape (n, 3): one token's worth of prior."""
        return np.tile([self.prior, 1.0, 0.0], (n, 1))

    def rates(self, state: Floats) -> Floats:
        """Estimated conditional rate of each request."""
        return np.asarray(state[:, 0] / state[:, 1])

    def best(self, rates: Floats) -> int:
        """K with most goodput for requests of these rates; the smallest where several are equal."""
        k = np.arange(self.most + 1)
        tokens = expected_tokens_iid(np.asarray(rates)[:, None], k[None, :]).sum(axis=0)
        return int(np.argmax(tokens / self.round_s(k, len(rates))))

    def lengths(self, state: Floats, signals: Signals) -> Ints:  # noqa: ARG002 (the interface's argument)
        """The batch's K in every row."""
        k = self.best(self.rates(state))
        if k == 0 and self.probe_every and int(state[0, 2]) % self.probe_every == self.probe_every - 1:
            k = 1
        return np.full(len(state), k, dtype=np.int64)

    def learn(self, state: Floats, signals: Signals, drafted: Ints, accepted: Ints) -> Floats:  # noqa: ARG002
        """Forget a little, add what was accepted and what was tested (a round tests up to its first rejection)."""
        tested = np.minimum(accepted + 1, drafted)
        kept = np.where((drafted > 0)[:, None], self.decay * state[:, :2], state[:, :2])
        return np.column_stack([kept[:, 0] + accepted, kept[:, 1] + tested, state[:, 2] + 1.0])


@dataclass(frozen=True)
class MeanRejectedEntropy:
    """AdaSD's stop rule: draft while entropy <= T, T being the mean entropy of all tokens rejected so far.

    T starts at ``first_nats`` (0.5, said to be the default of the paper's experiments) and moves only when something
    is rejected (arXiv 2512.11280). The cap ``most`` is not in the paper.
    """

    most: int
    first_nats: float = 0.5

    def start(self, n: int) -> Floats:
        """Summed entropy and number of rejected tokens of each request, shape (n, 2)."""
        return np.zeros((n, 2))

    def threshold_nats(self, state: Floats) -> Floats:
        """T of each request."""
        return np.where(state[:, 1] > 0, state[:, 0] / np.maximum(state[:, 1], 1.0), self.first_nats)

    def lengths(self, state: Floats, signals: Signals) -> Ints:
        """First position whose entropy exceeds the request's own T, included."""
        shifted = Signals(
            signals.confidence, signals.entropy_nats - self.threshold_nats(state)[:, None], signals.acceptance
        )
        return EntropyThreshold(0.0, self.most).lengths(shifted)

    def learn(self, state: Floats, signals: Signals, drafted: Ints, accepted: Ints) -> Floats:
        """Add the entropy of the token rejected, where one was."""
        rejected = accepted < drafted
        at = np.minimum(accepted, signals.entropy_nats.shape[1] - 1)
        entropy = signals.entropy_nats[np.arange(len(at)), at]
        return np.asarray(state + np.column_stack([np.where(rejected, entropy, 0.0), rejected]))
