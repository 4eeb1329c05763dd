"""SLED: many weak devices draft with their own small models, one edge server verifies for all of them in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import simpy
from simpy.events import Event, Timeout

from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.stopping import ConfidenceThreshold
from specsim.errors import InputError
from specsim.simulation.expanded import run_expanded
from specsim.simulation.graph import batch_seconds
from specsim.simulation.links import Link, LinkLaw
from specsim.simulation.round_rules import SignalRounds
from specsim.simulation.servers import Batching, Job, Server
from specsim.systems.apart import TOKEN_BYTES
from specsim.systems.composition import Composition
from specsim.systems.descriptor import Choice, Parameter, System
from specsim.systems.edge_devices import DEVICE, SERVER, Messages, device_programs, on_devices

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Mode = Literal["static", "eager", "deadline"]
WINDOW_S = 2e-3
"""How long a server that doesn't wait for a full batch gathers requests: assumed."""

STATIC = 16
"""Requests of a static batch: assumed."""


@dataclass(frozen=True)
class VerifyLaw:
    """Seconds of a pass over ``n`` sequences padded to the longest block: base + each n + token longest. Assumed."""

    base_s: float = 25e-3
    sequence_s: float = 0.2e-3
    token_s: float = 0.3e-3

    def seconds(self, sequences: int, longest: int) -> float:
        """A pass; longest 0 is plain decoding."""
        return self.base_s + self.sequence_s * sequences + self.token_s * longest


@dataclass(frozen=True)
class Served:
    """What came of a run: tokens a second in time for their deadline, share of replies late, and the server's means.

    tokens_a_round counts rounds in time; messages lost were sent again.
    """

    tokens_per_s: float
    late_share: float
    tokens_a_round: float
    batch_s: float
    mean_batch: float
    lost: int
    replies: int


def simulate(
    rng: np.random.Generator,
    *,
    devices: int = 64,
    max_batch: int = STATIC,
    mode: Mode = "static",
    deadline_s: float = float("inf"),
    speculative: bool = True,
    rate: float = 0.7,
    correlation: float = 0.8,
    threshold: float = 0.2,
    most: int = 8,
    draft_s: float = 20e-3,
    one_way_s: float = 5e-3,
    loss: float = 0.0,
    law: VerifyLaw | None = None,
    duration_s: float = 60.0,
) -> Served:
    """Devices that decode without pause; a reply later than ``deadline_s`` after its request is worth nothing.

    mode: how the server batches (``batches``). A late reply's round is drafted again; a lost message is sent again
    after four one-way times. speculative off: the centralised server, one token a request.
    """
    if devices < 1 or not deadline_s > 0 or mode not in ("static", "eager", "deadline"):
        raise InputError("needs devices, a deadline above 0, and static, eager or deadline", field="devices, mode")
    env, cost = simpy.Environment(), law or VerifyLaw()
    process, policy = CopulaSignals((rate,), correlation), ConfidenceThreshold(threshold, most)
    rounds = SignalRounds(process, policy, devices, rng)

    def price(jobs: Sequence[Job]) -> float:
        return cost.seconds(len(jobs), max(job.what for job in jobs))

    server = Server(env, "edge server", price, batches(mode, max_batch, WINDOW_S, price))
    server.streams = devices
    way = LinkLaw(one_way_s, loss=loss, retry_s=4 * one_way_s)
    up, down = (Link(env, name, way, rng) for name in ("uplink", "downlink"))
    emitted = late = replies = 0

    def begin(device: int, _: Event | None = None) -> None:
        k = rounds.length(device) if speculative else 0
        Timeout(env, k * draft_s).callbacks.append(lambda _: request(device, k))

    def request(device: int, k: int) -> None:
        due = env.now + deadline_s

        def verified(_: Job) -> None:
            down.send(0.0, lambda _: reply(device, k, due))

        up.send(0.0, lambda _: server.submit(Job(device, k, verified, priority=due - one_way_s)))

    def reply(device: int, k: int, due: float) -> None:
        nonlocal emitted, late, replies
        replies += 1
        tokens = rounds.settle(device, k)[1] if speculative else 1
        if env.now <= due + 1e-12:
            emitted += tokens
        else:
            late += 1
        begin(device)

    starts = rng.uniform(0.0, draft_s * most, devices)
    for device in range(devices):
        Timeout(env, starts[device]).callbacks.append(partial(begin, device))
    env.run(until=duration_s)
    use = server.use()
    return Served(
        tokens_per_s=emitted / duration_s,
        late_share=late / replies if replies else 0.0,
        tokens_a_round=emitted / max(replies - late, 1),
        batch_s=use.busy_s / max(use.batches, 1),
        mean_batch=use.mean_batch,
        lost=up.lost + down.lost,
        replies=replies,
    )


def batches(mode: Mode, max_batch: int, window_s: float, seconds: Callable[[Sequence[Job]], float]) -> Batching:
    """How the server forms batches of at most ``max_batch``; ``seconds(jobs)`` is what a batch would take.

    ``static`` waits for ``max_batch``, or for all that it serves where they are fewer. ``eager`` gathers for
    ``window_s``. So does ``deadline``, but it takes the most urgent first (a job's priority is when it must be done),
    and no more than end in time.
    """
    if mode == "static":
        return Batching(max_batch, min_batch=max_batch, or_all=True)
    if mode == "eager":
        return Batching(max_batch, window_s=window_s)

    def in_time(queue: Sequence[Job], now: float) -> range:
        fits = 1
        for n in range(2, min(max_batch, len(queue)) + 1):
            if now + seconds(queue[:n]) <= max(queue[n - 1].priority, queue[0].priority):
                fits = n
        return range(fits)

    return Batching(max_batch, window_s=window_s, order="priority", take=in_time)


