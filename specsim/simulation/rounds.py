"""The rounds of every request, drawn before anything is timed: what survives doesn't depend on when it runs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import AcceptanceProcess
from specsim.simulation.workload import Requests

Ints = NDArray[np.int64]

BLOCK = 256
"""Requests drawn together: enough to amortise array calls, few enough that one long output doesn't pad them all."""

_FIRST_LOOK = 32


@dataclass(frozen=True)
class DrawnRounds:
    """Rounds of requests ``first .. first + len(count) - 1``.

    emitted: tokens that each round would emit (accepted + 1), shape (requests, longest), zero after the last round.
    count: rounds that a request needs for its output without its first token, which the prefill emits.
    """

    first: int
    emitted: Ints
    count: Ints


def draw_rounds(
    process: AcceptanceProcess | None, k: int, requests: Requests, first: int, rng: np.random.Generator
) -> DrawnRounds:
    """Draw the rounds of a block of requests from ``first`` on; without drafting each round emits one token."""
    wanted = requests.output_tokens[first : first + BLOCK] - 1
    n = len(wanted)
    if k == 0 or process is None:
        longest = int(wanted.max())
        emitted = (np.arange(longest)[None, :] < wanted[:, None]).astype(np.int64)
        return DrawnRounds(first, emitted, wanted.copy())
    latent = process.start(n, rng)
    alive = np.flatnonzero(wanted > 0)
    latent = latent[alive]
    missing = wanted[alive]
    count = np.zeros(n, dtype=np.int64)
    pieces: list[tuple[Ints, Ints]] = []
    done = 0
    while len(alive):
        look = (
            min(_FIRST_LOOK, int(missing.max())) if done == 0 else min(max(_FIRST_LOOK, done // 2), int(missing.max()))
        )
        accepted, latent = process.verify(latent, k, rng, rounds=look)
        emitted = accepted + 1
        total = np.cumsum(emitted, axis=1)
        needed = (total < missing[:, None]).sum(axis=1) + 1
        emitted[np.arange(look)[None, :] >= needed[:, None]] = 0
        pieces.append((alive, emitted))
        ended = needed <= look
        count[alive] = done + np.minimum(needed, look)
        done += look
        alive, latent, missing = alive[~ended], latent[~ended], (missing - total[:, -1])[~ended]
    matrix = np.zeros((n, int(count.max(initial=0))), dtype=np.int64)
    at = 0
    for rows, emitted in pieces:
        width = min(emitted.shape[1], matrix.shape[1] - at)
        matrix[rows, at : at + width] = emitted[:, :width]
        at += emitted.shape[1]
    return DrawnRounds(first, matrix, count)


class RoundSource:
    """Blocks of drawn rounds, made when first asked for; every block has a stream of its own.

    So the draws of a request depend on the seed and its place in the queue alone, never on timing.
    """

    def __init__(self, process: AcceptanceProcess | None, k: int, requests: Requests, rng: np.random.Generator) -> None:
        self._process, self._k, self._requests = process, k, requests
        self._streams = rng.spawn(-(-len(requests) // BLOCK))

    def block(self, number: int) -> DrawnRounds:
        """The ``number``-th block of ``BLOCK`` requests."""
        return draw_rounds(self._process, self._k, self._requests, number * BLOCK, self._streams[number])
