"""Calling somebody else's sampler: with a time budget, copies of the inputs, and its answer checked."""

from __future__ import annotations

import inspect
import queue
import sysconfig
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.verification.batched import Emitted, Floats, Ints
from specsim.verification.deadline import Expired, interrupt
from specsim.verification.verdict import Finding

Call = Callable[..., Any]


class SamplerFault(Exception):  # noqa: N818 - the sampler's fault, not ours
    """The sampler broke its contract or didn't answer; carries the finding."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.line)
        self.finding = finding


class Guarded:
    """A sampler behind a time budget of ``budget_s`` seconds for all of its calls together.

    Calls run in one thread of their own, so that a sampler that never returns costs the oracle only the budget: it is
    interrupted where it runs Python, and left behind where it doesn't.
    """

    def __init__(self, sampler: Call, *, budget_s: float, arrays: str = "numpy", takes: str = "probabilities") -> None:
        self._sampler, self._left_s, self._arrays, self._takes = sampler, budget_s, arrays, takes
        self._budget_s = budget_s
        self._work: queue.SimpleQueue[tuple[Call, tuple[Any, ...]] | None] = queue.SimpleQueue()
        self._done: queue.SimpleQueue[tuple[bool, Any]] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="sampler under test")
        self._thread.start()
        self.calls = 0

    @property
    def can_inject(self) -> bool:
        """Whether the sampler takes its coins from the caller."""
        return callable(getattr(self._sampler, "inject", None))

    def __call__(self, batch: Batch, rng: np.random.Generator, *, shift: float = 0.0) -> Emitted:
        """Emitted tokens and counts of a batch; raises SamplerFault.

        The rows' logits are moved by ``shift``: a sampler that takes probabilities sees it as rounding.
        """
        return self._checked(self._sampler, batch, self._generator(rng), shift=shift)

    def inject(self, batch: Batch, uniforms: Floats, final: Floats) -> Emitted:
        """The same with given coins; raises SamplerFault."""
        inject = self._sampler.inject  # type: ignore[attr-defined]
        return self._checked(inject, batch, self._handed(uniforms.copy()), self._handed(final.copy()))

    def call(self, *arguments: Any) -> Any:
        """Whatever the callable returns for these arguments; raises SamplerFault."""
        return self._run(self._sampler, arguments)

    def close(self) -> None:
        """Let the thread end."""
        self._work.put(None)

    def _checked(self, call: Call, batch: Batch, *more: Any, shift: float = 0.0) -> Emitted:
        rows = [None if a is None else self._written(a, shift) for a in (batch.target, batch.draft)]
        inputs = [*rows, batch.tokens]
        given = [None if a is None else a.copy() for a in inputs]
        answer = self._run(call, tuple(None if a is None else self._handed(a) for a in given) + more)
        self.calls += 1
        unchanged(("target", "draft", "draft tokens"), given, inputs)
        return checked_answer(answer, batch)

    def _run(self, call: Call, arguments: tuple[Any, ...]) -> Any:
        if self._left_s <= 0:
            raise self._timed_out()
        start = time.monotonic()
        self._work.put((call, arguments))
        try:
            worked, value = self._done.get(timeout=self._left_s)
        except queue.Empty:
            self._left_s = 0.0
            interrupt(self._thread)
            raise self._timed_out() from None
        self._left_s -= time.monotonic() - start
        if not worked:
            line = " ".join(str(value).split())[:200]
            finding = Finding("raises", f"{type(value).__name__}: {line}{_raised_at(value)}", "stops")
            raise SamplerFault(finding) from _in_its_code(value)
        return value

    def _timed_out(self) -> SamplerFault:
        line = f"the sampler did not finish within its time budget of {self._budget_s:g} s"
        return SamplerFault(Finding("time_budget", line, "stops"))

    def _serve(self) -> None:
        while (work := self._work.get()) is not None:
            call, arguments = work
            try:
                answer = call(*arguments)
                if inspect.iscoroutine(answer):
                    answer.close()  # never awaited: a wrong answer, and no warning of ours
                self._done.put((True, answer))
            except Expired:
                return
            except BaseException as error:  # whatever somebody else's code raises is a finding
                self._done.put((False, error))

    def _written(self, rows: Floats, shift: float) -> Floats:
        """Rows as the sampler takes them, their logits moved by ``shift``."""
        if self._takes == "probabilities" and not shift:
            return rows
        with np.errstate(divide="ignore", invalid="ignore"):  # rows that are no laws too
            logits = np.log(rows) + shift
        if self._takes == "logits" or not rows.size:
            return logits
        odds = np.exp(logits - logits.max(axis=-1, keepdims=True))
        return np.asarray(odds / odds.sum(axis=-1, keepdims=True))

    def _handed(self, array: NDArray[Any]) -> Any:
        if self._arrays == "numpy":
            return array
        import torch

        return torch.from_numpy(array)

    def _generator(self, rng: np.random.Generator) -> Any:
        if self._arrays == "numpy":
            return rng
        import torch

        return torch.Generator().manual_seed(int(rng.integers(2**62)))


def _raised_at(error: BaseException) -> str:
    """The last line of the sampler's own code, below which a library raised; nothing where it was never entered (a
    wrong signature).
    """
    trace = traceback.extract_tb(error.__traceback__)[1:]
    own = [frame for frame in trace if not frame.filename.startswith(("<", *_LIBRARIES))] or trace
    return f" ({Path(own[-1].filename).name}, line {own[-1].lineno})" if own else ""


_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")})
"""Folders of code that somebody's sampler calls, but which isn't its own."""


def _in_its_code(error: BaseException) -> BaseException:
    """The error without this module's frame."""
    trace = error.__traceback__
    return error.with_traceback(None if trace is None else trace.tb_next)


