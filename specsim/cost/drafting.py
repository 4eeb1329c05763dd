"""What drafting asks of an engine's host: calls around the passes, and n-gram lookup."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specsim.cost.shapes import Floats, StepTime, Term, Trust
from specsim.errors import InputError


@dataclass(frozen=True)
class DraftHost:
    """Host work around drafting: framework calls at ``call_s`` seconds each (5th and 95th percentile: low, high).

    verify_calls: preparing a verification. first_calls: between the sampled tokens and the first drafting pass, which
    the device waits for. pass_calls: a drafting pass itself, hidden behind the device where that takes longer.
    mapping_calls: more of a pass whose head has a vocabulary of its own. round_calls: once a round.
    serial_s: host work a step that speculation exposes because it turns overlapped scheduling off.
    """

    call_s: float
    low: float
    high: float
    call_source: str
    verify_calls: float
    first_calls: float
    pass_calls: float
    mapping_calls: float
    round_calls: float
    calls_source: str
    serial_s: float
    serial_source: str
    ngram_calls: float
    ngram_sequence_s: float
    ngram_token_s: float
    ngram_source: str

    def work(self, calls: float, like: ArrayLike) -> Term:
        """``calls`` framework calls as a term in the shape of ``like``, nothing where ``like`` is 0."""
        return _host(np.where(np.asarray(like, dtype=np.float64) > 0, calls * self.call_s, 0.0))

    def waiting(self, calls: float, busy: StepTime) -> Term:
        """Time that the device waits for ``calls`` of a pass, beyond what it is ``busy`` with anyway."""
        total = busy.total_s
        return _host(np.where(total > 0, np.maximum(calls * self.call_s - total, 0.0), 0.0))

    def lookup(self, sequences: ArrayLike, kv_tokens: ArrayLike) -> Term:
        """An n-gram search through every sequence's context."""
        n, cached = np.asarray(sequences, dtype=np.float64), np.asarray(kv_tokens, dtype=np.float64)
        once = np.where(n > 0, self.ngram_calls * self.call_s, 0.0)
        return _host(once + self.ngram_sequence_s * n + self.ngram_token_s * cached)


def load_draft_host(engine: str) -> DraftHost:
    """The drafting host work of an engine; InputError where none is known."""
    if engine not in _tables():
        known = ", ".join(_tables())
        raise InputError(f"speculation under {engine!r} is not priced yet; priced: {known}", field="engine")
    return DraftHost(**_tables()[engine])


def _host(seconds: Floats) -> Term:
    return Term(seconds, "host", np.full(np.shape(seconds), Trust.TRANSFERRED, dtype=np.int8))


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(resources.files("specsim.cost").joinpath("drafting.toml").read_text(encoding="utf-8"))
