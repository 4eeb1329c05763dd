"""Prices of iterations that carry prefill, from tables, where the program's cost is smooth enough to allow it.

An iteration costs what its decoding part alone does, plus what one chunk of all the prefill tokens adds (tabulated for
every number of decoding sequences, over the tokens and the mean cache), plus what splitting that chunk into the actual
ones and their cached prefixes change (tabulated once, for a small batch). A program whose cost doesn't add up like this
is found out by a probe and priced directly.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from specsim.simulation.program import Batch, PrefillChunk, RoundProgram

Chunk = tuple[int, int, bool]
"""New tokens, cached tokens before them, whether they end the prompt."""

MEAN_ERROR, WORST_ERROR = 0.005, 0.05
"""Relative errors over a probe up to which the tables stand in for the program: far below the cost's own."""

_PROBES = 48

_STEPS = (*range(8, 257, 8), *range(272, 513, 16), *range(576, 2049, 64), *range(2304, 8193, 256))
"""Where time may jump: graph sizes (tokens are padded up to the next) and tiles of matrix products."""

_TOKEN_KNOTS = np.array([1, *(x for size in _STEPS for x in (size, size + 1)), *(8192 * 1.1**i for i in range(1, 30))])
"""Tokens of the whole iteration, decoding ones included."""

_CACHE_KNOTS = np.array([1.0, 128, 512, 1024, 2048, 4096, 8192, 32768, 131072])
"""Cached tokens a decoding sequence."""

_COARSE = np.unique(np.rint(1.25 ** np.arange(0, 54)))
"""Chunk and prefix lengths of the corrections."""

_REFERENCE = (8, 8 * 512.0)
"""Decoding sequences and their cached tokens where corrections are taken."""

_TOGETHER = 8


class MixedTables:
    """Seconds of iterations of one program that carry prefill chunks; tables are made as they are asked for."""

    def __init__(self, program: RoundProgram, decode: Callable[[int, float], float]) -> None:
        self._program, self._decode = program, decode
        self._added: dict[int, tuple[list[float], list[list[float]]]] = {}
        self._lengths: list[float] = _COARSE.tolist()
        self._cache: list[float] = _CACHE_KNOTS.tolist()
        self._splits: list[list[float]] = []
        self._prefixes: list[list[float]] = []
        self._unfinished = 0.0

    def agree(self, max_kv_tokens: float) -> bool:
        """Whether the tables meet the program, on the mean and at worst, with caches up to ``max_kv_tokens``."""
        rng = np.random.default_rng(20)
        errors = np.zeros(_PROBES)
        for number in range(_PROBES):
            n = int(rng.integers(0, 12) if number % 2 else rng.integers(12, 200))
            kv = min(n * float(rng.integers(100, 3000)), max_kv_tokens)
            chunks = tuple(
                (int(rng.integers(20, 2000)), int(rng.integers(0, 4000)) if number % 4 == 0 else 0, True)
                for _ in range(1 + number % 3)
            )
            truth = float(self._program.seconds(Batch(n, kv, prefill=tuple(PrefillChunk(*c) for c in chunks))))
            if not truth > 0:
                return False  # priced directly, where it is refused by name
            errors[number] = abs(self.seconds(n, kv, chunks) / truth - 1)
        return bool(errors.mean() <= MEAN_ERROR and errors.max() <= WORST_ERROR)  # False where one is NaN or infinite

    def seconds(self, sequences: int, kv_tokens: float, chunks: Sequence[Chunk]) -> float:
        """Seconds of the whole iteration."""
        if not self._splits:
            self._corrections()
        table = self._added.get(sequences)
        if table is None:
            self._tabulate(sequences)
            table = self._added[sequences]
        total = sum(chunk[0] for chunk in chunks)
        seconds = _bilinear(table[0], self._cache, table[1], total, kv_tokens / sequences if sequences else 1.0)
        if sequences:
            seconds += self._decode(sequences, kv_tokens)
        rest = total
        for tokens, past, last in chunks:
            rest -= tokens
            if rest:
                seconds += _bilinear(self._lengths, self._lengths, self._splits, tokens, rest)
            if past:
                seconds += _bilinear(self._lengths, self._lengths, self._prefixes, tokens, past)
            if not last:
                seconds += self._unfinished
        return seconds

    def _tabulate(self, sequences: int) -> None:
        """What one chunk adds, for ``sequences`` and its neighbours: rows of tokens, columns of mean cache."""
        first = (sequences - 1) // _TOGETHER * _TOGETHER + 1
        several = np.arange(first, first + _TOGETHER, dtype=np.float64) if sequences else np.zeros(1)
        n = several[:, None, None]
        kv = n * _CACHE_KNOTS[None, None, :]
        tokens = np.maximum(_TOKEN_KNOTS[None, :] - several[:, None] * (self._program.k + 1), 1.0)
        mixed = self._priced(n, kv, PrefillChunk(tokens[:, :, None], 0))
        alone = self._priced(n, kv) if sequences else np.zeros(())
        added = np.broadcast_to(mixed - alone, (len(several), len(_TOKEN_KNOTS), len(_CACHE_KNOTS)))
        for row, number in enumerate(several):
            self._added[int(number)] = (tokens[row].tolist(), added[row].tolist())

    def _corrections(self) -> None:
        one, other = _COARSE[:, None], _COARSE[None, :]
        n, kv = (np.array(part, dtype=np.float64) for part in _REFERENCE)
        together = self._priced(n, kv, PrefillChunk(one + other, 0))
        apart = self._priced(n, kv, PrefillChunk(one, 0), PrefillChunk(other, 0))
        shape = (len(_COARSE), len(_COARSE))
        self._splits = np.broadcast_to(apart - together, shape).tolist()
        fresh = self._priced(n, kv, PrefillChunk(one, 0))
        cached = self._priced(n, kv, PrefillChunk(one, other))
        self._prefixes = np.broadcast_to(cached - fresh, shape).tolist()
        unfinished = self._priced(n, kv, PrefillChunk(512, 0, last=False))
        self._unfinished = float(unfinished - self._priced(n, kv, PrefillChunk(512, 0)))

    def _priced(self, n: NDArray[np.float64], kv: NDArray[np.float64], *chunks: PrefillChunk) -> NDArray[np.float64]:
        return self._program.seconds(Batch(n, kv, prefill=chunks))


def _bilinear(rows: list[float], columns: list[float], table: list[list[float]], row: float, column: float) -> float:
    """Linear in both between knots; beyond the ends the nearest stretch carries on."""
    i = min(max(bisect_right(rows, row) - 1, 0), len(rows) - 2)
    j = min(max(bisect_right(columns, column) - 1, 0), len(columns) - 2)
    a = (row - rows[i]) / (rows[i + 1] - rows[i])
    b = (column - columns[j]) / (columns[j + 1] - columns[j])
    low, high = table[i], table[i + 1]
    return (1 - a) * ((1 - b) * low[j] + b * low[j + 1]) + a * ((1 - b) * high[j] + b * high[j + 1])
