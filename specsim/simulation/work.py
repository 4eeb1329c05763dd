"""What a run executed, summed over its iterations: enough to count operations that are linear in it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from specsim.simulation.mixed import Chunk


@dataclass(frozen=True)
class Work:
    """Rounds and prefill chunks of all requests, by the draft length of the program that ran them.

    rounds: how many a draft length had (each request's counted), and the cached tokens that they attended to, summed.
    chunks: prefill chunks as (new tokens, cached tokens before them, whether they end the prompt), each with its count.
    """

    rounds: Mapping[int, tuple[int, float]] = field(default_factory=dict)
    chunks: Mapping[int, Mapping[Chunk, int]] = field(default_factory=dict)


class Tally:
    """Work as it happens."""

    def __init__(self) -> None:
        self._rounds: dict[int, list[float]] = {}
        self._chunks: dict[int, Counter[Chunk]] = {}

    def decode(self, k: int, sequences: int, cached: float) -> None:
        """Rounds of ``k`` drafted tokens over so many cached tokens, summed."""
        so_far = self._rounds.get(k)
        if so_far is None:
            so_far = self._rounds[k] = [0, 0.0]
        so_far[0] += sequences
        so_far[1] += cached

    def prefill(self, k: int, chunks: Iterable[Chunk]) -> None:
        """Prompts' chunks that ran in an iteration of the program for ``k``."""
        self._chunks.setdefault(k, Counter()).update(chunks)

    def work(self) -> Work:
        """All of it until now."""
        rounds = {k: (int(n), cached) for k, (n, cached) in self._rounds.items() if n}
        return Work(rounds, {k: dict(chunks) for k, chunks in self._chunks.items()})