@dataclass(frozen=True)
class Batch:
    """Inputs of one call: target rows [B, G+1, V], draft rows [B, G, V] or None, drafts [B, G]."""

    target: Floats
    draft: Floats | None
    tokens: Ints

    def rows(self, which: Ints | slice) -> Batch:
        """Some of the rows."""
        return Batch(self.target[which], None if self.draft is None else self.draft[which], self.tokens[which])


def checked_answer(answer: Any, batch: Batch) -> Emitted:
    """Tokens [B, G+1] (-1 after the emitted ones) and counts [B] as whole numbers; raises SamplerFault where they
    aren't.
    """
    rows, width, vocab = batch.target.shape
    first, second = pair_of(answer, "(tokens, counts)")
    tokens = whole("tokens", numbers("tokens", first, (rows, width)))
    counts = whole("counts", numbers("counts", second, (rows,)))
    absent = np.concatenate([batch.tokens < 0, np.ones((rows, 1), dtype=np.bool_)], axis=1)
    drafts = absent.argmax(axis=1)
    wrong = np.flatnonzero((counts < 1) | (counts > drafts + 1))
    if len(wrong):
        row = int(wrong[0])
        line = f"row {row} emitted {counts[row]} tokens from {int(drafts[row])} drafts; 1 to drafts + 1 are possible"
        raise SamplerFault(Finding("count_out_of_range", line))
    inside = np.arange(width) < counts[:, None]
    outside = np.argwhere(inside & ((tokens < 0) | (tokens >= vocab)))
    if len(outside):
        row, at = map(int, outside[0])
        line = f"row {row} emitted token {tokens[row, at]} at position {at}; the vocabulary has {vocab}"
        raise SamplerFault(Finding("out_of_vocabulary", line))
    return np.where(inside, tokens, -1), counts


def unchanged(names: Sequence[str], given: Sequence[Any], kept: Sequence[Any]) -> None:
    """Raise SamplerFault where an array that was handed over isn't what it was."""
    for name, after, before in zip(names, given, kept, strict=True):
        if after is None or np.array_equal(after, before):
            continue
        if not np.array_equal(after, before, equal_nan=True):
            raise SamplerFault(Finding("mutates_inputs", f"the {name} array was changed in place by the sampler"))


def pair_of(answer: Any, wanted: str) -> tuple[Any, Any]:
    """The two parts of an answer; raises SamplerFault where it hasn't two."""
    try:
        first, second = answer
    except (TypeError, ValueError):
        line = f"returned {type(answer).__name__}, not {wanted}"
        raise SamplerFault(Finding("wrong_answer", line, "stops")) from None
    return first, second


def numbers(name: str, part: Any, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """An array of numbers of a shape (None: any length); raises SamplerFault where it isn't one."""
    try:
        array = as_array(part)
        array.astype(np.float64)
    except (TypeError, ValueError):
        line = f"{name} are a {type(part).__name__}, not an array of numbers"
        raise SamplerFault(Finding("wrong_answer", line, "stops")) from None
    if array.ndim != len(shape) or any(n is not None and n != m for n, m in zip(shape, array.shape, strict=True)):
        expected = ", ".join("any" if n is None else str(n) for n in shape)
        raise SamplerFault(Finding("wrong_shape", f"{name} have shape {array.shape}, expected ({expected})", "stops"))
    return array


def whole(name: str, array: NDArray[Any]) -> Ints:
    """The array as whole numbers; raises SamplerFault where they aren't."""
    if not (np.issubdtype(array.dtype, np.integer) or np.array_equal(array, np.floor(array))):
        raise SamplerFault(Finding("wrong_dtype", f"{name} are not whole numbers ({array.dtype})", "stops"))
    return array.astype(np.int64)


def as_array(part: Any) -> NDArray[Any]:
    """A numpy array from an array or a tensor, on any device."""
    if hasattr(part, "detach"):
        part = part.detach().cpu()
    array = np.asarray(part)
    if array.dtype == object:
        raise ValueError("not an array of numbers")
    return array
