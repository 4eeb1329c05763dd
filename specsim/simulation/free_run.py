"""For systems that are no rounds: processes of their own on the same servers, ledger and diagnosis."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import simpy

from specsim.simulation.ledger import Ledger
from specsim.simulation.links import Link
from specsim.simulation.outcome import Outcome
from specsim.simulation.progress import PATIENCE, run_to_end
from specsim.simulation.servers import Server
from specsim.simulation.workload import Requests


def streams(n: int, tokens: int) -> Requests:
    """``n`` streams that begin at time 0 with their prompt cached and want ``tokens`` each."""
    return Requests(np.zeros(n), np.ones(n, dtype=np.int64), np.full(n, tokens, dtype=np.int64))


def finish(
    env: simpy.Environment,
    ledger: Ledger,
    servers: Sequence[Server],
    links: Iterable[Link] = (),
    *,
    who_waits: Callable[[], list[str]] | None = None,
    patience: int = PATIENCE,
) -> Outcome:
    """Run until every request of the ledger is finished; raises as ``run_to_end`` does."""

    def unfinished() -> list[str]:
        done = ledger.finish_s
        names = [
            f"request {i} has {ledger.emitted[i]} of {ledger.output[i]} tokens" for i, s in enumerate(done) if s != s
        ]
        queues = [f"server {s.name} has {len(s.waiting())} jobs queued" for s in servers if s.waiting()]
        return names + queues

    run_to_end(
        env,
        finished=lambda: ledger.finished == len(ledger),
        commits=lambda: ledger.commits,
        who_waits=who_waits or unfinished,
        patience=patience,
    )
    uses = tuple(server.use() for server in servers)
    ledger.scheduled_s = list(ledger.arrival_s)
    result = ledger.result(
        iterations=sum(use.batches for use in uses),
        mixed_iterations=0,
        busy_s=sum(use.busy_s for use in uses),
        batch_s=sum(use.busy_s for use in uses),
    )
    return Outcome(result, uses, tuple(link.use() for link in links), 0)
