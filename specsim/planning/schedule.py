"""Which draft length at which load: ranges of batch size, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from specsim.planning.deployment import Candidate, Deployment
from specsim.planning.estimate import estimate
from specsim.planning.grid import best_lengths
from specsim.planning.surface import Surfaces
from specsim.planning.why import explain
from specsim.simulation.intervals import Estimate
from specsim.simulation.program import Batch


@dataclass(frozen=True)
class Range:
    """Draft ``k`` tokens where ``batch_min`` to ``batch_max`` requests decode at once (None: no upper end).

    speedup: over plain decoding at the range's middle. better: share of plausible outcomes in which it is faster than
    plain decoding there (for ``k`` 0: in which the best length is not).
    """

    drafter: str
    context_tokens: float
    batch_min: float
    batch_max: float
    k: int
    speedup: Estimate
    better: float
    why: str


def schedule(deployment: Deployment, surface: Surfaces, candidate: Candidate) -> tuple[Range, ...]:
    """The ranges of one candidate for every context, batches that the cache cannot hold left out."""
    made = []
    grid = surface.grids[candidate.label]
    for column, context in enumerate(surface.contexts):
        held = int(surface.fits[:, column].sum())
        lengths = best_lengths(grid.speedup[:, :held, column], grid.lengths)
        for low, high in _runs(lengths):
            k = int(lengths[low])
            middle = (low + high) // 2
            size = float(surface.batches[middle])
            speeds = grid.speedup[:, middle, column]
            at = int(np.flatnonzero(grid.lengths == k)[0])
            draws = grid.speedup_draws[at, middle, column]
            compared = at if k else 1 + int(np.argmax(speeds[1:]))
            faster = float((grid.speedup_draws[compared, middle, column] > 1.0).mean())
            made.append(
                Range(
                    drafter=candidate.label,
                    context_tokens=float(context),
                    batch_min=float(surface.batches[low]),
                    batch_max=float(surface.batches[high + 1] - 1 if high + 1 < held else surface.batches[high]),
                    k=k,
                    speedup=estimate(float(speeds[at]), draws),
                    better=faster if k else 1.0 - faster,
                    why=explain(
                        deployment.program(None, 0),
                        deployment.program(candidate, int(grid.lengths[compared])),
                        Batch(size, size * context),
                        tokens_per_round=float(grid.tokens[compared]),
                    ),
                )
            )
    return tuple(made)


def _runs(values: np.ndarray) -> Iterator[tuple[int, int]]:
    """First and last index of every stretch of equal values."""
    start = 0
    for i in range(1, len(values) + 1):
        if i == len(values) or values[i] != values[start]:
            yield start, i - 1
            start = i