def _compose(setting: Setting) -> Composition:
    candidate, _ = setting.best(setting.drafters("draft_model"))
    most = setting.most(candidate, setting.count("most"))
    process = CopulaSignals(setting.conditional_rates(candidate, most), setting.number("correlation", most=0.999))
    policy = ConfidenceThreshold(setting.number("threshold", most=1), most)
    links = setting.own_links(DEVICE, SERVER)
    messages = Messages(setting.number("token_bytes"), TOKEN_BYTES, TOKEN_BYTES, TOKEN_BYTES * (most + 1))
    programs = device_programs(setting, candidate, range(1, most + 1), messages)
    devices, one_way_s = setting.count("devices"), setting.numbers["one_way_s"]
    deadline_s, mode = setting.number("deadline_s", above=0), cast("Mode", setting.words["batching"])
    alone = setting.seconds_alone(programs[most].passes[:1]) + 2 * one_way_s
    if deadline_s < alone:
        raise InputError(
            f"{deadline_s:g} s; a round takes {alone:.3g} s on the server and its links alone, so give more",
            field="systems.sled.deadline_s",
        )
    if mode == "deadline" and deadline_s == np.inf:
        raise InputError(
            '"deadline"; give a deadline_s to batch by, or another batching', field="systems.sled.batching"
        )
    batch = setting.deployment.scenario.serving.max_num_seqs
    if mode == "static":
        batch = min(batch, setting.count("static_batch"))
    window_s = setting.number("window_s")

    def due(stream: int, stage: str, now: float) -> float:  # noqa: ARG001 - asked of every stage
        return now + deadline_s - 2 * one_way_s

    how = {"static": f"static batches of {batch}", "eager": "batches of what comes", "deadline": "batches by deadline"}
    return on_devices(
        setting,
        programs,
        lambda requests, rng: SignalRounds(process, policy, len(requests), rng),
        devices=devices,
        links=links,
        messages=messages,
        batching=batches(mode, batch, window_s, lambda jobs: batch_seconds(jobs)[0]),
        ran_with=f"{candidate.short} on {devices} devices, K = 1..{most} by confidence, {how[mode]}"
        + (f", replies within {1000 * deadline_s:g} ms" if deadline_s < np.inf else ""),
        assumed=(
            "the drafter's confidence and acceptance follow a Gaussian copula",
            *(("a static batch waits for no device that has no request; prompts count in it",) * (mode == "static")),
        ),
        execute=partial(run_expanded, deadline_s=deadline_s, priority=due if mode == "deadline" else None),
    )


SYSTEM = System(
    name="sled",
    title="SLED: A Speculative LLM Decoding Framework for Efficient Edge Serving",
    paper="2506.09397",
    year=2025,
    lossless="yes",
    topology="many devices with a small model each, one edge server with the target",
    pipeline="device: draft until unsure -> uplink -> batch -> verify -> downlink -> device",
    rule="min(1, p/q), residual on rejection; an unsure token ends the draft and is verified too",
    parameters=(
        Parameter("devices", 64, "devices that decode without pause", "assumed"),
        Parameter("max_batch", STATIC, "requests of a batch", "assumed"),
        Parameter("rate", 0.7, "acceptance per position", "assumed: about three tokens a round"),
        Parameter("correlation", 0.8, "of confidence and acceptance", "assumed"),
        Parameter("threshold", 0.2, "confidence that ends a draft", "assumed; the paper sets it empirically"),
        Parameter("most", 8, "longest draft", "assumed"),
        Parameter("draft_s", 20e-3, "seconds of a drafting step on a device", "assumed"),
        Parameter("one_way_s", 5e-3, "seconds of a message", "assumed"),
        Parameter("loss", 0.0, "probability that a message is lost", "assumed"),
        Parameter("deadline_s", float("inf"), "seconds after its request at which a reply is worth nothing", "none"),
    ),
    assumptions=(
        "models, times, batch size and links: none is published, all are assumed",
        "a batch lasts as long as its longest block (padding)",
        "a device waits for its reply; drafting on meanwhile, which the paper mentions, is not modelled",
        "a reply after its deadline is dropped and its round drafted again",
    ),
    batches="the server batches devices: static (the paper's, by a later work's account), eager, or by deadline",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("draft_s", None, "seconds of a drafted token on a device", "-"),
        Parameter("prompt_s", None, "seconds of a prompt token on a device", "-"),
        Parameter("one_way_s", None, "latency of a message", "-"),
        Parameter("bytes_per_s", None, "bandwidth of a device's link, each way", "-"),
        Parameter("devices", None, "devices that draft", "-"),
        Parameter("correlation", None, "of the drafter's confidence and acceptance, 0 to below 1", "-"),
        Parameter(
            "token_bytes",
            TOKEN_BYTES,
            "of a drafted token in a message; sampling needs its law too, 2 a word",
            "assumed: its number alone, as greedy decoding needs",
        ),
        Parameter("threshold", 0.2, "confidence that ends a draft", "assumed; the paper sets it empirically"),
        Parameter("most", 8, "longest draft", "assumed"),
        Parameter("window_s", WINDOW_S, "how long the server gathers a batch that is not static", "assumed"),
        Parameter("static_batch", STATIC, "requests of a static batch, max_num_seqs at most", "assumed"),
        Parameter("deadline_s", float("inf"), "seconds after its request at which a reply is worth nothing", "none"),
    ),
    choices=(
        Choice(
            "batching",
            ("eager", "static", "deadline"),
            "how the server forms batches",
            "assumed; a later work calls the paper's static",
        ),
    ),
    study="sled",
)
