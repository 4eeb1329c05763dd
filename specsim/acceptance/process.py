"""The interface of an acceptance process: what survives of a draft, round after round, request by request."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


@runtime_checkable
class AcceptanceProcess(Protocol):
    """What survives of drafted chains, vectorised over requests.

    ``survival`` is the summary that formulas use; ``start`` and ``verify`` are the process that the simulator runs.
    A process is immutable: everything that changes between rounds is in the latent array, one row a request.
    """

    @property
    def name(self) -> str:
        """One line for reports: the kind of process and what it was made from."""
        ...

    @property
    def max_k(self) -> int | None:
        """Longest draft that the evidence covers; None where the process is defined for any length."""
        ...

    def survival(self, k: int) -> Floats:
        """``survival(k)[i]`` = P(the first i+1 of k drafted tokens all survive), a long-run share of rounds.

        Shape (k,).
        """
        ...

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        """Latent states of n new requests; axis 0 is the request."""
        ...

    def verify(
        self, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        """Run ``rounds`` consecutive rounds of k drafted tokens for every request in ``latent``.

        Returns accepted counts, shape (requests, rounds), each in 0..k (the bonus token not counted: a round emits
        accepted + 1), and the next latent.
        """
        ...
