"""What cannot run is found when it is built, or at once when it happens, and named."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.simulation.expanded import run_expanded
from specsim.simulation.links import LinkLaw
from specsim.simulation.program import RoundProgram
from specsim.simulation.servers import Batching
from specsim.simulation.timed import no_host, timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology, on_one
from specsim.simulation.workload import Requests


class Rule:
    def __init__(self, k=2, accepted=1, emitted=2):
        self.k, self.accepted, self.emitted = k, accepted, emitted

    def length(self, stream):
        return self.k

    def settle(self, stream, k):
        return self.accepted, self.emitted


class Gives(Rule):
    """Whatever it is told to."""

    def __init__(self, made):
        super().__init__()
        self.made = made

    def settle(self, stream, k):
        return self.made


def two(bonus=1, **changes):
    draft = timed_pass("draft", 1e-3, device="edge", repeats=2)
    verify = timed_pass("verify", **{"seconds": 5e-3, "device": "cloud", "after": ("draft",)} | changes)
    return timed_program("two", 2, draft, verify, bonus=bonus)


FREE = LinkLaw()


def place(law=FREE, **changes):
    servers = changes.pop("servers", (ServerSpec("edge"), ServerSpec("cloud")))
    return Topology(servers, **{"links": (LinkSpec("edge", "cloud", law),)} | changes)


def go(program=None, rule=None, topology=None, *, n=2, **options):
    requests = Requests(np.zeros(n), np.full(n, 5), np.full(n, 20))
    options = {"prompt_cached": True} | options
    return run_expanded(
        two() if program is None else program,
        rule or Rule(),
        requests,
        topology or place(),
        np.random.default_rng(0),
        **options,
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: go(two(after=("nobody",))), "stage verify: waits for 'nobody', which is no stage"),
        (lambda: go(two(device="gpu")), "stage verify: runs on 'gpu', which no server stands for"),
        (lambda: go(RoundProgram("none", 2, (), no_host)), "none: has no passes"),
        (
            lambda: go(
                timed_program(
                    "ring",
                    2,
                    timed_pass("draft", 1.0, device="edge", after=("verify",)),
                    timed_pass("verify", 1.0, device="cloud", after=("draft",)),
                )
            ),
            "ring: stages wait for each other: draft -> verify -> draft",
        ),
        (lambda: go(topology=place(LinkLaw(bytes_per_s=0.0))), "link edge -> cloud: bytes_per_s: 0 bytes/s carry noth"),
        (lambda: go(topology=place(LinkLaw(loss=1.0, retry_s=1.0))), "link edge -> cloud: loss: 1.0"),
        (lambda: go(topology=place(LinkLaw(loss=0.1))), "never sent again"),
        (lambda: go(topology=place(LinkLaw(latency_s=-1.0))), "link edge -> cloud: latency_s"),
        (lambda: go(topology=place(LinkLaw(jitter=2.0))), "link edge -> cloud: jitter"),
        (lambda: go(topology=place(links=())), "no link from edge to cloud"),
        (lambda: go(topology=place(home="edge")), "no link from cloud to edge"),
        (lambda: go(topology=place(home="moon")), "home: no server stands for 'moon'"),
        (lambda: go(topology=on_one("edge", "edge")), "server edge: is given twice"),
        (lambda: go(topology=place(servers=(ServerSpec("edge", 0), ServerSpec("cloud")))), "edge: instances: 0"),
        (
            lambda: go(topology=place(servers=(ServerSpec("edge"), ServerSpec("cloud", 2, time_factor=(1.0,))))),
            "server cloud: time_factor: 1 factors for 2 instances",
        ),
        (
            lambda: go(topology=place(servers=(ServerSpec("edge"), ServerSpec("cloud", batching=Batching(2, 3))))),
            "server cloud: min_batch: 3",
        ),
        (lambda: go(rule=Rule(k=-1)), "rule Rule: length: asks for -1 drafted tokens (request 0, 0 s)"),
        (lambda: go(rule=Rule(k=7)), "rule Rule: length: asks for 7 drafted tokens"),
        (lambda: go(rule=Rule(k="2")), "rule Rule: length: asks for '2' drafted tokens"),
        (lambda: go(rule=Rule(k=[2])), "rule Rule: length: asks for [2] drafted tokens"),
        (lambda: go(rule=Rule(accepted=3, emitted=4)), "rule Rule: settle: accepts 3 of 2 drafted tokens (request 0, "),
        (lambda: go(rule=Rule(accepted=-1, emitted=0)), "rule Rule: settle: accepts -1 of 2"),
        (lambda: go(rule=Rule(accepted=2, emitted=1)), "rule Rule: settle: emits 1 tokens though 2 were accepted"),
        (lambda: go(rule=Rule(accepted=1, emitted=3)), "rule Rule: settle: emits 3 tokens though 1 were accepted; a"),
        (lambda: go(two(bonus=3), Rule(accepted=1, emitted=5)), "though 1 were accepted; a bonus of 3 is all"),
        (lambda: go(rule=Rule(accepted=1.5)), "rule Rule: settle: gives (1.5, 2), not two or three whole numbers"),
        (lambda: go(rule=Rule(emitted=float("nan"))), "rule Rule: settle: gives (1, nan), not two or three whole"),
        (lambda: go(rule=Gives(3)), "rule Gives: settle: gives 3, not two or three whole numbers"),
        (lambda: go(rule=Gives(None)), "rule Gives: settle: gives None, not two or three whole numbers"),
        (lambda: go(rule=Gives((1,))), "rule Gives: settle: gives (1,), not two or three whole numbers"),
        (lambda: go(rule=Gives((1, 2, 0, 0))), "rule Gives: settle: gives (1, 2, 0, 0), not two or three whole"),
        (lambda: go(rule=Gives((1, 2, -1))), "rule Gives: settle: gives (1, 2, -1), not two or three whole numbers"),
        (lambda: go({3: two()}), "drafts 2 tokens, listed under 3"),
        (lambda: go({}), "no round program"),
        (lambda: go(seats=0), "seats: 0"),
        (lambda: go(two(seconds=-1.0)), "stage verify: seconds: -1.0"),
        (lambda: go(two(seconds="3")), "stage verify: seconds: '3' s; give 0 or more"),
        (lambda: go(two(seconds=float("nan"))), "stage verify: seconds: nan s; give 0 or more"),
        (lambda: go(two(prefill_s_per_token=-1.0)), "stage verify: prefill_s_per_token: -1.0 s; give 0 or more"),
        (lambda: go(two(seconds=lambda n, kv: 1.0 if n > 3 else 2.0)), "stage verify: seconds: the law fails on array"),
        (lambda: go(two(seconds=lambda n, kv: "soon")), "stage verify: seconds: the law fails on arrays"),
        (lambda: go(two(seconds=lambda n, kv: np.ones(3))), "stage verify: seconds: the law fails on arrays"),
        (lambda: go(two(seconds=lambda n, kv: np.ones((2, 1, 1)))), "seconds: the law makes shape (2, 1, 1) of arrays"),
        (lambda: go(two(bytes_in=-1.0)), "stage verify: bytes_in: -1.0"),
        (
            lambda: go(prompt_cached=False),
            "two: draft: computes a prompt in no time; give a pass prefill_s_per_token, or run with prompt_cached",
        ),
        (lambda: timed_program("t", 1, timed_pass("a", 1.0), timed_pass("a", 1.0)), None),
    ],
)
def test_named_at_once(make, message):
    if message is None:
        with pytest.raises(InputError, match="stage a: two stages have this name"):
            go(make(), topology=on_one("gpu"))
        return
    with pytest.raises(InputError) as caught:
        make()
    assert message in caught.value.lines[0]
    assert len(caught.value.lines) == 1


def test_a_static_batch_that_never_fills_is_found_when_it_is_built():
    servers = (ServerSpec("edge", 3), ServerSpec("cloud", batching=Batching(8, min_batch=8)))
    with pytest.raises(InputError, match="server cloud: min_batch: a batch of 8 never fills with 3 streams at a time"):
        go(topology=place(servers=servers), n=3)


def test_a_static_batch_whose_last_ones_wait_for_ever_says_who_waits():
    """Three streams of different lengths: when the first ends, the other two wait for a third."""

    class Uneven(Rule):
        def settle(self, stream, k):
            return self.accepted, self.emitted if stream else 20

    servers = (ServerSpec("edge", 3), ServerSpec("cloud", batching=Batching(3, min_batch=3)))
    with pytest.raises(InputError) as caught:
        go(two(bonus=19), Uneven(), place(servers=servers), n=3)
    first, *rest = caught.value.lines
    assert "a deadlock" in first
    assert len(rest) == 2
    assert all("(stage verify) waits for server cloud" in line for line in rest)
    assert all("waits for 1 more for its batch of 3" in line for line in rest)


def test_a_rule_that_never_emits_is_found():
    with pytest.raises(InputError) as caught:
        go(rule=Rule(accepted=0, emitted=0), n=2, patience=5000)
    first, *rest = caught.value.lines
    assert "no commit in 5000 events" in first
    assert len(rest) == 2
    assert all("request" in line for line in rest)


def test_those_who_wait_for_a_seat_are_named():
    with pytest.raises(InputError) as caught:
        go(rule=Rule(accepted=0, emitted=0), n=3, seats=1, patience=5000)
    assert sum("waits for a seat" in line for line in caught.value.lines) == 2


def test_a_message_on_its_way_is_named():
    with pytest.raises(InputError) as caught:
        go(rule=Rule(accepted=0, emitted=0), topology=place(LinkLaw(latency_s=1.0)), n=1, patience=5001)
    assert "link edge[0] -> cloud[0]" in caught.value.lines[1] or "runs stage" in caught.value.lines[1]


def test_a_static_batch_that_waits_for_one_without_blocks_says_so():
    draft = timed_pass("draft", 1e-3, device="edge", repeats=2, prefill_s_per_token=1e-4)
    verify = timed_pass("verify", 5e-3, device="cloud", after=("draft",), prefill_s_per_token=1e-4)
    servers = (ServerSpec("edge", 3), ServerSpec("cloud", batching=Batching(3, min_batch=3), num_blocks=4))
    with pytest.raises(InputError) as caught:
        go(timed_program("two", 2, draft, verify), topology=place(servers=servers), n=3, prompt_cached=False)
    assert "a deadlock" in caught.value.lines[0]
    assert any("cache blocks on server cloud, 0 are free" in line for line in caught.value.lines), caught.value.lines


def test_a_batch_of_all_that_a_server_serves_waits_for_none_without_blocks():
    draft = timed_pass("draft", 1e-3, device="edge", repeats=2, prefill_s_per_token=1e-4)
    verify = timed_pass("verify", 5e-3, device="cloud", after=("draft",), prefill_s_per_token=1e-4)
    made = {}
    for blocks in (4, None):
        batching = Batching(3, min_batch=3, or_all=True)
        servers = (ServerSpec("edge", 3), ServerSpec("cloud", batching=batching, num_blocks=blocks))
        made[blocks] = go(
            timed_program("two", 2, draft, verify), topology=place(servers=servers), n=3, prompt_cached=False
        )
    assert np.isfinite(made[4].result.finish_s).all()
    assert made[4].servers[-1].mean_batch < made[None].servers[-1].mean_batch == 3
