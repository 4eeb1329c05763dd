"""StepCost: the time of a forward pass, as terms, for one pass or an array of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from specsim.cost.attention import unsplit_seconds, visible_pairs
from specsim.cost.collectives import AllReduce, collective_trust
from specsim.cost.engine import Engine
from specsim.cost.layers import Layers, sum_layers
from specsim.cost.profile import Profile
from specsim.cost.rows import RowCurve, sum_curves, sum_experts, sum_products
from specsim.cost.shapes import Floats, ForwardShape, Linear, Segment, StepShape, StepTime, Term, Trust
from specsim.cost.verify import VerifySurface
from specsim.errors import InputError

EXPERTS = {"fp8_static": "fp8", "fp16": "bf16"}
"""Precisions whose experts were measured under another's name."""

ATTENTION = {
    "decode": ("attention", "attention"),
    "prefill": ("prefill_attention", "prefill"),
    "verify": ("verify_attention", "verify"),
    "tree": ("verify_attention", "verify"),
}
"""Term and family of errors of each kind of segment's attention."""


@dataclass(frozen=True, eq=False)
class StepCost:
    """Prices the passes of one model on one GPU under one engine.

    Raises InputError at construction when the profile cannot price the model (its precision, a mixture of experts
    far from any measured, a number of GPUs without a measured all-reduce).
    """

    forward: ForwardShape
    profile: Profile
    engine: Engine
    verify_factor: float = 1.0
    """Time of a verification's attention over the model's (an engine's kernel may split the cache worse)."""

    def __post_init__(self) -> None:
        for dtype in dict.fromkeys(self._dtype(linear) for linear in self.forward.linears):
            if dtype not in self.profile.gemm:
                known = ", ".join(self.profile.gemm)
                raise InputError(f"{self.profile.name} has no {dtype} products; it has {known}", field="target.dtype")
        if self.forward.kv_dtype not in self.profile.decode:
            known = ", ".join(self.profile.decode)
            raise InputError(
                f"{self.profile.name} has no attention over a {self.forward.kv_dtype} cache; it has {known}",
                field="target.kv_dtype",
            )
        _ = self._tokens, self._logits, self._layers, self._reduce, self._experts  # errors now, not at the first step

    def cost(self, shape: StepShape) -> StepTime:
        """Terms of the pass: gemm, (prefill_, verify_)attention, collectives, head, experts, elementwise, launch.

        Arrays in the segments broadcast; only the terms that apply appear. Non-decreasing in query tokens, cached
        tokens and logit rows at fixed sequences.
        """
        parts = [_Part.of(segment) for segment in shape.segments]
        tokens = _total([part.tokens for part in parts])
        logit_rows = _total([part.logit_rows for part in parts])
        sequences = _total([part.sequences for part in parts])
        prefills = any(part.kind == "prefill" for part in parts)
        rows, graph = self._executed(tokens, sequences, shape.mode, prefills=prefills)

        terms: dict[str, Term] = {}
        if self._tokens is not None:
            terms["gemm"] = Term(self._tokens.at(rows), "gemm", self._tokens.trust_at(rows))
        if self._experts is not None:
            terms["experts"] = Term(self._experts.at(rows), "experts", self._experts.trust_at(rows))
        terms |= self._attention(parts)
        if self._reduce is not None:
            size = 2.0 * self.forward.hidden * rows
            seconds = self.forward.all_reduces * self._reduce.at(size) * (rows > 0)
            terms["collectives"] = Term(seconds, "collectives", collective_trust(self._reduce, size))
        if self._logits is not None:
            terms["head"] = Term(self._logits.at(logit_rows), "gemm", self._logits.trust_at(logit_rows))
        if self.forward.elementwise_kernels or self.forward.elementwise_bytes_per_token:
            small = self.profile.elementwise
            moved = self.forward.elementwise_bytes_per_token * rows / small.bandwidth_bytes_per_s
            several = np.any(np.broadcast_arrays(*(part.tokens > part.sequences for part in parts)), axis=0)
            fixed = self.forward.elementwise_kernels * small.kernel_s + self.forward.layers * small.reorder_s * several
            seconds = (moved + fixed) * (rows > 0)
            terms["elementwise"] = Term(seconds, "elementwise", np.full(np.shape(rows), Trust.PARAMETRIC, np.int8))
        launches = self._launches(graph, prefills=prefills)
        if launches is not None:
            busy = StepTime(terms).total_s
            wait = np.maximum(launches * self.engine.launch_s - busy, 0.0) * (rows > 0)
            terms["launch"] = Term(wait, "host", np.full(np.shape(wait), Trust.TRANSFERRED, np.int8))
        return StepTime(terms)

    def _executed(
        self, tokens: Floats, sequences: Floats, mode: Literal["auto", "graph", "eager"], *, prefills: bool
    ) -> tuple[Floats, NDArray[np.bool_]]:
        if mode == "eager" or (mode == "auto" and prefills and self.engine.mixed == "eager"):
            return tokens, np.zeros(np.shape(tokens), dtype=np.bool_)
        return self.engine.padded(tokens, sequences)

    def _launches(self, graph: NDArray[np.bool_], *, prefills: bool) -> Floats | None:
        """Kernels that the host launches one by one; None where everything is in a captured graph."""
        piecewise = prefills and self.engine.mixed == "piecewise"
        if graph.all() and not piecewise:
            return None
        forward = self.forward
        layers = sum(attention.count for attention in forward.attention)
        kernels = layers + forward.elementwise_kernels + forward.all_reduces
        kernels += sum(linear.count for linear in forward.linears) + sum(e.count for e in forward.experts)
        return np.where(graph, 2.0 * layers if piecewise else 0.0, float(kernels))

    def _attention(self, parts: Sequence[_Part]) -> dict[str, Term]:
        terms: dict[str, Term] = {}
        for part in parts:
            for layers in self._layers:
                name, family = ATTENTION[part.kind]
                seconds, trust = self._prefill(part, layers) if part.kind == "prefill" else self._decode(part, layers)
                if name in terms:
                    before = terms[name]
                    seconds, trust = before.seconds + seconds, np.maximum(before.trust, trust)
                terms[name] = Term(seconds, family, trust)
        return terms

    def _decode(self, part: _Part, layers: Layers) -> tuple[Floats, NDArray[np.int8]]:
        sequences, each = part.sequences, part.tokens / part.at_least_one
        cached, longest = part.cache(layers)
        length, last = cached / part.at_least_one + each, longest + each
        seconds = np.maximum(layers.decode.at(sequences, length), layers.decode.single(last))
        if part.kind == "decode":
            return np.where(sequences > 0.0, seconds, 0.0), layers.decode.trust_at(sequences, length)
        if layers.verify is not None:
            return self._verified(part, layers, layers.verify, length, last)
        # Drafted positions add arithmetic, not reads: each sees the whole cache, at the rate that prefill reaches.
        seen = length if layers.window is None else np.minimum(length, layers.window + each)
        extra = np.maximum(part.tokens - sequences, 0.0) * seen * layers.flops_per_pair / layers.prefill.law.flops_per_s
        seconds = self.verify_factor * np.maximum(
            np.hypot(seconds, extra), self._unsplit(sequences, each, seen, layers)
        )
        trust = np.full(np.shape(seconds), Trust.TRANSFERRED, dtype=np.int8)
        return np.where(sequences > 0.0, seconds, 0.0), trust

    def _verified(
        self, part: _Part, layers: Layers, surface: VerifySurface, length: Floats, last: Floats
    ) -> tuple[Floats, NDArray[np.int8]]:
        """Attention of several query tokens from the measured surface; a tree's mask was not measured."""
        sequences, each = part.at_least_one, part.tokens / part.at_least_one
        if layers.window is not None:
            length, last = (np.minimum(x, layers.window + each) for x in (length, last))
        seconds = np.maximum(surface.at(each, sequences, length), surface.at(each, 1.0, last))
        trust = surface.trust_at(each, sequences, length)
        if part.kind == "tree":
            trust = np.full(np.shape(seconds), Trust.TRANSFERRED, dtype=np.int8)
        return np.where(part.sequences > 0.0, self.verify_factor * seconds, 0.0), trust

    def _prefill(self, part: _Part, layers: Layers) -> tuple[Floats, NDArray[np.int8]]:
        sequences, each = part.at_least_one, part.tokens / part.at_least_one
        past = part.kv_tokens / part.at_least_one
        seconds = layers.prefill.at(sequences, each)
        trust = layers.prefill.trust_at(sequences, each)
        if np.any(past > 0.0):
            # No table has a chunk over a cached prefix: its extra reads and arithmetic at the prefill law's rates.
            both, window = past + each, layers.window
            pairs = visible_pairs(both, window) - visible_pairs(past, window) - visible_pairs(each, window)
            pairs = np.maximum(pairs if window is not None else past * each, 0.0)
            seen = past if window is None else np.minimum(past, float(window))
            law = layers.prefill.law
            memory = sequences * seen * layers.cache_bytes_per_token / law.bandwidth_bytes_per_s
            arithmetic = sequences * pairs * layers.flops_per_pair / law.flops_per_s
            seconds = seconds + np.hypot(memory, arithmetic)
            seconds = np.where(
                past > 0.0, np.maximum(seconds, self._unsplit(sequences, each, seen + each, layers)), seconds
            )
            trust = np.where(past > 0.0, np.int8(Trust.TRANSFERRED), trust)
        return np.where(part.tokens > 0.0, seconds, 0.0), trust

    def _unsplit(self, sequences: Floats, each: Floats, length: Floats, layers: Layers) -> Floats | float:
        """Time of a kernel that doesn't split the cache between blocks; 0 where the engine's kernel does."""
        gpu, rate = self.profile.hardware, layers.prefill.law.flops_per_s
        if gpu.name not in self.engine.unsplit_on:
            return 0.0
        length = np.where(each > 1.0, length, 0.0)  # one query token a sequence is decoding, which splits
        walks = [
            a.count
            * unsplit_seconds(
                sequences,
                each,
                length,
                heads=a.heads,
                head_dim=a.head_dim,
                flops_per_s=rate,
                multiprocessors=gpu.multiprocessors,
            )
            for a in layers.attentions
        ]
        return _total(walks)

    @cached_property
    def _tokens(self) -> RowCurve | None:
        return self._products("tokens")

    @cached_property
    def _logits(self) -> RowCurve | None:
        return self._products("logits")

    def _products(self, rows: Literal["tokens", "logits"]) -> RowCurve | None:
        curves = []
        for dtype, table in self.profile.gemm.items():
            linears = [x for x in self.forward.linears if x.rows == rows and self._dtype(x) == dtype]
            if linears:
                curves.append(sum_products(table, linears))
        return sum_curves(curves) if curves else None

    def _dtype(self, linear: Linear) -> str:
        dtype = linear.dtype or self.forward.weight_dtype
        return "bf16" if dtype == "fp16" else dtype

    @cached_property
    def _experts(self) -> RowCurve | None:
        if not self.forward.experts:
            return None
        dtype = EXPERTS.get(self.forward.weight_dtype, self.forward.weight_dtype)
        if dtype not in self.profile.experts:
            known = ", ".join(self.profile.experts) or "none"
            raise InputError(
                f"{self.profile.name} has no measured {dtype} mixture of experts (it has {known})", field="target.model"
            )
        return sum_experts(self.profile.experts[dtype], self.forward.experts)

    @cached_property
    def _reduce(self) -> AllReduce | None:
        if self.forward.tensor_parallel == 1 or self.forward.all_reduces == 0:
            return None
        return self.profile.collectives.all_reduce(self.forward.tensor_parallel)

    @cached_property
    def _layers(self) -> tuple[Layers, ...]:
        windows = dict.fromkeys(attention.window for attention in self.forward.attention)
        return tuple(
            sum_layers(self.profile, [a for a in self.forward.attention if a.window == window], self.forward.kv_dtype)
            for window in windows
        )


