"""What a drafter shows before verification, jointly with what survives it: the signals that policies decide on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.checks import checked_k, checked_rates
from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

HERMITE_NODES, HERMITE_DEGREE = 128, 80
"""Quadrature and expansion of smooth functions of a normal signal; 80 terms leave survival exact to about 1e-9."""


@dataclass(frozen=True)
class Signals:
    """All that a policy may see of drafted chains; every array has shape (rounds, positions).

    confidence: the drafter's probability of the token it drafted. entropy_nats: of the law it drafted from. acceptance:
    a prediction of P(accepted | reached), made from the drafter's state before the token is drawn; calibrated where the
    process says so.
    """

    confidence: Floats
    entropy_nats: Floats
    acceptance: Floats

    @property
    def survival(self) -> Floats:
        """Predicted probability that the draft up to each position survives: a running product, never rising."""
        return np.asarray(np.cumprod(self.acceptance, axis=1))


@dataclass(frozen=True)
class Drafted:
    """Drafts before verification: the signals, and beside them, hidden from policies, the fate of each token.

    accepts: (rounds, positions), whether verification would accept the token if it were reached. contexts: what the
    process needs to go on from a position (its own business).
    """

    signals: Signals
    accepts: Bools
    contexts: NDArray[Any]


@runtime_checkable
class SignalProcess(Protocol):
    """A joint law of signals and acceptance, vectorised over requests, with a latent state a request.

    ``draft`` shows up to k positions; a policy picks a length for each row; ``settle`` verifies that much.
    """

    @property
    def name(self) -> str:
        """One line for reports."""
        ...

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Latent states of n new requests."""
        ...

    def draft(self, latent: NDArray[Any], k: int, rng: np.random.Generator) -> Drafted:
        """One round's draft of up to k tokens for every row of ``latent``."""
        ...

    def settle(self, drafted: Drafted, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, NDArray[Any]]:
        """Verify ``lengths[r]`` tokens of row r: accepted counts (bonus not counted), and the next latent."""
        ...


def accepted_prefix(accepts: Bools, lengths: Ints) -> Ints:
    """How many of the first ``lengths[r]`` tokens of row r are accepted before the first that is not, shape (rounds,).

    Raises InputError for a length that is negative or beyond what was drafted.
    """
    k = accepts.shape[1]
    if lengths.shape != (len(accepts),) or np.any(lengths < 0) or np.any(lengths > k):
        bad = int(lengths[(lengths < 0) | (lengths > k)][0]) if lengths.shape == (len(accepts),) else lengths.shape
        raise InputError(f"{bad} is no length of a draft of {k}; a policy returns 0..{k} for each row", field="lengths")
    alive = np.logical_and.accumulate(accepts, axis=1)
    return np.asarray(np.minimum(alive.sum(axis=1), lengths), dtype=np.int64)


