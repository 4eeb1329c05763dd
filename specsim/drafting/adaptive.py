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
class ShareWindow:
    """Three windows by the accepted share of drafted tokens so far: ``least`` up to ``shrink``, ``most`` from ``grow``.

    Anything between drafts ``first``. The released back-off of DSD (arXiv 2511.21669): 2, 4 or 8 at shares of .25 and
    .6, chosen once a conversation; here the share forgets (``decay`` a round, assumed) and every round decides.
    """

    least: int
    first: int
    most: int
    shrink: float
    grow: float
    decay: float = 0.8

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.first <= self.most or not 0 <= self.shrink < self.grow <= 1:
            raise InputError(
                "needs 1 <= least <= first <= most, 0 <= shrink < grow <= 1", field="least, first, most, shrink, grow"
            )
        if not 0 <= self.decay <= 1:
            raise InputError(f"{self.decay}; give 0..1", field="decay")

    def start(self, n: int) -> Floats:
        """Accepted and drafted tokens so far, shape (n, 2)."""
        return np.zeros((n, 2))

    def lengths(self, state: Floats, signals: Signals) -> Ints:  # noqa: ARG002 (the interface's argument)
        """The window of the share so far; ``first`` before anything was drafted."""
        share = state[:, 0] / np.maximum(state[:, 1], 1e-12)
        known = state[:, 1] > 0
        low, high = known & (share <= self.shrink), known & (share >= self.grow)
        return np.asarray(np.where(low, self.least, np.where(high, self.most, self.first)), dtype=np.int64)

    def learn(self, state: Floats, signals: Signals, drafted: Ints, accepted: Ints) -> Floats:  # noqa: ARG002
        """Forget a little, add the round."""
        return np.asarray(self.decay * state + np.column_stack([accepted, drafted]))


@dataclass(frozen=True)
class SurvivalWindow:
    """The longest window that is rejected somewhere with probability ``risk`` at most: 1 - a^K <= risk, in 1..most.

    a: accepted over tested tokens so far, each round forgetting (``decay``, assumed), from ``prior``. SpecDec++'s rule
    (arXiv 2405.19715) as DSD's released code states it for a window (risk 0.7, most 8), where a trained classifier
    gives each position's acceptance.
    """

    most: int
    risk: float
    prior: float = 0.7
    decay: float = 0.9

    def __post_init__(self) -> None:
        if self.most < 1 or not 0 < self.risk < 1 or not 0 < self.prior < 1 or not 0 < self.decay <= 1:
            raise InputError(
                "needs most >= 1, risk and prior in (0, 1), decay in (0, 1]", field="most, risk, prior, decay"
            )

    def start(self, n: int) -> Floats:
        """Accepted and tested tokens, shape (n, 2): one token's worth of prior."""
        return np.tile([self.prior, 1.0], (n, 1))

    def lengths(self, state: Floats, signals: Signals) -> Ints:  # noqa: ARG002 (the interface's argument)
        """floor(log(1 - risk) / log a), within 1..most."""
        rate = np.clip(state[:, 0] / state[:, 1], 1e-9, 1 - 1e-9)
        return np.asarray(np.clip(np.floor(np.log1p(-self.risk) / np.log(rate)), 1, self.most), dtype=np.int64)

    def learn(self, state: Floats, signals: Signals, drafted: Ints, accepted: Ints) -> Floats:  # noqa: ARG002
        """Forget a little, add what was accepted and what was tested."""
        return np.asarray(self.decay * state + np.column_stack([accepted, np.minimum(accepted + 1, drafted)]))


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