@dataclass(frozen=True, eq=False)
class _Part:
    """A segment with its fields as arrays."""

    kind: str
    sequences: Floats
    tokens: Floats
    kv_tokens: Floats
    logit_rows: Floats
    kv_max: Floats | None
    kv_tokens_windowed: Floats | None
    at_least_one: Floats

    @classmethod
    def of(cls, segment: Segment) -> _Part:
        sequences = np.asarray(segment.sequences, dtype=np.float64)
        return cls(
            kind=segment.kind,
            sequences=sequences,
            tokens=np.asarray(segment.query_tokens, dtype=np.float64),
            kv_tokens=np.asarray(segment.kv_tokens, dtype=np.float64),
            logit_rows=np.asarray(segment.logit_rows, dtype=np.float64),
            kv_max=None if segment.kv_max is None else np.asarray(segment.kv_max, dtype=np.float64),
            kv_tokens_windowed=(
                None if segment.kv_tokens_windowed is None else np.asarray(segment.kv_tokens_windowed, dtype=np.float64)
            ),
            at_least_one=np.maximum(sequences, 1.0),
        )

    def cache(self, layers: Layers) -> tuple[Floats, Floats]:
        """Cached tokens that the layers see, summed, and of the longest sequence."""
        mean = self.kv_tokens / self.at_least_one
        longest = mean if self.kv_max is None else self.kv_max
        window = layers.window
        if window is None:
            return self.kv_tokens, longest
        if layers.window_measured:  # the surface itself is flat past its window: give it the whole cache there
            if self.kv_tokens_windowed is None:
                return self.kv_tokens, longest
            cut = self.kv_tokens_windowed >= window * self.at_least_one
            return np.where(cut, self.kv_tokens, self.kv_tokens_windowed), longest
        if self.kv_tokens_windowed is not None:
            return self.kv_tokens_windowed, np.minimum(longest, float(window))
        return np.minimum(mean, float(window)) * self.at_least_one, np.minimum(longest, float(window))


def _total(values: Sequence[Floats]) -> Floats:
    return np.asarray(sum(values[1:], start=values[0]) if values else 0.0, dtype=np.float64)
