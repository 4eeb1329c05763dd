"""Batches of like length: what runs together is padded to its longest, so those go together that pad least."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from specsim.simulation.servers import Job


@dataclass(frozen=True)
class LikeLengths:
    """What a batch takes of a queue (``Batching.take``): the job that came first, and those that pad the batch least.

    Of all sets of min(max_batch, waiting) jobs with that job in it, the one with the smallest sum of (longest -
    length); of jobs of one length those that came first. So equal lengths make it first come, first served; a batch is
    never smaller than that order's, nor padded more on the same queue; and a job with ``n`` ahead of it is in one of
    the next n + 1 batches.
    """

    max_batch: int
    length: Callable[[Job], int]

    def __call__(self, queue: Sequence[Job], now: float) -> Sequence[int]:  # noqa: ARG002 - the interface's argument
        """Places in the queue."""
        if len(queue) <= self.max_batch:
            return range(len(queue))
        lengths = [self.length(job) for job in queue]
        others = sorted(range(1, len(queue)), key=lambda place: (-lengths[place], place))
        best, least = [0], float("inf")
        for longest in sorted({length for length in lengths if length >= lengths[0]}):
            fits = [place for place in others if lengths[place] <= longest][: self.max_batch - 1]
            padding = sum(longest - lengths[place] for place in (0, *fits))
            if len(fits) == self.max_batch - 1 and padding < least:
                best, least = [0, *fits], padding
        return best


def window_of(job: Job) -> int:
    """Drafted tokens that the expanded executor pads a batch with this job to; a prompt has its program's."""
    price = job.what[0]
    return int(price.k)
