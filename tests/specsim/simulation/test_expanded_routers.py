"""Seven routers: alike where targets are, and not where they differ."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation import routers
from specsim.simulation.expanded import run_expanded
from specsim.simulation.links import LinkLaw
from specsim.simulation.round_rules import ChainRounds
from specsim.simulation.servers import Batching
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology
from specsim.simulation.workload import ClosedLoop, Fixed, Lognormal, Workload

K, CLIENTS = 4, 24
PROGRAM = timed_program(
    "edge and cloud",
    K,
    timed_pass("draft", 2e-3, device="edge", repeats=K),
    timed_pass("verify", lambda n, kv: 20e-3 + 2e-3 * n, device="cloud", after=("draft",), bytes_in=520.0),
)


def throughput(route, factors, *, seed=0, n=400):
    """Tokens a second of clients that ask again as soon as they are answered."""
    rng = np.random.default_rng(seed)
    law = LinkLaw(5e-3, 1e7, jitter=0.12)
    topology = Topology(
        (
            ServerSpec("edge", CLIENTS),
            ServerSpec("cloud", len(factors), Batching(8), route=route, time_factor=factors),
        ),
        (LinkSpec("edge", "cloud", law), LinkSpec("cloud", "edge", law)),
        home="edge",
        reply_bytes=256.0,
    )
    load = Workload(ClosedLoop(CLIENTS), Fixed(10), Lognormal(60, 0.6))
    requests = load.sample(n, rng)
    rule = ChainRounds(Iid(0.8), K, n, rng)
    return run_expanded(PROGRAM, rule, requests, topology, rng, prompt_cached=True)


def everyone(factors, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "random": routers.random_router(rng),
        "round robin": routers.round_robin(),
        "shortest queue": routers.join_shortest_queue(rng),
        "shortest of two": routers.shortest_of_two(rng),
        "weighted of two": routers.weighted_shortest_of_two(rng, factors),
        "idle queue": routers.join_idle_queue(rng),
        "fastest progress": routers.fastest_progress(rng, factors),
    }


def test_equal_targets_make_routers_alike():
    """All keep every target busy; what is left is how evenly they spread."""
    speeds = {name: throughput(route, (1.0, 1.0)).tokens_per_s for name, route in everyone((1.0, 1.0)).items()}
    assert max(speeds.values()) / min(speeds.values()) < 1.12, speeds


def test_unequal_targets_make_them_differ():
    factors = (1.0, 1.0, 8.0)
    speeds = {name: throughput(route, factors).tokens_per_s for name, route in everyone(factors).items()}
    assert speeds["shortest queue"] >= 1.5 * speeds["round robin"], speeds
    assert speeds["fastest progress"] >= speeds["shortest queue"], speeds
    assert speeds["random"] == pytest.approx(speeds["round robin"], rel=0.3)


def test_streams_are_counted_on_and_off():
    made = throughput(routers.round_robin(), (1.0, 1.0), n=60)
    clouds = [use for use in made.servers if use.name.startswith("cloud")]
    assert sum(use.jobs for use in clouds) == made.result.rounds.sum()


def test_routers_that_pick_nobody_or_know_too_little():
    with pytest.raises(InputError, match="server cloud: route: picks 7 of 2 instances"):
        throughput(lambda servers: 7, (1.0, 1.0))
    with pytest.raises(InputError, match="3 factors for 2 instances"):
        throughput(routers.fastest_progress(np.random.default_rng(0), (1.0, 1.0, 1.0)), (1.0, 1.0))
