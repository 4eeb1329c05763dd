"""Prices of iterations, fast: from tables where they agree with the program, else from the program."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError
from specsim.simulation.mixed import Chunk, MixedTables
from specsim.simulation.program import Batch, PrefillChunk, RoundProgram

Floats = NDArray[np.float64]

_RATIO = 1.05
"""Step of the grid over cached tokens: between knots, c + a x^p is linear to within p (1-p) ln(1.05)^2 / 8 < 0.01 %."""

_TOGETHER = 8
"""Batch sizes tabulated by one call of the program."""


class Pricer:
    """Seconds of iterations of one program, remembered. Both executors price through it."""

    def __init__(self, program: RoundProgram, max_kv_tokens: int) -> None:
        self.program = program
        self._max_kv_tokens = max_kv_tokens
        knots = int(np.ceil(np.log(max(max_kv_tokens, 2)) / np.log(_RATIO))) + 1
        self._knots: Floats = np.unique(np.concatenate([np.rint(_RATIO ** np.arange(knots + 1)), np.arange(1.0, 17.0)]))
        self._tables: dict[int, Floats] = {}
        self._mixed: dict[tuple[int, int, tuple[Chunk, ...]], float] = {}
        self._chunked = MixedTables(program, self.decode)
        self._tabulated: bool | None = None

    def decode_table(self, sequences: int) -> tuple[Floats, Floats]:
        """Knots (cached tokens, summed over sequences) and the seconds of a decode-only iteration at each."""
        seconds = self._tables.get(sequences)
        if seconds is None:
            first = (sequences - 1) // _TOGETHER * _TOGETHER + 1
            block = np.arange(first, first + _TOGETHER, dtype=np.float64)
            made = self.program.seconds(Batch(sequences=block[:, None], kv_tokens=self._knots[None, :]))
            table = np.broadcast_to(made, (_TOGETHER, len(self._knots)))
            self._check(table, f"{first}..{first + _TOGETHER - 1} decoding sequences")
            for row, batch in enumerate(range(first, first + _TOGETHER)):
                self._tables[batch] = np.ascontiguousarray(table[row])
            seconds = self._tables[sequences]
        return self._knots, seconds

    def decode(self, sequences: int, kv_tokens: float) -> float:
        """Seconds of one decode-only iteration."""
        knots, seconds = self.decode_table(sequences)
        return float(np.interp(kv_tokens, knots, seconds))

    def mixed(self, sequences: int, kv_tokens: float, chunks: tuple[Chunk, ...]) -> float:
        """Seconds of one iteration that carries prefill chunks."""
        if self._tabulated is None:
            self._tabulated = self._chunked.agree(self._max_kv_tokens)
        if self._tabulated:
            return self._chunked.seconds(sequences, kv_tokens, chunks)
        key = (sequences, int(kv_tokens), chunks)
        seconds = self._mixed.get(key)
        if seconds is None:
            batch = Batch(sequences, int(kv_tokens), prefill=tuple(PrefillChunk(*chunk) for chunk in chunks))
            made = self.program.seconds(batch)
            if not sequences and made == 0:
                raise InputError(
                    "computes a prompt in no time; give a pass prefill_s_per_token, or run with prompt_cached",
                    field=self.program.name,
                )
            self._check(made, f"{sequences} decoding sequences and prefill {chunks}")
            seconds = self._mixed[key] = float(made)
        return seconds

    def _check(self, seconds: Floats, what: str) -> None:
        if not (np.isfinite(seconds).all() and bool((seconds > 0).all())):
            raise InputError(
                f"the cost of an iteration with {what} is not a positive number of seconds",
                field=f"{self.program.name}: cost",
            )
