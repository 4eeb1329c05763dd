"""Mixture-of-experts layers: measured against tokens in flight, by hidden size, expert width, routing and cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.cost.gemm import fill
from specsim.cost.law import BYTES, Law
from specsim.cost.shapes import Experts, Floats, Trust
from specsim.errors import InputError


@dataclass(frozen=True, eq=False)
class ExpertTable:
    """Seconds of one routed layer (gate, up, down) over tokens, for the measured classes.

    classes: [S, 5] of (hidden, expert width, top_k, experts, tensor parallel); seconds [S, tokens], NaN where absent.
    ``distribution`` names the routing that was measured (a power law of expert popularity, or balanced).
    """

    dtype: str
    law: Law
    tokens: Floats
    classes: NDArray[np.float64]
    seconds: Floats
    distribution: str

    @classmethod
    def from_json(cls, dtype: str, table: Mapping[str, Any]) -> ExpertTable:
        """The table in a profile file (latencies in microseconds)."""
        return cls(
            dtype=dtype,
            law=Law(**table["law"]),
            tokens=np.array(table["tokens"], dtype=np.float64),
            classes=np.array(table["classes"], dtype=np.float64),
            seconds=np.array(table["latency_us"], dtype=np.float64) * 1e-6,
            distribution=table["distribution"],
        )

    def curve(self, experts: Experts, tokens: Floats | None = None) -> tuple[Floats, Trust]:
        """Seconds at ``tokens`` (None: at every measured count) for one layer, and whether its class was measured.

        The law, with the expert coverage and arithmetic of the class itself, times the residual of the class or of the
        nearest measured one, which runs straight over ln tokens between measured counts: coverage bends in between.
        InputError when nothing within a factor of four in every dimension was measured.
        """
        at = self.tokens if tokens is None else tokens
        key = np.array(
            [experts.hidden, experts.intermediate, experts.top_k, experts.experts, experts.tensor_parallel], dtype=float
        )
        apart = np.abs(np.log(self.classes / key))
        nearest = int(np.argmin((apart * np.array([1.0, 1.0, 1.0, 1.0, 0.5])).sum(axis=1)))
        if apart[nearest].max() > np.log(4.0) + 1e-9:
            raise InputError(
                f"no measured mixture of experts is near hidden {experts.hidden}, width {experts.intermediate}, "
                f"top {experts.top_k} of {experts.experts}, tensor parallel {experts.tensor_parallel} in {self.dtype}",
                field="target.model",
            )
        theirs = self.classes[nearest]
        law = self.law.seconds(*expert_work(self.tokens, theirs, self.dtype))
        known = fill(np.log(self.seconds[nearest] / law)[None, :], np.log(self.tokens))[0]
        residual = np.interp(np.log(at), np.log(self.tokens), known)
        mine = self.law.seconds(*expert_work(at, key, self.dtype))
        return mine * np.exp(residual), Trust.MEASURED if apart[nearest].max() < 1e-9 else Trust.BORROWED

    def beyond(self, experts: Experts, tokens: float) -> float:
        """The law's time at ``tokens`` over its time at the grid's end."""
        e = experts
        key = np.array([e.hidden, e.intermediate, e.top_k, e.experts, e.tensor_parallel], dtype=float)
        ends = self.law.seconds(*expert_work(np.array([self.tokens[-1], tokens]), key, self.dtype))
        return float(ends[1] / ends[0])


def expert_work(tokens: ArrayLike, key: Floats, dtype: str) -> tuple[Floats, Floats]:
    """Bytes and operations of one layer: weights of the experts that ``tokens`` reach, and their arithmetic.

    Coverage is ``E (1 - (1 - k/E)^n)``: the expected number of distinct experts under uniform routing.
    """
    n = np.asarray(tokens, dtype=np.float64)
    hidden, width, top_k, experts, cut = (float(x) for x in key)
    reached = experts * -np.expm1(n * np.log1p(-min(top_k / experts, 1.0 - 1e-12)))
    weights = 3.0 * hidden * width / cut
    moved = BYTES[dtype] * reached * weights + 2.0 * n * top_k * (2.0 * hidden + 3.0 * width / cut)
    return moved, 2.0 * n * top_k * weights
