"""Requests one after the other, each alone on engines that take turns: for what is no round of one program."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from specsim.simulation.ledger import Ledger
from specsim.simulation.mixed import Chunk
from specsim.simulation.outcome import Outcome
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import RoundProgram
from specsim.simulation.servers import ServerUse
from specsim.simulation.workload import Requests

Serve = Callable[[Ledger, int, float], float]
"""Serve a request of the ledger from a time on: commit all of it, and return when it ends."""


class Alone:
    """Prices of one sequence on one engine that decodes plainly, and the tally of what it ran.

    key: of its program where work is counted. chunk_tokens: most tokens of a prompt in a pass.
    """

    def __init__(self, program: RoundProgram, *, key: int, max_tokens: int, chunk_tokens: int) -> None:
        self.program, self.key, self._chunk_tokens = program, key, chunk_tokens
        self._pricer = Pricer(program, max_tokens)
        self._knots, self._seconds = self._pricer.decode_table(1)

    def reads(self, ledger: Ledger, tokens: int, past: int = 0, *, in_round: bool = False) -> float:
        """Seconds to read a text after ``past`` cached tokens; ``in_round``: work of rounds, not of prompts."""
        chunks: list[Chunk] = []
        while tokens > 0:
            now = min(tokens, self._chunk_tokens)
            tokens -= now
            chunks.append((now, past, tokens == 0))
            past += now
        if in_round:
            seen = sum(now * (before + now / 2) for now, before, _ in chunks)
            ledger.tally.decode(self.key, past - chunks[0][1], seen)
        else:
            ledger.tally.prefill(self.key, chunks)
        return sum(self._pricer.mixed(0, 0, (chunk,)) for chunk in chunks)

    def writes(self, ledger: Ledger, tokens: int, past: int) -> float:
        """Seconds to write ``tokens`` one by one after ``past`` cached ones."""
        cached = past + np.arange(tokens, dtype=np.float64)
        if tokens:
            ledger.tally.decode(self.key, tokens, float(cached.sum()))
        return float(np.interp(cached, self._knots, self._seconds).sum())


def one_by_one(requests: Requests, serve: Serve, *, device: str, cache_tokens: int) -> Outcome:
    """Requests in order of arrival, the next when the one before has ended; users of a closed loop ask again then.

    cache_tokens: that the device holds, for the largest share that a request took.
    """
    ledger, ends = Ledger(requests), [0.0]
    busy_s, loop = 0.0, requests.concurrency
    for i in range(len(requests)):
        if loop is not None and i >= loop:
            ledger.arrival_s[i] = ends[i - loop + 1]
        start = max(ledger.arrival_s[i], ends[-1])
        ledger.scheduled_s[i] = start
        ends.append(serve(ledger, i, start))
        busy_s += ends[-1] - start
    rounds = sum(ledger.rounds)
    held = float((requests.prompt_tokens + requests.output_tokens).max()) / cache_tokens
    use = ServerUse(device, busy_s, rounds, rounds, 0.0, held)
    result = ledger.result(iterations=rounds, mixed_iterations=0, busy_s=busy_s, batch_s=busy_s, cache_max=held)
    return Outcome(result, (use,), ())
