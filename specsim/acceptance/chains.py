"""Acceptance processes whose rounds are independent: all they need is a survival for each draft length."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.checks import checked_k, checked_length, checked_rates, checked_survival
from specsim.acceptance.conversions import conditional_from_survival, iid_rate_from_length, survival_from_conditional
from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Sample:
    """How much was observed: what a standard error can be computed from.

    rounds: draft/verify rounds counted. requests: requests they came from. request_length_sd: standard deviation
    between requests of their own acceptance length; request_weighted_length: mean of these. mean_completion_tokens:
    mean output of a request.
    """

    rounds: int | None = None
    requests: int | None = None
    request_length_sd: float | None = None
    request_weighted_length: float | None = None
    mean_completion_tokens: float | None = None


class _Summary(Protocol):
    def survival(self, k: int) -> Floats: ...


class _IndependentRounds:
    """Rounds that depend on nothing before them: one uniform number a round, looked up in the survival."""

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:  # noqa: ARG002 (the interface's argument)
        """Nothing to remember: an array of shape (n, 0)."""
        return np.zeros((n, 0))

    def verify(
        self: _Summary, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        """Accepted counts, shape (requests, rounds): how many survival values lie above a uniform number."""
        return accepted_counts(_ascending(self, k), len(latent), rounds, rng), latent


def accepted_counts(ascending: Floats, requests: int, rounds: int, rng: np.random.Generator) -> Ints:
    """Independent draws of the accepted count, shape (requests, rounds), from survival in ascending order."""
    k = len(ascending)
    if k == 0:
        return np.zeros((requests, rounds), dtype=np.int64)
    u = rng.random((requests, rounds))
    return k - np.searchsorted(ascending, u, side="right")


def _ascending(process: _Summary, k: int) -> Floats:
    """Survival in ascending order, kept beside the fields: the simulator asks for it at every step."""
    kept: dict[int, Floats] = process.__dict__.setdefault("_ascending", {})
    if k not in kept:
        kept[k] = np.ascontiguousarray(process.survival(k)[::-1])
    return kept[k]


@dataclass(frozen=True)
class Iid(_IndependentRounds):
    """Every drafted token that is reached is accepted with one probability (arXiv 2211.17192).

    rate: the conditional rate. sample: how much it was observed on, where known.
    """

    rate: float
    sample: Sample | None = None

    def __post_init__(self) -> None:
        checked_rates(self.rate, field="rate")

    @property
    def name(self) -> str:
        """The kind of process and its rate."""
        return f"i.i.d. acceptance, conditional rate {self.rate:.3g} at every position"

    @property
    def max_k(self) -> int | None:
        """None: defined for any length."""
        return None

    def survival(self, k: int) -> Floats:
        """``rate ** (i + 1)``, shape (k,)."""
        return np.asarray(self.rate ** np.arange(1.0, checked_k(k) + 1.0))


@dataclass(frozen=True)
class PerPosition(_IndependentRounds):
    """Conditional rates by position: ``conditional[i]`` = P(token i+1 accepted | the i before it accepted).

    Beyond the last position its rate is held; ``notes.evidence_note`` says so for a draft length.
    """

    conditional: tuple[float, ...]
    sample: Sample | None = None

    def __post_init__(self) -> None:
        if not checked_rates(self.conditional, field="per_position").size:
            raise InputError("is empty; give one conditional rate for each drafted position", field="per_position")

    @property
    def name(self) -> str:
        """The kind of process and its rates."""
        return f"conditional acceptance by position ({_figures(self.conditional)})"

    @property
    def max_k(self) -> int | None:
        """Number of positions given."""
        return len(self.conditional)

    def survival(self, k: int) -> Floats:
        """Running product of the conditional rates, shape (k,)."""
        return survival_from_conditional(_held(np.asarray(self.conditional, dtype=np.float64), checked_k(k)))


@dataclass(frozen=True)
class Survival(_IndependentRounds):
    """Survival by position, as vLLM's per-position acceptance rates give it: ``values[i]`` = P(first i+1 survive).

    Beyond the last position its conditional rate is held; ``notes.evidence_note`` says so for a draft length.
    """

    values: tuple[float, ...]
    sample: Sample | None = None

    def __post_init__(self) -> None:
        if not checked_survival(self.values, field="survival").size:
            raise InputError("is empty; give one survival probability for each drafted position", field="survival")

    @property
    def name(self) -> str:
        """The kind of process and its survival."""
        return f"survival by position ({_figures(self.values)})"

    @property
    def max_k(self) -> int | None:
        """Number of positions given."""
        return len(self.values)

    def survival(self, k: int) -> Floats:
        """The values given, cut or continued to shape (k,)."""
        values = np.minimum.accumulate(np.asarray(self.values, dtype=np.float64))
        if checked_k(k) <= len(values):
            return values[:k].copy()
        last = conditional_from_survival(values)[-1]
        more = values[-1] * last ** np.arange(1.0, k - len(values) + 1.0)
        return np.concatenate([values, more])


@dataclass(frozen=True)
class LengthOnly(_IndependentRounds):
    """An acceptance length (bonus included) known at one draft length, and nothing else.

    The curve is *inferred*: the equal conditional rates with the same length at that K. Real drafters are not i.i.d.,
    so at any other K this is an extrapolation, of either sign (``docs/theory.md`` shows by how much on real chats).
    """

    length: float
    at_k: int
    sample: Sample | None = None

    def __post_init__(self) -> None:
        if checked_k(self.at_k, field="at_k") < 1:
            raise InputError("0: a length at K = 0 says nothing about acceptance; give at_k >= 1", field="at_k")
        checked_length(self.length, self.at_k, field="length")

    @property
    def rate(self) -> float:
        """The i.i.d. rate with the same length at the same K."""
        return float(iid_rate_from_length(self.length, self.at_k))

    @property
    def name(self) -> str:
        """The kind of process, and how its curve was inferred."""
        return (
            f"acceptance length {self.length:.4g} at K = {self.at_k} (bonus included); curve inferred as i.i.d. with"
            f" conditional rate {self.rate:.3g}, so every other K is extrapolated"
        )

    @property
    def max_k(self) -> int | None:
        """The K at which the length is known."""
        return self.at_k

    def survival(self, k: int) -> Floats:
        """Powers of the inferred rate, shape (k,)."""
        return np.asarray(self.rate ** np.arange(1.0, checked_k(k) + 1.0))


@dataclass(frozen=True)
class MeasuredLength:
    """Conditional rates measured while drafting exactly ``k = len(conditional)`` tokens."""

    conditional: tuple[float, ...]
    sample: Sample | None = None

    def __post_init__(self) -> None:
        if not checked_rates(self.conditional, field="conditional").size:
            raise InputError("is empty; a row needs K >= 1 conditional rates", field="conditional")

    @property
    def k(self) -> int:
        """The draft length of the row."""
        return len(self.conditional)


@dataclass(frozen=True)
class ByDraftLength(_IndependentRounds):
    """Survival that depends on the draft length itself, measured at several K.

    Even a chain's first position does (.699 at K = 1, .662 at K = 10 on one real set): a longer draft is more often
    cut at a hard token, and the next round starts right after it. Between measured K the conditional rate of each
    position is interpolated linearly in K (a position that only the longer row has is taken from it). Below the
    smallest K its row is cut; beyond the largest its last rate is held: ``notes.evidence_note`` says when.
    """

    rows: tuple[MeasuredLength, ...]
    label: str = ""

    def __post_init__(self) -> None:
        lengths = [row.k for row in self.rows]
        if not lengths:
            raise InputError("is empty; give conditional rates for at least one draft length", field="by_draft_length")
        if sorted(set(lengths)) != lengths:
            raise InputError(f"K = {lengths} must rise without repeats", field="by_draft_length")

    @property
    def name(self) -> str:
        """The kind of process, its label and the draft lengths measured."""
        measured = ", ".join(str(row.k) for row in self.rows)
        label = f" ({self.label})" if self.label else ""
        return f"conditional acceptance by position, measured at K = {measured}{label}"

    @property
    def max_k(self) -> int | None:
        """Largest K measured."""
        return self.rows[-1].k

    def row(self, k: int) -> MeasuredLength | None:
        """The row measured at exactly this K, if there is one."""
        return next((row for row in self.rows if row.k == k), None)

    def survival(self, k: int) -> Floats:
        """Running product of the conditional rates at this K, shape (k,)."""
        below = [row for row in self.rows if row.k <= checked_k(k)]
        above = [row for row in self.rows if row.k >= k]
        if not below or not above:
            nearest = (below or above)[-1 if below else 0]
            return survival_from_conditional(_held(np.asarray(nearest.conditional, dtype=np.float64), k))
        low, high = below[-1], above[0]
        rates = np.array(high.conditional[:k], dtype=np.float64)
        if low.k < high.k:
            share = (k - low.k) / (high.k - low.k)
            rates[: low.k] = (1 - share) * np.asarray(low.conditional) + share * rates[: low.k]
        return survival_from_conditional(rates)


def _held(rates: Floats, k: int) -> Floats:
    return rates[:k] if k <= len(rates) else np.concatenate([rates, np.full(k - len(rates), rates[-1])])


def _figures(values: tuple[float, ...]) -> str:
    return ", ".join(f"{value:.3f}" for value in values)
