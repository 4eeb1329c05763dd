"""Microbenchmarks of what a round consists of, each in the company that it keeps in a round."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.live.models import Counted, Model
from calibration.live.ngram import Ngram


@dataclass(frozen=True)
class PassPoint:
    """A pass to time: ``queries`` tokens that end ``span`` tokens into every sequence, after a pass of ``after``.

    The company, one token a sequence, leaves the processor's caches as it would in a round; a model in its own company
    is what passes that follow each other are.
    """

    name: str
    model: Model
    after: Model
    queries: int
    span: int
    rows: Literal["all", "last"] = "all"


def time_passes(
    points: Sequence[PassPoint], prompts: NDArray[np.int64], *, capacity: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Processor seconds [points] of one pass each, in an order of their own, over ``prompts`` [batch, length].

    Prompts are as long as the largest span. CPU only.
    """
    batch = len(prompts)
    tokens = torch.from_numpy(prompts)
    for model in {id(model): model for point in points for model in (point.model, point.after)}.values():
        model.allocate(batch, capacity)
        model.assume(tokens)
    taken = np.zeros(len(points))
    for index in rng.permutation(len(points)):
        point = points[index]
        start, before = (torch.full((batch,), point.span - back) for back in (point.queries, 1))
        window = tokens[:, point.span - point.queries : point.span]
        point.after.laws(tokens[:, point.span - 1 : point.span], before, span=point.span, rows="last")
        clock = time.thread_time_ns()
        point.model.laws(window, start, span=point.span, rows=point.rows)
        taken[index] = (time.thread_time_ns() - clock) * 1e-9
    return taken


@dataclass(eq=False)
class Idle:
    """A model without a pass: fixed laws, and ``scratch_bytes`` of memory read in their place.

    Reading empties the processor's caches as a real pass does; without it the host's work would look too cheap.
    """

    vocab: int
    scratch_bytes: int
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    def __post_init__(self) -> None:
        self._scratch = torch.ones(max(1, self.scratch_bytes // 4), device=self.device)
        self._law = torch.full((self.vocab,), 1.0 / self.vocab, device=self.device)

    def allocate(self, batch: int, capacity: int) -> None:
        """Nothing to hold."""

    def assume(self, tokens: Tensor) -> None:
        """Nothing to know."""

    def laws(self, tokens: Tensor, start: Tensor, *, span: int, rows: Literal["all", "last"] = "all") -> Tensor:  # noqa: ARG002
        """The uniform law everywhere."""
        self._scratch.sum()
        shape = (tokens.shape[0], tokens.shape[1] if rows == "all" else 1, self.vocab)
        return self._law.expand(shape).contiguous()


def time_lookups(
    ngram: Ngram, contexts: NDArray[np.int64], queries: Sequence[int], *, beside_bytes: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Processor seconds [queries] in which an n-gram alone gives the laws after ``contexts`` [batch, length].

    beside_bytes: memory read before each, as the pass that runs beside it does. CPU only.
    """
    model, tokens = Counted(ngram), torch.from_numpy(contexts)
    batch, length = contexts.shape
    model.allocate(batch, length)
    model.assume(tokens)
    beside = torch.ones(max(1, beside_bytes // 4))
    taken = np.zeros(len(queries))
    for index in rng.permutation(len(queries)):
        new = queries[index]
        beside.sum()
        start = torch.full((batch,), length - new)
        clock = time.thread_time_ns()
        model.laws(tokens[:, length - new :], start, span=length)
        taken[index] = (time.thread_time_ns() - clock) * 1e-9
    return taken
