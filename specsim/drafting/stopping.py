"""How far to draft, from what the drafter shows: rules that stop a chain, vectorised over rounds.

A rule maps ``Signals`` to one length a row. It never sees what is accepted, and reads no position beyond the one at
which it stops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.signals import Bools, Ints, Signals
from specsim.errors import InputError

Floats = NDArray[np.float64]

EXTRA = {"verify": 1, "drop": 0}
"""Tokens of the draft beyond the last sure one, by what happens to the token at which a rule stops."""


@runtime_checkable
class LengthPolicy(Protocol):
    """Decides how many tokens of each draft are drafted and verified."""

    @property
    def most(self) -> int:
        """Longest draft it ever asks for."""
        ...

    def lengths(self, signals: Signals) -> Ints:
        """Lengths, shape (rounds,), each in 0..positions shown."""
        ...


@dataclass(frozen=True)
class FixedLength:
    """Always ``k`` tokens: a static window."""

    k: int

    def __post_init__(self) -> None:
        _checked_most(self.k)

    @property
    def most(self) -> int:
        """The window."""
        return self.k

    def lengths(self, signals: Signals) -> Ints:
        """The window in every row (fewer where fewer positions are shown)."""
        rows, shown = signals.confidence.shape
        return np.full(rows, min(self.k, shown), dtype=np.int64)


@dataclass(frozen=True)
class ConfidenceThreshold:
    """Draft until a token's confidence is below ``threshold``.

    unsure: "verify" sends that token to the target too (Hugging Face's assistant_confidence_threshold); "drop" throws
    it away, its pass spent (BiLD's fallback, arXiv 2302.07863: the draft is one shorter than its passes).
    """

    threshold: float
    most: int
    unsure: Literal["verify", "drop"] = "verify"

    def __post_init__(self) -> None:
        _checked_most(self.most)

    def lengths(self, signals: Signals) -> Ints:
        """First position below the threshold, that one included if it is verified."""
        return _until(signals.confidence < self.threshold, self.most, extra=EXTRA[self.unsure])


@dataclass(frozen=True)
class EntropyThreshold:
    """Draft until the law of a token has more than ``threshold_nats`` of entropy; that token is verified too."""

    threshold_nats: float
    most: int

    def __post_init__(self) -> None:
        _checked_most(self.most)

    def lengths(self, signals: Signals) -> Ints:
        """First position above the threshold, included."""
        return _until(signals.entropy_nats > self.threshold_nats, self.most, extra=1)


@dataclass(frozen=True)
class SurvivalThreshold:
    """Draft a token only while the predicted survival of the draft with it exceeds ``threshold``.

    With threshold = best tokens per second x marginal seconds (``specsim.theory.stopping``) and calibrated predictions
    it is the optimal rule: survival never rises, so the one-step rule is optimal (Chow and Robbins' monotone case).
    ``unsure = "verify"`` is for predictions that a token's own pass gives: the one that falls has been drafted, so it
    is verified too (SpecDec++, arXiv 2405.19715).
    """

    threshold: float
    most: int
    least: int = 0
    unsure: Literal["verify", "drop"] = "drop"

    def __post_init__(self) -> None:
        _checked_most(self.most)
        if not 0 <= self.least <= self.most:
            raise InputError(f"{self.least} is not in 0..{self.most}", field="least")

    def lengths(self, signals: Signals) -> Ints:
        """Positions before predicted survival reaches the threshold."""
        stopped = _until(signals.survival <= self.threshold, self.most, extra=EXTRA[self.unsure])
        return np.maximum(stopped, min(self.least, signals.confidence.shape[1]))


def optimal_stopping(
    survival_paths: Floats, *, round_s: float, marginal_s: float, most: int
) -> tuple[SurvivalThreshold, float]:
    """The rule with most tokens per second for calibrated survival predictions, and that rate.

    survival_paths: (rounds, positions) sampled predictions, ``Signals.survival``. round_s: seconds of a round before
    its first drafted token; marginal_s: of each drafted token, its share of verification included.
    """
    from specsim.theory.stopping import optimal_stopping_rate, stopping_threshold

    rate = optimal_stopping_rate(survival_paths, round_s=round_s, marginal_s=marginal_s, max_k=most)
    return SurvivalThreshold(stopping_threshold(rate, marginal_s), most), rate


@dataclass(frozen=True)
class AccumulateUntil:
    """A stage of a chain asks the one below for blocks until it holds at least ``tokens``.

    ``held`` maps what each inner round adds, (rounds, blocks), to (tokens held, blocks asked); it overshoots.
    """

    tokens: int

    def __post_init__(self) -> None:
        if self.tokens < 1:
            raise InputError(f"{self.tokens}; give 1 or more", field="tokens")

    def held(self, added: Ints) -> tuple[Ints, Ints]:
        """Tokens held when the threshold is first reached, and the inner rounds it took; raises if it never is."""
        total = np.cumsum(added, axis=1)
        enough = total >= self.tokens
        if not np.all(enough[:, -1]):
            raise InputError(f"{added.shape[1]} inner rounds don't reach {self.tokens} tokens", field="added")
        at = np.argmax(enough, axis=1)
        return total[np.arange(len(total)), at], at + 1


def _until(stop: Bools, most: int, *, extra: int) -> Ints:
    """Columns before the first True, plus ``extra`` where there is one, at most ``most``."""
    shown = min(most, stop.shape[1])
    if shown == 0:
        return np.zeros(len(stop), dtype=np.int64)
    cut = stop[:, :shown]
    first = np.where(cut.any(axis=1), np.argmax(cut, axis=1) + extra, shown)
    return np.asarray(np.minimum(first, shown), dtype=np.int64)


def _checked_most(most: int) -> None:
    if isinstance(most, bool) or int(most) != most or most < 0:
        raise InputError(f"{most!r} is not a draft length; give a whole number, 0 or more", field="most")