@dataclass(frozen=True)
class CopulaSignals:
    """A signal tied to acceptance by a Gaussian copula, around given conditional rates.

    Position i has a normal score z_i; its token is accepted iff ``correlation * z_i + noise`` exceeds
    ``-probit(rate_i)``, so each position's rate is exactly ``rates[i]`` (the last is held beyond) and

        P(accepted | reached, z_i) = Phi((probit(rate_i) + correlation * z_i) / sqrt(1 - correlation^2)),

    which is the ``acceptance`` signal: calibrated, also jointly, since the noises are independent. Scores of
    neighbouring positions correlate by ``neighbour_correlation`` (AR(1)); rounds are independent. Margins, both
    assumed: confidence Phi(z), uniform; entropy -mean_entropy_nats * log Phi(z), exponential. A synthetic law:
    the copula is a choice, not a measurement.
    """

    rates: tuple[float, ...]
    correlation: float
    neighbour_correlation: float = 0.0
    mean_entropy_nats: float = 1.0

    def __post_init__(self) -> None:
        if not checked_rates(self.rates, field="rates").size or not all(0 < r < 1 for r in self.rates):
            raise InputError("needs conditional rates strictly between 0 and 1", field="rates")
        for field in ("correlation", "neighbour_correlation"):
            if not 0 <= getattr(self, field) < 1:
                raise InputError(f"{getattr(self, field)} is not in 0 <= value < 1", field=field)
        if not self.mean_entropy_nats > 0:
            raise InputError(f"{self.mean_entropy_nats} must be above 0", field="mean_entropy_nats")

    @property
    def name(self) -> str:
        """The kind of law and its parameters."""
        rates = ", ".join(f"{r:.3g}" for r in self.rates)
        both = f"signal correlation {self.correlation:g}, neighbours {self.neighbour_correlation:g}"
        return f"Gaussian copula, rates {rates}, {both}"

    @property
    def max_k(self) -> int | None:
        """None: the last rate is held."""
        return None

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:  # noqa: ARG002 (the interface's argument)
        """Nothing to remember between rounds: an array of shape (n, 0)."""
        return np.zeros((n, 0))

    def draft(self, latent: NDArray[Any], k: int, rng: np.random.Generator) -> Drafted:
        """Scores, their signals and independent coins, each of shape (rows, k)."""
        from scipy.special import ndtr

        z = rng.standard_normal((len(latent), checked_k(k)))
        fresh = np.sqrt(1.0 - self.neighbour_correlation**2)
        for i in range(1, k if self.neighbour_correlation else 0):
            z[:, i] = self.neighbour_correlation * z[:, i - 1] + fresh * z[:, i]
        confidence = np.asarray(ndtr(z))
        predicted = self._accept(z, self._probits(k))
        entropy = -self.mean_entropy_nats * np.log(np.maximum(confidence, 1e-300))
        return Drafted(Signals(confidence, entropy, predicted), rng.random(z.shape) < predicted, latent)

    def settle(self, drafted: Drafted, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, NDArray[Any]]:  # noqa: ARG002
        """Accepted counts, and the (empty) latent."""
        return accepted_prefix(drafted.accepts, lengths), drafted.contexts

    def verify(
        self, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        """Accepted counts of ``rounds`` full drafts, shape (requests, rounds): the acceptance process it implies."""
        rows = self.draft(np.zeros((len(latent) * rounds, 0)), k, rng)
        counts = np.logical_and.accumulate(rows.accepts, axis=1).sum(axis=1)
        return np.asarray(counts.reshape(len(latent), rounds), dtype=np.int64), latent

    def survival(self, k: int) -> Floats:
        """Exact survival, shape (k,): products of rates without memory; with it, a backward pass over Hermite terms.

        An AR(1) step multiplies the n-th Hermite coefficient of a function by neighbour_correlation^n (Mehler), so that
        E[prod_i P(accepted | z_i)] is a product of diagonal steps and pointwise multiplications.
        """
        probits = self._probits(k)
        if not self.neighbour_correlation or not self.correlation:
            return np.asarray(np.cumprod(self._rates(k)), dtype=np.float64)
        x, w = np.polynomial.hermite_e.hermegauss(HERMITE_NODES)
        w = w / w.sum()
        basis = np.polynomial.hermite_e.hermevander(x, HERMITE_DEGREE)
        basis = basis / np.sqrt(np.concatenate([[1.0], np.cumprod(np.arange(1.0, HERMITE_DEGREE + 1))]))
        step = (basis * self.neighbour_correlation ** np.arange(HERMITE_DEGREE + 1.0)) @ (basis.T * w)
        alive = np.ones(len(x))
        survival = np.empty(k)
        for i in range(k):
            alive = (step @ alive if i else alive) * self._accept(x, probits[i])
            survival[i] = w @ alive
        return survival

    def _rates(self, k: int) -> list[float]:
        return [self.rates[min(i, len(self.rates) - 1)] for i in range(k)]

    def _probits(self, k: int) -> Floats:
        from scipy.special import ndtri

        return np.asarray(ndtri(np.asarray(self._rates(k))), dtype=np.float64)

    def _accept(self, z: Floats, probit: Any) -> Floats:
        from scipy.special import ndtr

        return np.asarray(ndtr((probit + self.correlation * z) / np.sqrt(1.0 - self.correlation**2)))


@dataclass(frozen=True)
class RecordedSignals:
    """Rounds that were recorded, drawn again with replacement: signals and the accepted count of each.

    confidence, entropy_nats, acceptance: (rounds, positions). accepted: (rounds,). What lies beyond a recorded
    rejection was never observed and counts as rejected, so the recording must have drafted as far as a policy will.
    """

    signals: Signals
    accepted: Ints

    def __post_init__(self) -> None:
        shapes = {a.shape for a in (self.signals.confidence, self.signals.entropy_nats, self.signals.acceptance)}
        if len(shapes) != 1 or self.accepted.shape != (len(self.signals.confidence),) or not self.accepted.size:
            raise InputError("needs equal (rounds, positions) signals and one accepted count a round", field="signals")
        if np.any(self.accepted < 0) or np.any(self.accepted > self.signals.confidence.shape[1]):
            raise InputError("an accepted count exceeds what was drafted", field="accepted")

    @property
    def name(self) -> str:
        """How much was recorded."""
        return f"{len(self.accepted)} recorded rounds of {self.signals.confidence.shape[1]} drafted tokens"

    @property
    def max_k(self) -> int | None:
        """Positions recorded."""
        return int(self.signals.confidence.shape[1])

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:  # noqa: ARG002 (the interface's argument)
        """Nothing to remember between rounds."""
        return np.zeros((n, 0))

    def draft(self, latent: NDArray[Any], k: int, rng: np.random.Generator) -> Drafted:
        """A recorded round for each row, cut to k positions."""
        if checked_k(k) > self.signals.confidence.shape[1]:
            raise InputError(f"{k} exceeds the {self.max_k} positions recorded", field="k")
        rows = rng.integers(len(self.accepted), size=len(latent))
        s = self.signals
        shown = Signals(s.confidence[rows, :k], s.entropy_nats[rows, :k], s.acceptance[rows, :k])
        return Drafted(shown, np.arange(k) < self.accepted[rows, None], latent)

    def settle(self, drafted: Drafted, lengths: Ints, rng: np.random.Generator) -> tuple[Ints, NDArray[Any]]:  # noqa: ARG002
        """Accepted counts, and the (empty) latent."""
        return accepted_prefix(drafted.accepts, lengths), drafted.contexts

    def survival(self, k: int) -> Floats:
        """Shares of the recorded rounds, shape (k,)."""
        return np.asarray((self.accepted[:, None] > np.arange(checked_k(k))).mean(axis=0))
