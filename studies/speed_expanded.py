"""Rounds a CPU second of one core, start-up and tables included: one stream, and 80 drafters over 20 targets; and how
long the optimal tree of a budget takes to find.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import simpy
from simpy.events import Event, Timeout

from specsim.acceptance.chains import Iid
from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.stopping import ConfidenceThreshold
from specsim.drafting.trees import OptimalTrees
from specsim.simulation.engine import simulate
from specsim.simulation.expanded import run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.links import LinkLaw
from specsim.simulation.program import RoundProgram
from specsim.simulation.round_rules import ChainRounds, RoundRule, SignalRounds
from specsim.simulation.routers import join_shortest_queue
from specsim.simulation.servers import Batching
from specsim.simulation.serving import Serving
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology, on_one
from specsim.simulation.workload import Requests
from specsim.systems.sequoia import SHIPPED_ACCEPTANCE

ROUNDS = 80_000
"""About so many rounds in each case."""
TREE_MS = 10


def round_of(k: int, *, draft: str = "gpu", verify: str = "gpu") -> RoundProgram:
    """A chain of two stages whose costs grow with the batch and the cache."""
    drafted = timed_pass("draft", lambda n, kv: 2e-3 + 1e-8 * np.asarray(kv + 0 * n), device=draft, repeats=k)
    verified = timed_pass(
        "verify",
        lambda n, kv: 3e-2 + 1e-4 * np.asarray(n) + 1e-8 * np.asarray(kv),
        device=verify,
        after=("draft",),
        bytes_in=520,
        prefill_s_per_token=1e-5,
    )
    return timed_program("chain of two", k, drafted, verified)


def fixed_folded() -> int:
    requests = Requests(np.zeros(20), np.full(20, 100), np.full(20, 3 * ROUNDS // 20), concurrency=1)
    serving = Serving(1, 8192, 200_000)
    made = simulate(round_of(4), Iid(0.75), requests, serving, np.random.default_rng(0), executor="macro")
    return int(made.rounds.sum())


def fixed_expanded() -> int:
    rule = ChainRounds(Iid(0.75), 4, 20, np.random.default_rng(0))
    return _rounds(round_of(4), rule, streams(20, 3 * ROUNDS // 20), on_one("gpu"), seats=1)


def signals() -> int:
    rng = np.random.default_rng(0)
    rule = SignalRounds(CopulaSignals((0.8,), 0.8, 0.3), ConfidenceThreshold(0.3, 8), 20, rng)
    programs = {k: round_of(k) for k in range(9)}
    return _rounds(programs, rule, streams(20, 4 * ROUNDS // 20), on_one("gpu"), seats=1)


def many() -> int:
    rng = np.random.default_rng(0)
    law = LinkLaw(6e-3, 1e7, jitter=0.12)
    place = Topology(
        (
            ServerSpec("edge", 80),
            ServerSpec("cloud", 20, Batching(11, window_s=3e-4), route=join_shortest_queue(rng)),
        ),
        (LinkSpec("edge", "cloud", law), LinkSpec("cloud", "edge", law)),
        home="edge",
        reply_bytes=256,
    )
    n = 400
    requests = Requests(np.zeros(n), np.full(n, 100), np.full(n, 3 * ROUNDS // n), concurrency=80)
    rule = ChainRounds(Iid(0.75), 4, n, rng)
    return _rounds(round_of(4, draft="edge", verify="cloud"), rule, requests, place)


CASES: tuple[tuple[str, Callable[[], int], int], ...] = (
    ("one stream, fixed K, folded executor (macro-steps)", fixed_folded, 200_000),
    ("one stream, fixed K, expanded executor", fixed_expanded, 60_000),
    ("one stream, a policy that reads signals", signals, 60_000),
    ("80 drafters, 20 batching targets, links", many, 40_000),
)


def measure() -> list[tuple[str, float, int]]:
    """Case, rounds a CPU second, target."""
    rows = []
    for name, run, target in CASES:
        start = time.process_time()
        rounds = run()
        rows.append((name, rounds / (time.process_time() - start), target))
    return rows


def bare_timeouts(n: int = 300_000) -> float:
    """SimPy's own speed here: timeouts a CPU second, one after the other, with a callback each."""
    env, left = simpy.Environment(), n

    def again(_: Event | None) -> None:
        nonlocal left
        left -= 1
        if left:
            Timeout(env, 1.0).callbacks.append(again)

    start = time.process_time()
    again(None)
    env.run()
    return n / (time.process_time() - start)


def optimal_tree_ms(repeats: int = 20) -> float:
    """CPU milliseconds of the best trees up to 128 nodes and 10 levels for Sequoia's ten acceptances by rank."""
    start = time.process_time()
    for _ in range(repeats):
        OptimalTrees.of(SHIPPED_ACCEPTANCE, nodes=128, depth=10).tree(128, 10)
    return 1000.0 * (time.process_time() - start) / repeats


def _rounds(
    programs: RoundProgram | dict[int, RoundProgram],
    rule: RoundRule,
    requests: Requests,
    place: Topology,
    seats: int | None = None,
) -> int:
    made = run_expanded(programs, rule, requests, place, np.random.default_rng(0), prompt_cached=True, seats=seats)
    return int(made.result.rounds.sum())


def main() -> None:
    print(f"{'rounds a CPU second':<55}{'ours':>10}{'target':>10}")
    for name, speed, target in measure():
        print(f"{name:<55}{speed:>10,.0f}{target:>10,}{'' if speed >= target else '  missed'}")
    print(f"{'for comparison: bare SimPy, timeouts a CPU second':<55}{bare_timeouts():>10,.0f}")
    taken = optimal_tree_ms()
    name = "optimal tree of 128 nodes, 10 levels: CPU ms (at most)"
    print(f"{name:<55}{taken:>10.1f}{TREE_MS:>10}{'' if taken <= TREE_MS else '  missed'}")


if __name__ == "__main__":
    main()
