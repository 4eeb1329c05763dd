"""What drafting asks of an engine beyond the passes' own kernels: host calls, rejection, picking tokens, lookup."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from specsim.cost.engine import Engine
from specsim.cost.profile import Elementwise
from specsim.cost.shapes import Floats, StepTime, Term, Trust
from specsim.errors import InputError


@dataclass(frozen=True)
class DraftHost:
    """Work around drafting in one engine; every number with its source.

    Calls are eager device operations, ``call_s`` seconds of host each. verify_calls prepare a verification.
    first_calls (with fuse_calls where three hidden states are joined) lie around the first drafting pass, and the
    device waits for them. model_calls launch a pass and pass_calls prepare each further one, hidden behind the device
    where that takes longer; mapping_calls more where the head has a vocabulary of its own. round_calls: once a round.
    loops: passes in Python over the speculating requests, ``loop_s`` a request. reject_kernels and reject_bytes (a row
    and vocabulary entry): the rejection sampler. pick_bytes: choosing a drafted token from its logits;
    mapping_slowdown: of the scatter back to the target's vocabulary over a copy; tree_kernels: small ones of a pass
    that keep a tree of drafts. serial_s: host work a step that speculation exposes by turning overlap off.
    """

    call_s: float
    call_source: str
    verify_calls: float
    first_calls: float
    fuse_calls: float
    model_calls: float
    pass_calls: float
    mapping_calls: float
    round_calls: float
    calls_source: str
    loops: float
    loop_s: float
    loops_source: str
    reject_kernels: float
    reject_bytes: float
    reject_source: str
    pick_bytes: float
    mapping_slowdown: float
    tree_kernels: float
    pick_source: str
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

    def requests(self, sequences: ArrayLike) -> Term:
        """Interpreted work that grows with the speculating requests."""
        return _host(self.loops * self.loop_s * np.asarray(sequences, dtype=np.float64))

    def rejection(self, rows: ArrayLike, vocab: int, small: Elementwise) -> Term:
        """The rejection sampler over ``rows`` of drafted logits."""
        drafted = np.asarray(rows, dtype=np.float64)
        moved = self.reject_bytes * vocab * drafted / small.bandwidth_bytes_per_s
        return _kernels(np.where(drafted > 0, moved + self.reject_kernels * small.kernel_s, 0.0))

    def around(self, requests: ArrayLike, drafted: ArrayLike, vocab: int, small: Elementwise) -> StepTime:
        """What a round takes beside its passes: inputs of a verification of ``drafted`` tokens, and the rejection."""
        rows = np.asarray(drafted, dtype=np.float64)
        return StepTime(
            {
                "verify_inputs": self.work(self.verify_calls + self.round_calls, rows),
                "requests": self.requests(requests),
                "rejection": self.rejection(rows, vocab, small),
                "serial": _host(np.where(rows > 0, self.serial_s, 0.0)),
            }
        )

    def pick(self, rows: ArrayLike, vocab: int, draft_vocab: int, small: Elementwise) -> Term:
        """Choosing drafted tokens from ``rows`` of logits, mapped back to the target's vocabulary where they differ."""
        entries = self.pick_bytes * draft_vocab
        if self.mapping_slowdown and draft_vocab != vocab:  # fill, scatter, and an argmax over the whole vocabulary
            entries = 2.0 * self.pick_bytes * vocab + self.mapping_slowdown * 2.0 * self.pick_bytes * draft_vocab
        drawn = np.asarray(rows, dtype=np.float64)
        moved = entries * drawn / small.bandwidth_bytes_per_s
        return _kernels(moved + np.where(drawn > 0, self.tree_kernels * small.kernel_s, 0.0))

    def lookup(self, sequences: ArrayLike, kv_tokens: ArrayLike) -> Term:
        """An n-gram search through every sequence's context."""
        n, cached = np.asarray(sequences, dtype=np.float64), np.asarray(kv_tokens, dtype=np.float64)
        once = np.where(n > 0, self.ngram_calls * self.call_s, 0.0)
        return _host(once + self.ngram_sequence_s * n + self.ngram_token_s * cached)


def load_draft_host(engine: Engine) -> DraftHost:
    """The work around drafting in an engine; InputError where none is known."""
    if engine.name not in _tables():
        known = ", ".join(_tables())
        raise InputError(f"speculation under {engine.name!r} is not priced yet; priced: {known}", field="engine")
    return DraftHost(call_s=engine.launch_s, call_source=engine.launch_source, **_tables()[engine.name])


def _host(seconds: Floats) -> Term:
    return Term(seconds, "host", np.full(np.shape(seconds), Trust.TRANSFERRED, dtype=np.int8))


def _kernels(seconds: Floats) -> Term:
    return Term(seconds, "elementwise", np.full(np.shape(seconds), Trust.PARAMETRIC, dtype=np.int8))


@cache
def _tables() -> dict[str, Any]:
    return tomllib.loads(resources.files("specsim.cost").joinpath("drafting.toml").read_text(encoding="utf-8"))
