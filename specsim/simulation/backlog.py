"""Whether requests pile up: the sign that a replica cannot keep up, or that its run is too short to settle."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specsim.simulation.result import Result

SHARE = 0.03
"""Share of what arrives meanwhile that must stay for good before a load counts as growing."""


def load_grows(results: Sequence[Result]) -> bool:
    """Whether more requests are in the system in the last quarter of the arrivals than in the second, in open loads.

    The mean over the runs must have grown by SHARE of the requests that arrived between the middles of both quarters,
    and by more than chance: twice the deviation of a Poisson number. A load beyond the sustainable rate by a factor of
    1 + x leaves x / (1 + x) of its arrivals waiting.
    """
    quarters = np.array([[part.mean() for part in np.array_split(_present(r), 4)] for r in results])
    second, last = quarters.mean(axis=0)[[1, 3]]
    between = np.mean([len(r.arrival_s) for r in results]) / 2.0
    return bool(last - second > max(SHARE * between, 2.0 * np.sqrt(max(second, 1.0) / len(results))))


def _present(result: Result) -> np.ndarray:
    """Requests in the system when each arrives, itself not counted."""
    gone = np.searchsorted(np.sort(result.finish_s), result.arrival_s, side="right")
    return np.arange(len(result.arrival_s)) - gone
