"""Requests that differ: easy ones, hard ones, and stretches within one, around a survival that is kept exactly."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.checks import checked_k
from specsim.acceptance.process import AcceptanceProcess
from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

REQUEST_NODES, ROUND_NODES = 80, 32
"""Gauss-Hermite nodes of the two normal laws; 80 leave the mean survival exact to about 1e-10 up to sd 2."""


@dataclass(frozen=True)
class Heterogeneous:
    """A base process whose conditional rates a request shifts, on the logit scale, up or down together.

    Round t of request r accepts position i, once reached, with probability ``sigmoid(c_i + b_r + w_rt)``:
    b ~ Normal(0, between_requests_sd) is drawn once a request; w is a stationary Normal(0, within_requests_sd) process
    of the rounds with correlation ``round_correlation`` between one round and the next. The c_i are solved so that the
    mean survival is the base's.

    weight: what that mean is over. "rounds" (server counters, vLLM's metrics): a request counts by its rounds, which
    for requests of like output length are inversely proportional to its tokens per round, so the *harmonic* mean of
    the requests' lengths is kept. "requests": each counts alike, and the arithmetic mean is kept.
    """

    base: AcceptanceProcess
    between_requests_sd: float
    within_requests_sd: float = 0.0
    round_correlation: float = 0.0
    weight: Literal["rounds", "requests"] = "rounds"

    def __post_init__(self) -> None:
        for field in ("between_requests_sd", "within_requests_sd"):
            value = getattr(self, field)
            if not 0 <= value <= 4:
                raise InputError(
                    f"{value} is not a spread on the logit scale; give 0..4 (real sets show 0.25 to 0.8)", field=field
                )
        if not 0 <= self.round_correlation < 1:
            raise InputError(
                f"{self.round_correlation} is not a correlation between rounds; give 0 <= value < 1"
                " (what lasts for a whole request is between_requests_sd)",
                field="round_correlation",
            )
        if self.round_correlation and not self.within_requests_sd:
            raise InputError(
                "has no effect without within_requests_sd > 0; give both or neither", field="round_correlation"
            )
        if self.weight not in ("rounds", "requests"):
            raise InputError(f"{self.weight!r} is unknown; give 'rounds' or 'requests'", field="weight")

    @property
    def name(self) -> str:
        """The base, the spread around it and what the mean is over."""
        within = ""
        if self.within_requests_sd:
            within = f", {self.within_requests_sd:g} between rounds (correlation {self.round_correlation:g})"
        return (
            f"{self.base.name}; logit-normal spread {self.between_requests_sd:g} between requests{within},"
            f" mean over {self.weight} kept"
        )

    @property
    def max_k(self) -> int | None:
        """The base's."""
        return self.base.max_k

    def survival(self, k: int) -> Floats:
        """The base's survival, shape (k,)."""
        return self.base.survival(k)

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Shifts of n new requests, shape (n, 2): the request's own, and that of its first round."""
        return np.asarray(rng.standard_normal((n, 2)) * [self.between_requests_sd, self.within_requests_sd])

    def verify(
        self, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        """Accepted counts, shape (requests, rounds), and the shifts after them."""
        if checked_k(k) == 0 or rounds == 0:
            return np.zeros((len(latent), rounds), dtype=np.int64), latent
        centres = self.centres(k)
        u = rng.random((len(latent), rounds))
        if not self.within_requests_sd:
            return _accepted(u, _survivals(centres, latent[:, :1])), latent
        shifts = np.empty_like(u)
        shifts[:, 0] = latent[:, 1]
        fresh = self.within_requests_sd * np.sqrt(1.0 - self.round_correlation**2)
        noise = rng.standard_normal(u.shape) * fresh
        for t in range(1, rounds):
            shifts[:, t] = self.round_correlation * shifts[:, t - 1] + noise[:, t - 1]
        after = np.column_stack([latent[:, 0], self.round_correlation * shifts[:, -1] + noise[:, -1]])
        return _accepted(u, _survivals(centres, latent[:, :1] + shifts)), after

    def centres(self, k: int) -> Floats:
        """The c_i of a draft length, shape (k,): logits of the conditional rates where all shifts are 0."""
        kept: dict[int, Floats] = self.__dict__.setdefault("_centres", {})
        if k not in kept:
            kept[k] = self._solve(k)
        return kept[k]

    def length_sd(self, k: int) -> float:
        """Standard deviation between requests (each counting alike) of their own long-run acceptance length."""
        between, p, within, q = self._nodes()
        lengths = _lengths(self.centres(k), between, within, q)
        mean = p @ lengths
        return float(np.sqrt(float(p @ (lengths - mean) ** 2)))

    def request_weighted_length(self, k: int) -> float:
        """Mean over requests (each counting alike) of their own long-run acceptance length, bonus included."""
        between, p, within, q = self._nodes()
        return float(p @ _lengths(self.centres(k), between, within, q))

    def _nodes(self) -> tuple[Floats, Floats, Floats, Floats]:
        between, p = _normal_nodes(self.between_requests_sd, REQUEST_NODES)
        within, q = _normal_nodes(self.within_requests_sd, ROUND_NODES)
        return between, p, within, q

    def _solve(self, k: int) -> Floats:
        """Sequentially one root a position under the rounds' law, that law from the lengths, until both agree."""
        target = self.base.survival(k)
        between, p, within, q = self._nodes()
        shift = between[:, None] + within[None, :]
        share = p
        centres = np.zeros(k)
        for _ in range(200):
            centres = _centres_under(share[:, None] * q[None, :], shift, target, centres)
            if self.weight == "requests":
                break
            per_round = p / _lengths(centres, between, within, q)
            updated = per_round / per_round.sum()
            moved = float(np.abs(updated - share).max())
            share = updated
            if moved < 1e-14:
                break
        return centres


def _normal_nodes(sd: float, n: int) -> tuple[Floats, Floats]:
    if sd == 0:
        return np.zeros(1), np.ones(1)
    x, w = (np.asarray(a, dtype=np.float64) for a in np.polynomial.hermite_e.hermegauss(n))
    return x * sd, w / w.sum()


def _sigmoid(x: Floats) -> Floats:
    return np.asarray(0.5 * (1.0 + np.tanh(0.5 * x)))


def _survivals(centres: Floats, shift: Floats) -> Floats:
    """Survival of each shift, shape (*shift's, k); a shift of shape (n, 1) stands for all rounds."""
    return np.asarray(np.cumprod(_sigmoid(centres + shift[..., None]), axis=-1), dtype=np.float64)


def _accepted(u: Floats, survivals: Floats) -> Ints:
    counts = np.zeros(u.shape, dtype=np.int64)
    for i in range(survivals.shape[-1]):
        counts += u < survivals[..., i]
    return counts


def _lengths(centres: Floats, between: Floats, within: Floats, q: Floats) -> Floats:
    """Tokens per round of a request with each shift ``between``, its rounds averaged."""
    survivals = _survivals(centres, between[:, None] + within[None, :])
    return np.asarray(1.0 + survivals.sum(axis=-1) @ q)


def _centres_under(weights: Floats, shift: Floats, target: Floats, start: Floats) -> Floats:
    """Logits whose mean survival under ``weights`` is the target, one position after the other."""
    alive = weights.copy()
    centres = np.empty(len(target))
    before = 1.0
    for i, goal in enumerate(target):
        if goal <= 0.0 or goal >= before:
            centres[i] = -np.inf if goal <= 0.0 else np.inf
        else:
            centres[i] = _root(alive, shift, float(goal), float(start[i]))
        alive = alive * _sigmoid(centres[i] + shift)
        before = goal
    return centres


def _root(alive: Floats, shift: Floats, goal: float, start: float) -> float:
    """The centre at which ``sum(alive * sigmoid(centre + shift))`` is the goal: Newton inside a shrinking bracket."""
    low, high = -60.0, 60.0
    x = start if np.isfinite(start) else 0.0
    for _ in range(100):
        rate = _sigmoid(x + shift)
        excess = float((alive * rate).sum()) - goal
        if excess > 0:
            high = x
        else:
            low = x
        slope = float((alive * rate * (1.0 - rate)).sum())
        nxt = x - excess / slope if slope > 0 else np.inf
        if not low < nxt < high:
            nxt = 0.5 * (low + high)
        if abs(nxt - x) < 1e-13 * max(1.0, abs(x)):
            return float(nxt)
        x = float(nxt)
    return x
