"""Microbenchmarks of what a round consists of, each in the company that it keeps in a round."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from calibration.live.engine import decode
from calibration.live.models import Model


def time_pass(
    model: Model,
    prompts: NDArray[np.int64],
    *,
    queries: int,
    capacity: int,
    rows: Literal["all", "last"],
    after: Model,
    repeats: int,
) -> NDArray[np.float64]:
    """Processor seconds [repeats] of a pass of ``queries`` tokens after the others of ``prompts`` [batch, length].

    Before each pass ``after`` takes one token a sequence, and leaves the caches of the processor as it would in a
    round (``model`` itself for passes that follow each other). CPU only.
    """
    batch, length = prompts.shape
    tokens = torch.from_numpy(prompts)
    for each in {id(model): model, id(after): after}.values():
        each.allocate(batch, capacity)
        first = max(0, length - queries - 8)
        each.laws(tokens[:, first:], torch.full((batch,), first), span=length, rows="last")
    start, before = torch.full((batch,), length - queries), torch.full((batch,), length - 1)
    taken = np.zeros(repeats)
    for index in range(repeats + 1):
        after.laws(tokens[:, -1:], before, span=length, rows="last")
        clock = time.thread_time_ns()
        model.laws(tokens[:, length - queries :], start, span=length, rows=rows)
        if index:  # the first warms up
            taken[index - 1] = (time.thread_time_ns() - clock) * 1e-9
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

    def laws(self, tokens: Tensor, start: Tensor, *, span: int, rows: Literal["all", "last"] = "all") -> Tensor:  # noqa: ARG002
        """The uniform law everywhere."""
        self._scratch.sum()
        shape = (tokens.shape[0], tokens.shape[1] if rows == "all" else 1, self.vocab)
        return self._law.expand(shape).contiguous()


def time_host(
    target: Idle, draft: Idle, *, batch: int, k: int, rounds: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Processor seconds [rounds] of everything in a round that is not a pass: drawing, rejecting, committing."""
    prompts = np.ones((batch, 32), dtype=np.int64)
    run = decode(target, draft, prompts, k=k, rounds=rounds + 2, rng=rng)
    return (run.phases_s["sampling"] + run.phases_s["host"])[2:]
