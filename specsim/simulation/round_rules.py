"""What a round drafts and what comes of it, stream by stream: the commit rule of the expanded executor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import AcceptanceProcess
from specsim.simulation.rounds import BLOCK, RoundSource
from specsim.simulation.workload import Requests


class RoundRule(Protocol):
    """Asked twice a round, for one stream at a time, in the order in which rounds happen.

    ``length(stream)`` when the round begins: how many tokens it drafts, a key of the programs. ``settle(stream, k)`` at
    its commit: (accepted, emitted), accepted in 0..k, the correction or bonus counted in emitted alone.
    """

    def length(self, stream: int) -> int:
        """Tokens that the next round drafts."""
        ...

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """Accepted and emitted tokens of a round that drafted ``k``."""
        ...


class FixedLength:
    """``k`` tokens every round, the accepted prefix and one more; the very draws of the folded executor.

    prompt_cached: all tokens come from rounds (else a request's first one from its prefill).
    """

    def __init__(
        self,
        process: AcceptanceProcess | None,
        k: int,
        requests: Requests,
        rng: np.random.Generator,
        *,
        prompt_cached: bool = False,
    ) -> None:
        drawn = replace(requests, output_tokens=requests.output_tokens + 1) if prompt_cached else requests
        self._k, self._source = k, RoundSource(process, k, drawn, rng)
        self._left: dict[int, list[int]] = {}

    def length(self, stream: int) -> int:  # noqa: ARG002 - always the same
        """The fixed length."""
        return self._k

    def settle(self, stream: int, k: int) -> tuple[int, int]:  # noqa: ARG002 - drawn before
        """The next round drawn for this stream."""
        left = self._left.get(stream)
        if left is None:
            drawn = self._source.block(stream // BLOCK)
            for row, count in enumerate(drawn.count.tolist()):
                self._left[drawn.first + row] = drawn.emitted[row, :count].tolist()[::-1]
            left = self._left[stream]
        emitted = left.pop()
        return emitted - 1, emitted


class DrawnRounds:
    """Accepted counts of any length for streams of one process; many rounds ahead where rounds are independent."""

    def __init__(
        self, process: AcceptanceProcess, streams: int, rng: np.random.Generator, *, ahead: int = 1024
    ) -> None:
        self._process, self._rng, self._ahead = process, rng, ahead
        self._latent: NDArray[Any] = process.start(streams, rng)
        self._memoryless = self._latent.size == 0
        self._drawn: dict[int, list[int]] = {}

    def accepted(self, stream: int, k: int) -> int:
        """How many of ``k`` drafted tokens survive in this stream's next round."""
        if k == 0:
            return 0
        if not self._memoryless:
            accepted, after = self._process.verify(self._latent[[stream]], k, self._rng)
            self._latent[[stream]] = after
            return int(accepted[0, 0])
        drawn = self._drawn.get(k)
        if not drawn:
            counts, _ = self._process.verify(self._latent[:1], k, self._rng, rounds=self._ahead)
            drawn = self._drawn[k] = counts[0].tolist()
        return drawn.pop()
