"""One stream on one device, round after round, from rounds drawn in blocks: for systems whose passes only follow."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import AcceptanceProcess
from specsim.errors import InputError
from specsim.simulation.free_run import streams
from specsim.simulation.ledger import Ledger
from specsim.simulation.outcome import Outcome
from specsim.simulation.servers import ServerUse

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


class Drawn(NamedTuple):
    """Rounds of a stream: drafted, accepted and emitted units (tokens, bytes, beam steps), and seconds of each."""

    drafted: Ints
    accepted: Ints
    emitted: Ints
    seconds: Floats


def in_series(draw: Callable[[int], Drawn], *, tokens: int, block: int = 512, device: str = "gpu") -> Outcome:
    """Run one stream of ``tokens`` units whose rounds ``draw(n)`` makes n at a time, committed by the common ledger.

    Raises InputError where a round takes no time or emits nothing for a whole block, and as the ledger does.
    """
    if tokens < 1:
        raise InputError(f"{tokens}; give 1 or more", field="tokens")
    ledger, now, rounds = Ledger(streams(1, tokens)), 0.0, 0
    ledger.scheduled_s = [0.0]
    while not ledger.finished:
        drawn = draw(block)
        if float(drawn.seconds.min()) <= 0 or int(drawn.emitted.max()) < 1:
            raise InputError("a round takes no time, or none of a block emits anything", field=f"stage {device}")
        for drafted, accepted, emitted, seconds in zip(*(a.tolist() for a in drawn), strict=True):
            now += seconds
            rounds += 1
            if ledger.commit(0, now, drafted=drafted, accepted=accepted, emitted=emitted, stage=device):
                break
    use = ServerUse(device, now, rounds, rounds, 0.0)
    result = ledger.result(iterations=rounds, mixed_iterations=0, busy_s=now, batch_s=now)
    return Outcome(result, (use,), (), 0)


def chains_in_series(
    process: AcceptanceProcess, k: int, seconds: float, rng: np.random.Generator, *, tokens: int
) -> Outcome:
    """The same for rounds of ``k`` drafted units that all take as long, where the process keeps nothing from round to
    round.
    """

    def draw(n: int) -> Drawn:
        accepted = process.verify(np.zeros((1, 0)), k, rng, rounds=n)[0][0]
        return Drawn(np.full(n, k), accepted, accepted + 1, np.full(n, seconds))

    return in_series(draw, tokens=tokens)
