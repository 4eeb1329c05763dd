"""What the engine drafts and verifies with: models that turn tokens at positions into laws of the next token."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, Protocol

import torch
from torch import Tensor

from calibration.live.decoder import Decoder
from calibration.live.ngram import LONGEST, Ngram


class Model(Protocol):
    """A language model with state for a batch of sequences, each at its own position."""

    @property
    def vocab(self) -> int:
        """Tokens that the model knows."""

    @property
    def device(self) -> torch.device:
        """Where its laws are."""

    def allocate(self, batch: int, capacity: int) -> None:
        """Make room for ``batch`` sequences of ``capacity`` tokens."""

    def assume(self, tokens: Tensor) -> None:
        """Take ``tokens`` [batch, n] as passed already, without the work: what is in the cache stays as it is."""

    def laws(self, tokens: Tensor, start: Tensor, *, span: int, rows: Literal["all", "last"] = "all") -> Tensor:
        """Laws [batch, rows, vocab] after ``tokens`` [batch, q] at ``start`` [batch]; ``span`` bounds all positions."""


@dataclass(eq=False)
class Transformer:
    """A decoder whose laws are the softmax of its logits."""

    decoder: Decoder

    @property
    def vocab(self) -> int:
        """Tokens that the model knows."""
        return self.decoder.vocab

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.decoder.device

    def allocate(self, batch: int, capacity: int) -> None:
        """Make room in the cache."""
        self.decoder.allocate(batch, capacity)

    def assume(self, tokens: Tensor) -> None:
        """A pass takes as long whatever the cache holds."""

    @torch.inference_mode()
    def laws(self, tokens: Tensor, start: Tensor, *, span: int, rows: Literal["all", "last"] = "all") -> Tensor:
        """Softmax in 32 bits of the decoder's logits."""
        return self.decoder.forward(tokens, start, span=span, rows=rows).float().softmax(dim=-1)


@dataclass(eq=False)
class Counted:
    """An n-gram over bytes; with a ``body``, a decoder does its whole work beside it and its logits are dropped.

    So a pair has real laws, real acceptance and a transformer's cost without trained weights.
    """

    ngram: Ngram
    body: Decoder | None = None
    history: Tensor = field(default_factory=lambda: torch.zeros(0, 0, dtype=torch.long))

    @property
    def vocab(self) -> int:
        """Bytes."""
        return 256

    @property
    def device(self) -> torch.device:
        """Counting and looking up happen on the host."""
        return torch.device("cpu") if self.body is None else self.body.device

    def allocate(self, batch: int, capacity: int) -> None:
        """Make room for the history, and in the body's cache."""
        self.history = torch.zeros(batch, LONGEST + capacity, dtype=torch.long)
        if self.body is not None:
            self.body.allocate(batch, capacity)

    def assume(self, tokens: Tensor) -> None:
        """Contexts are looked up, so they must be known."""
        self.history[:, LONGEST : LONGEST + tokens.shape[1]] = tokens.cpu()

    @torch.inference_mode()
    def laws(self, tokens: Tensor, start: Tensor, *, span: int, rows: Literal["all", "last"] = "all") -> Tensor:
        """The n-gram's exact laws, in 32 bits."""
        if self.body is not None:
            self.body.forward(tokens, start, span=span, rows=rows)
        batch, queries = tokens.shape
        sequence = torch.arange(batch)[:, None]
        positions = LONGEST + start.cpu()[:, None] + torch.arange(queries)
        self.history[sequence, positions] = tokens.cpu()
        if rows == "last":
            positions = positions[:, -1:]
        back = torch.arange(self.ngram.order - 2, -1, -1)
        contexts = self.history[sequence[:, :, None], positions[:, :, None] - back]
        laws = self.ngram.laws(contexts.reshape(-1, self.ngram.order - 1).numpy())
        return torch.from_numpy(laws).float().view(batch, -1, 256).to(self.device)


@dataclass(eq=False)
class Captured:
    """A transformer on CUDA whose passes are captured as graphs, one for each batch, query count and row choice.

    Attention always reads the whole allocated span, as it must in a graph of fixed shapes.
    """

    model: Transformer
    graphs: dict[tuple[int, int, str], tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]] = field(
        default_factory=dict
    )
    held: tuple[int, int] = (0, 0)
    """Sequences and capacity that the graphs were captured for."""

    @property
    def vocab(self) -> int:
        """Tokens that the model knows."""
        return self.model.vocab

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.model.device

    def allocate(self, batch: int, capacity: int) -> None:
        """Make room in the cache; graphs that hold another cache are dropped."""
        if (batch, capacity) != self.held:
            self.graphs.clear()
        self.model.allocate(batch, capacity)
        self.held = (batch, capacity)

    def assume(self, tokens: Tensor) -> None:
        """A pass takes as long whatever the cache holds."""

    @torch.inference_mode()
    def laws(self, tokens: Tensor, start: Tensor, *, span: int, rows: Literal["all", "last"] = "all") -> Tensor:
        """Laws in a buffer that the next pass of the same graph overwrites; long chunks run eagerly."""
        batch, queries = tokens.shape
        if queries > 32:
            return self.model.laws(tokens, start, span=span, rows=rows)
        key = (batch, queries, rows)
        if key not in self.graphs:
            self.graphs[key] = self._capture(tokens.clone(), start.clone(), rows)
        graph, held_tokens, held_start, laws = self.graphs[key]
        held_tokens.copy_(tokens)
        held_start.copy_(start)
        graph.replay()
        return laws

    def _capture(
        self, tokens: Tensor, start: Tensor, rows: Literal["all", "last"]
    ) -> tuple[torch.cuda.CUDAGraph, Tensor, Tensor, Tensor]:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):  # lazy initialisation of libraries must not happen in the capture
            for _ in range(2):
                self.model.laws(tokens, start, span=self.held[1], rows=rows)
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            laws = self.model.laws(tokens, start, span=self.held[1], rows=rows)
        return graph, tokens, start, laws
