"""Cached tokens and blocks of all decoding requests in every iteration to come, as running sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specsim.simulation.prepared import Decoding

Floats = NDArray[np.float64]

_HORIZON = 1 << 15
"""Iterations kept at first; grown when a request needs more rounds."""


class Ahead:
    """``kv`` cached tokens are attended and ``blocks`` needed in iteration ``at``; later ones follow.

    A request is added once, when it starts to decode, and not touched again unless it is preempted.
    """

    def __init__(self) -> None:
        self.kv = self.blocks = 0.0
        self.at = 0
        """The next iteration, counted from the start of the run."""
        self._dropped = 0  # iterations cut off the front of the arrays
        self._kv = np.zeros(_HORIZON)
        self._blocks = np.zeros(_HORIZON)

    def start(self, state: Decoding) -> None:
        """The request decodes from iteration ``at`` on."""
        here, more = self.at - self._dropped, len(state.growth)
        state.start, state.end = self.at, self.at + more
        if here + more + 2 > len(self._kv):
            self._reserve(here + more + 2)
            here = self.at - self._dropped
        if more:
            self._kv[here + 1 : here + 1 + more] += state.growth
            self._blocks[here + 1 : here + 1 + more] += state.block_growth
        self.kv += state.kv_first
        self.blocks += state.blocks_first

    def finish(self, state: Decoding) -> None:
        """The request had its last round in the iteration before ``at``."""
        self.kv -= state.kv_last
        self.blocks -= state.blocks_last

    def drop(self, state: Decoding) -> None:
        """The request stops before iteration ``at``, ahead of its last round."""
        here, gone = self.at - self._dropped, self.at - state.start
        self.kv -= state.kv_first + float(state.growth[:gone].sum())
        self.blocks -= state.blocks_first + float(state.block_growth[:gone].sum())
        more = len(state.growth) - gone
        if more:
            self._kv[here + 1 : here + 1 + more] -= state.growth[gone:]
            self._blocks[here + 1 : here + 1 + more] -= state.block_growth[gone:]

    def paths(self, iterations: int) -> tuple[Floats, Floats]:
        """``kv`` and ``blocks`` of the next iterations, if nobody starts or stops; shape (iterations,)."""
        here = self.at - self._dropped
        if here + iterations + 1 > len(self._kv):
            self._reserve(here + iterations + 1)
            here = self.at - self._dropped
        self._kv[here] = self.kv
        self._blocks[here] = self.blocks
        return self._kv[here : here + iterations].cumsum(), self._blocks[here : here + iterations].cumsum()

    def advance(self, iterations: int, kv: float, blocks: float) -> None:
        """The next iterations are over; in the last of them the sums were ``kv`` and ``blocks``."""
        if self.at - self._dropped + iterations >= len(self._kv):
            self._reserve(self.at - self._dropped + iterations + 1)
        self.at += iterations
        here = self.at - self._dropped
        self.kv = kv + float(self._kv[here])
        self.blocks = blocks + float(self._blocks[here])

    def _reserve(self, size: int) -> None:
        """Cut the past off, and make room for ``size`` entries counted from the old front."""
        here = self.at - self._dropped
        size = max(_HORIZON, 2 * (size - here))
        for name in ("_kv", "_blocks"):
            old = getattr(self, name)
            new = np.zeros(size)
            rest = old[here : here + size]
            new[: len(rest)] = rest
            setattr(self, name, new)
        self._dropped += here
