"""What a pass is made of: the contract between models (which write these) and costs (which price them)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Linear:
    """A matrix product ``[rows, k] x [k, n]`` executed ``count`` times in a pass, on one tensor-parallel rank.

    ``rows`` says what a row is: every query token, or only the rows whose logits are needed.
    ``dtype`` is its own precision where it is not the pass's ``weight_dtype`` (LM head and router stay in 16 bits).
    """

    name: str
    n: int
    k: int
    count: int = 1
    rows: Literal["tokens", "logits"] = "tokens"
    dtype: str | None = None


@dataclass(frozen=True)
class Attention:
    """``count`` attention layers of one head layout on one rank; ``window`` in tokens, or None for full attention."""

    heads: int
    kv_heads: int
    head_dim: int
    count: int
    window: int | None = None


@dataclass(frozen=True)
class Experts:
    """``count`` mixture-of-experts layers (gate, up and down projections of ``top_k`` of ``experts`` a token).

    ``intermediate`` is one expert's full width before tensor parallelism; ``tensor_parallel`` how it is cut.
    """

    hidden: int
    intermediate: int
    experts: int
    top_k: int
    count: int
    tensor_parallel: int = 1


@dataclass(frozen=True)
class ForwardShape:
    """Everything that a forward pass executes on one tensor-parallel rank."""

    name: str
    layers: int
    hidden: int
    vocab: int
    linears: tuple[Linear, ...]
    attention: tuple[Attention, ...]
    experts: tuple[Experts, ...] = ()
    tensor_parallel: int = 1
    all_reduces: int = 0
    """Collectives in a pass, each of ``hidden`` elements a token."""
    elementwise_bytes_per_token: float = 0.0
    """Bytes moved by norms, rotary, activation and residual adds, one token, all layers."""
    elementwise_kernels: int = 0
    """Launches of such kernels in a pass (after the engine's fusion)."""
    weight_bytes: float = 0.0
    """Bytes of weights resident on one rank."""
    kv_bytes_per_token: float = 0.0
    """Bytes of cache that one token takes on one rank."""
    weight_dtype: str = "bf16"
    kv_dtype: str = "bf16"


@dataclass(frozen=True)
class Segment:
    """A group of like sequences in a pass. Numeric fields are scalars or arrays that broadcast together.

    query_tokens: new tokens, summed over the segment's sequences.
    kv_tokens: cached tokens that these attend to (the new ones not counted), summed over sequences.
    logit_rows: rows that go through the LM head.
    kv_max: the longest cache among them; None means that they are equal.
    kv_tokens_windowed: the same sum with each sequence cut at the model's window; None derives it from the mean.
    """

    kind: Literal["prefill", "decode", "verify", "tree"]
    sequences: ArrayLike
    query_tokens: ArrayLike
    kv_tokens: ArrayLike
    logit_rows: ArrayLike
    kv_max: ArrayLike | None = None
    kv_tokens_windowed: ArrayLike | None = None


@dataclass(frozen=True)
class StepShape:
    """One forward pass (or an array of them): its segments, and how the engine executes it.

    ``auto`` lets the engine's rules choose between a captured graph (padding the tokens up to a captured size)
    and eager execution.
    """

    segments: tuple[Segment, ...]
    mode: Literal["auto", "graph", "eager"] = "auto"


class Trust(IntEnum):
    """Which layer answered, best first. A step is trusted as its worst term."""

    MEASURED = 0
    """the very point was measured"""
    INTERPOLATED = 1
    """between measured points of the same shape"""
    BORROWED = 2
    """from the nearest measured shapes"""
    PARAMETRIC = 3
    """a fitted law without nearby measurements"""
    TRANSFERRED = 4
    """a law or a prior from other hardware or engines; also: modelled, not measured"""


@dataclass(frozen=True)
class Term:
    """Seconds that one part of a step takes, with the residual family its error belongs to and who answered."""

    seconds: Floats
    family: str
    trust: NDArray[np.int8]


@dataclass(frozen=True)
class StepTime:
    """A step's time as named terms that add up; arrays follow the broadcast shape of the step."""

    terms: Mapping[str, Term] = field(default_factory=dict)

    @property
    def total_s(self) -> Floats:
        """Sum of all terms, in seconds."""
        return np.asarray(sum(term.seconds for term in self.terms.values()), dtype=np.float64)

    @property
    def trust(self) -> NDArray[np.int8]:
        """The worst layer among the terms, elementwise."""
        worst = np.zeros((), dtype=np.int8)
        for term in self.terms.values():
            worst = np.maximum(worst, term.trust)
        return worst

    def scaled(self, factor: ArrayLike) -> StepTime:
        """The same terms, each multiplied by ``factor`` (a repeat count, say)."""
        times = np.asarray(factor, dtype=np.float64)
        return StepTime({name: Term(t.seconds * times, t.family, t.trust) for name, t in self.terms.items()})

    def named(self, prefix: str) -> StepTime:
        """The same terms under names that begin with ``prefix`` and a dot."""
        return StepTime({f"{prefix}.{name}": term for name, term in self.terms.items()})

    def __add__(self, other: StepTime) -> StepTime:
        """Both steps one after the other; terms of one name are summed."""
        terms = dict(self.terms)
        for name, term in other.terms.items():
            if name in terms:
                mine = terms[name]
                terms[name] = Term(mine.seconds + term.seconds, mine.family, np.maximum(mine.trust, term.trust))
            else:
                terms[name] = term
        return StepTime(terms)
