"""Acceptance replayed from what real requests did, round by round or drawn from their histograms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import Sample
from specsim.acceptance.checks import checked_k
from specsim.acceptance.conversions import survival_from_histogram
from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@dataclass(frozen=True)
class Recorded:
    """Accepted counts of real requests, all drafted with K = ``recorded_k`` tokens, replayed to simulated ones.

    rounds: for each recorded request its accepted counts in order (bonus not counted). A simulated request takes a
    recorded one, drawn in proportion to its tokens, and follows it from a random round on, around the end to the start
    (a circular bootstrap): so requests differ, and rounds remember, as they did. Simulated requests of like output
    length then show the pooled survival of the record, which is what server counters show.

    A shorter draft cuts every count at K. That ignores that rounds would have started elsewhere: its first position
    reads a few per cent low. A longer draft was not observed and raises InputError.
    """

    rounds: tuple[tuple[int, ...], ...]
    recorded_k: int

    def __post_init__(self) -> None:
        if not self.rounds or not all(len(request) for request in self.rounds):
            raise InputError("needs at least one request, each with at least one round", field="per_step_accepted")
        low, high = min(map(min, self.rounds)), max(map(max, self.rounds))
        if low < 0 or high > self.recorded_k:
            raise InputError(
                f"{low if low < 0 else high} accepted is outside 0..{self.recorded_k}; the bonus token is not counted",
                field="per_step_accepted",
            )

    @property
    def name(self) -> str:
        """How much was recorded, at which K."""
        total = sum(map(len, self.rounds))
        return f"{len(self.rounds)} recorded requests replayed ({total} rounds at K = {self.recorded_k})"

    @property
    def max_k(self) -> int | None:
        """The K at which the record was made."""
        return self.recorded_k

    @property
    def sample(self) -> Sample:
        """Rounds, requests and the spread of their lengths."""
        own = np.array([1.0 + np.mean(request) for request in self.rounds])
        spread = float(own.std(ddof=1)) if len(own) > 1 else None
        return Sample(rounds=sum(map(len, self.rounds)), requests=len(own), request_length_sd=spread)

    def survival(self, k: int) -> Floats:
        """Share of recorded rounds that accepted at least 1..k tokens, shape (k,)."""
        checked_k(k)
        if k > self.recorded_k:
            raise InputError(
                f"recorded with {self.recorded_k} drafted tokens, asked for {k}; ask for at most {self.recorded_k},"
                " or record with a longer draft",
                field="num_speculative_tokens",
            )
        counts = np.bincount(self._flat()[0], minlength=self.recorded_k + 1)
        return survival_from_histogram(counts)[:k]

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Recorded request and round that n new requests begin at, shape (n, 2)."""
        _, _, lengths, tokens = self._flat()
        request = rng.choice(len(lengths), size=n, p=tokens / tokens.sum())
        return np.column_stack([request, rng.integers(0, lengths[request])])

    def verify(
        self,
        latent: NDArray[Any],
        k: int,
        rng: np.random.Generator,  # noqa: ARG002 (the interface's argument)
        *,
        rounds: int = 1,
    ) -> tuple[Ints, NDArray[Any]]:
        """The next recorded counts, cut at k, shape (requests, rounds); nothing is drawn."""
        if k > self.recorded_k:
            self.survival(k)
        flat, offsets, lengths, _ = self._flat()
        request = latent[:, 0]
        at = (latent[:, 1, None] + np.arange(rounds)) % lengths[request, None]
        after = np.column_stack([request, (latent[:, 1] + rounds) % lengths[request]])
        return np.minimum(flat[offsets[request, None] + at], k), after

    def _flat(self) -> tuple[Ints, Ints, Ints, Floats]:
        kept: dict[str, tuple[Ints, Ints, Ints, Floats]] = self.__dict__.setdefault("_arrays", {})
        if not kept:
            flat = np.concatenate([np.asarray(request, dtype=np.int64) for request in self.rounds])
            lengths = np.array([len(request) for request in self.rounds], dtype=np.int64)
            offsets = np.concatenate([[0], np.cumsum(lengths)[:-1]])
            tokens = np.add.reduceat(flat, offsets) + lengths
            kept["all"] = (flat, offsets, lengths, tokens.astype(np.float64))
        return kept["all"]


@dataclass(frozen=True)
class RecordedHistograms:
    """Histograms of real requests: each simulated request draws its rounds independently from one recorded request's.

    histograms: for each recorded request, rounds that accepted 0..K tokens (K + 1 numbers, bonus not counted). It keeps
    the spread between requests and forgets the order of rounds; requests are drawn in proportion to their tokens.
    """

    histograms: tuple[tuple[int, ...], ...]

    def __post_init__(self) -> None:
        widths = {len(h) for h in self.histograms}
        if len(widths) != 1 or min(widths) < 2:
            raise InputError(
                f"must all have the same K + 1 >= 2 numbers, found {sorted(widths)}", field="acceptance_histogram"
            )
        survival_from_histogram(np.asarray(self.histograms))

    @property
    def name(self) -> str:
        """How much was recorded, at which K."""
        total = int(np.asarray(self.histograms).sum())
        return f"histograms of {len(self.histograms)} recorded requests ({total} rounds at K = {self.max_k})"

    @property
    def max_k(self) -> int | None:
        """The K at which the record was made."""
        return len(self.histograms[0]) - 1

    @property
    def sample(self) -> Sample:
        """Rounds, requests and the spread of their lengths."""
        counts = np.asarray(self.histograms)
        own = 1.0 + survival_from_histogram(counts).sum(axis=1)
        spread = float(own.std(ddof=1)) if len(own) > 1 else None
        return Sample(rounds=int(counts.sum()), requests=len(own), request_length_sd=spread)

    def survival(self, k: int) -> Floats:
        """Share of recorded rounds that accepted at least 1..k tokens, shape (k,)."""
        pooled = survival_from_histogram(np.asarray(self.histograms).sum(axis=0))
        if checked_k(k) > len(pooled):
            raise InputError(
                f"recorded with {len(pooled)} drafted tokens, asked for {k}; ask for at most {len(pooled)},"
                " or record with a longer draft",
                field="num_speculative_tokens",
            )
        return pooled[:k]

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Recorded requests that n new ones follow, shape (n,)."""
        counts = np.asarray(self.histograms, dtype=np.float64)
        tokens = counts @ np.arange(1.0, counts.shape[1] + 1.0)
        return rng.choice(len(counts), size=n, p=tokens / tokens.sum())

    def verify(
        self, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        """Accepted counts from each request's own histogram, cut at k, shape (requests, rounds)."""
        if k > len(self.histograms[0]) - 1:
            self.survival(k)
        own = self.__dict__.setdefault("_own", survival_from_histogram(np.asarray(self.histograms)))[latent, :k]
        u = rng.random((len(latent), rounds))
        counts = np.zeros(u.shape, dtype=np.int64)
        for i in range(k):
            counts += u < own[:, i, None]
        return counts, latent
