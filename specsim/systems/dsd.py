"""DSD: many edge devices draft, several cloud targets verify; who serves whom, and how far to draft (2511.21669).

A conversation is put on a target by a router and stays there. Its device drafts a window, sends it up, waits in the
target's batching window, and goes on when the reply is down. Windows are static, or follow what was accepted. In fused
mode drafter and target both run in the cloud and rounds cross no link. Lossless.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import PerPosition
from specsim.acceptance.modulated import MarkovModulated
from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.replayed import Replayed, replayed
from specsim.drafting.adaptive import LengthController, ShareWindow, SurvivalWindow
from specsim.drafting.learned_window import LearnedWindow, shipped
from specsim.errors import InputError
from specsim.simulation import routers
from specsim.simulation.expanded import run_expanded
from specsim.simulation.links import LinkLaw
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import RoundProgram
from specsim.simulation.round_rules import ChainRounds, ControlledRounds, RoundRule
from specsim.simulation.servers import Batching
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, Router, ServerSpec, Topology
from specsim.simulation.workload import ClosedLoop, Lognormal, Requests, Workload
from specsim.systems.composition import Composition
from specsim.systems.descriptor import Choice, Parameter, System
from specsim.systems.edge_devices import DEVICE, SERVER, Messages, device_programs, on_devices

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Mode = Literal["distributed", "fused"]

WINDOWS = (1, 2, 3, 4, 6, 8)
"""Windows that the released controller snaps to; its 1 stands for fused mode, which is ``mode`` here."""

MOST = max(WINDOWS)
STATIC = 4

ROUND_HEADER, PROMPT_HEADER, REPLY = 128.0, 512.0, 256.0
"""Bytes of a message beside its tokens, 2 each, in the released simulator."""

FALLBACK = PerPosition(tuple(float(np.clip(0.92 * 0.96**i, 0.25, 0.99)) for i in range(MOST)))
"""Acceptance by position that the released simulator falls back to without a trained model."""

ROUTERS: dict[str, Callable[[np.random.Generator, Sequence[float]], Router]] = {
    "random": lambda rng, factors: routers.random_router(rng),  # noqa: ARG005 - one signature for all
    "round-robin": lambda rng, factors: routers.round_robin(),  # noqa: ARG005
    "jsq": lambda rng, factors: routers.join_shortest_queue(rng),  # noqa: ARG005
    "jsq-2": lambda rng, factors: routers.shortest_of_two(rng),  # noqa: ARG005
    "weighted-jsq-2": routers.weighted_shortest_of_two,
    "jiq": lambda rng, factors: routers.join_idle_queue(rng),  # noqa: ARG005
    "semi-clairvoyant": routers.fastest_progress,
}
"""The seven routers by name, from draws and the targets' time factors."""


@dataclass(frozen=True)
class Costs:
    """Seconds: a drafted token on a device, and in the cloud; a target's batch, each sequence and position in it;
    a prompt token on a target, and on a drafter. All assumed: a 1B drafter, a 70B target.

    A batch of n sequences with windows up to k takes base + n (sequence + (k + 1) position).
    """

    draft_s: float = 5e-3
    cloud_draft_s: float = 5e-3
    base_s: float = 50e-3
    sequence_s: float = 0.3e-3
    position_s: float = 0.05e-3
    prefill_s_per_token: float = 0.1e-3
    draft_prefill_s_per_token: float = 0.03e-3

    def verify_s(self, sequences: float, k: float) -> float:
        """A batch of sequences with windows up to ``k``."""
        return self.base_s + sequences * (self.sequence_s + (k + 1) * self.position_s)

    def round_s(self, k: Ints, rtt_s: float, *, sequences: float = 1.0) -> Floats:
        """A round with window ``k`` while nobody queues, ``sequences`` verified together."""
        return np.asarray(k * self.draft_s + rtt_s + self.verify_s(sequences, np.asarray(k)))  # type: ignore[arg-type]


def round_of(k: int, costs: Costs, mode: Mode, *, mean_prompt: float) -> RoundProgram:
    """Draft ``k`` tokens and verify them. Messages as in the released simulator: 2 bytes a token, and a header."""

    def verify(n: object, kv: object) -> Floats:
        count = np.asarray(n, dtype=np.float64)
        return np.asarray(costs.base_s + count * (costs.sequence_s + (k + 1) * costs.position_s) + 0.0 * np.asarray(kv))

    edge = mode == "distributed"
    draft = timed_pass(
        "draft",
        costs.draft_s if edge else costs.cloud_draft_s,
        device="edge" if edge else "cloud",
        repeats=k,
        prefill_s_per_token=costs.draft_prefill_s_per_token,
    )
    target = timed_pass(
        "verify",
        verify,
        device="cloud",
        after=("draft",),
        bytes_in=2.0 * k + ROUND_HEADER,
        prompt_bytes_in=2.0 + PROMPT_HEADER / mean_prompt,
        prefill_s_per_token=costs.prefill_s_per_token,
    )
    return timed_program(f"{mode}, window {k}", k, draft, target)


class KnownStates:
    """The oracle's rounds: it sees the state of each conversation and drafts the window given for it."""

    def __init__(self, process: Replayed, windows: Sequence[int], streams: int, rng: np.random.Generator) -> None:
        if len(windows) <= int(process.states.max()):
            raise InputError(f"{len(windows)} windows for {int(process.states.max()) + 1} states", field="window")
        self._process, self._windows, self._rng = process, windows, rng
        self._at = process.start(streams, rng)

    def length(self, stream: int) -> int:
        """The window of the conversation's state."""
        row, place = self._at[stream]
        return self._windows[int(self._process.states[row, place])]

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """What survives."""
        accepted, after = self._process.verify(self._at[[stream]], k, self._rng)
        self._at[stream] = after[0]
        return int(accepted[0, 0]), int(accepted[0, 0]) + 1


def controller(name: str, round_s: Callable[[Ints], Floats], most: int = MOST) -> LengthController:
    """A window policy by name: ``back-off`` and ``threshold`` with the released constants, or ``learned``.

    round_s: seconds of a round by its window, which a learned window knows.
    """
    if name == "back-off":
        return ShareWindow(least=min(2, most), first=min(STATIC, most), most=most, shrink=0.25, grow=0.6)
    if name == "threshold":
        return SurvivalWindow(most=most, risk=0.7)
    if name == "learned":
        return LearnedWindow(shipped(), round_s, most)
    raise InputError(f"{name!r}; use static, back-off, threshold or learned", field="window")


def simulate(
    rng: np.random.Generator,
    *,
    drafters: int = 80,
    targets: int = 20,
    router: str = "jsq",
    window: str | Sequence[int] = "static",
    mode: Mode = "distributed",
    gamma: int = STATIC,
    time_factor: Sequence[float] = (),
    process: AcceptanceProcess = FALLBACK,
    costs: Costs | None = None,
    one_way_s: float = 8.35e-3,
    jitter: float = 0.12,
    bytes_per_s: float = 1.25e7,
    max_batch: int = 11,
    batch_window_s: float = 0.33e-3,
    think_s: float = 1.7,
    think_cv: float = 0.6,
    think_min_s: float = 0.22,
    mean_prompt: float = 70.0,
    mean_output: float = 130.0,
    conversations: int = 240,
) -> Outcome:
    """Drafters that ask, wait for the whole answer, think, and ask again, until all conversations are over.

    window: ``static`` (``gamma`` tokens), ``back-off``, ``threshold``, ``learned``, or a window for each state of a
    Replayed process (an oracle that sees it). time_factor: seconds of each target over ``costs``; empty: equal.
    """
    if router not in ROUTERS:
        raise InputError(f"{router!r}; use one of {', '.join(ROUTERS)}", field="router")
    if mode not in ("distributed", "fused"):
        raise InputError(f"{mode!r}; use distributed or fused", field="mode")
    if targets < 1 or drafters < 1:
        raise InputError(f"{drafters} drafters, {targets} targets; give at least 1", field="drafters, targets")
    if gamma < 1:
        raise InputError(f"{gamma}; give at least 1 drafted token", field="gamma")
    if not 0 <= think_s < np.inf or not 0 <= think_min_s < np.inf:
        raise InputError(f"{think_s} and {think_min_s} s; give 0 or more", field="think_s, think_min_s")
    price = costs or Costs()
    factors = tuple(time_factor) or (1.0,) * targets
    for_load, for_route, for_rounds, for_think, for_links = rng.spawn(5)
    load = Workload(ClosedLoop(drafters), Lognormal(mean_prompt, 0.5), Lognormal(mean_output, 0.5))
    requests = load.sample(conversations, for_load)
    law = LinkLaw(one_way_s, bytes_per_s, jitter)
    cloud = ServerSpec(
        "cloud", targets, Batching(max_batch, window_s=batch_window_s), ROUTERS[router](for_route, factors), factors
    )
    rule: RoundRule
    if not isinstance(window, str):
        if not isinstance(process, Replayed):
            raise InputError("windows for states need conversations whose states are known (Replayed)", field="window")
        rule, lengths = KnownStates(process, window, conversations, for_rounds), sorted(set(window))
    elif window == "static":
        rule, lengths = ChainRounds(process, gamma, conversations, for_rounds), [gamma]
    else:
        rtt_s = 2 * one_way_s if mode == "distributed" else 0.0
        policy = controller(window, lambda k: price.round_s(k, rtt_s))
        rule, lengths = ControlledRounds(process, policy, conversations, for_rounds), list(range(1, policy.most + 1))
    programs = {k: round_of(k, price, mode, mean_prompt=mean_prompt) for k in lengths}
    if mode == "distributed":
        place = Topology(
            (ServerSpec("edge", drafters), cloud),
            (LinkSpec("edge", "cloud", law), LinkSpec("cloud", "edge", law)),
            home="edge",
            reply_bytes=REPLY,
        )
    else:
        place = Topology((cloud,))
    pauses = Lognormal(max(1000 * think_s, 1.0), think_cv).sample(conversations, for_think) / 1000
    pauses = np.maximum(pauses, think_min_s) if think_s > 0 else np.zeros(conversations)
    return run_expanded(programs, rule, requests, place, for_links, think_s=lambda i: float(pauses[i]))


def _compose(setting: Setting) -> Composition:
    candidate, _ = setting.best(setting.drafters("draft_model"))
    process = candidate.process
    assert process is not None
    window, router = setting.words["window"], setting.words["router"]
    fixed = window == "static"
    most = setting.most(candidate, setting.count("gamma") if fixed else MOST)
    links = setting.own_links(DEVICE, SERVER, jitter="jitter")
    prompt_token = 2.0 + PROMPT_HEADER / setting.mean_prompt_tokens
    messages = Messages(setting.number("token_bytes"), ROUND_HEADER, prompt_token, REPLY)
    programs = device_programs(setting, candidate, (most,) if fixed else range(1, most + 1), messages)
    alone = {k: setting.seconds_alone(program.passes) for k, program in programs.items()}
    rtt_s = 2 * setting.numbers["one_way_s"]

    def rule(requests: Requests, rng: np.random.Generator) -> RoundRule:
        if fixed:
            return ChainRounds(process, most, len(requests), rng)
        policy = controller(window, lambda ks: np.array([alone[int(k)] + rtt_s for k in ks]), most)
        return ControlledRounds(process, policy, len(requests), rng)

    devices, targets = setting.count("drafters"), setting.count("targets")
    return on_devices(
        setting,
        programs,
        rule,
        devices=devices,
        links=links,
        messages=messages,
        batching=Batching(setting.deployment.scenario.serving.max_num_seqs, window_s=setting.number("batch_window_s")),
        ran_with=f"{candidate.short} on {devices} devices, window {most if fixed else f'1..{most}, {window}'}",
        assumed=("messages as in the released simulator: tokens and headers, no distributions",),
        targets=targets,
        router=lambda rng: ROUTERS[router](rng, (1.0,) * targets),
    )


def token_s(made: Outcome) -> float:
    """Seconds between tokens after the first, over all tokens."""
    result = made.result
    return float((result.finish_s - result.first_token_s).sum() / (result.output_tokens - 1).sum())


def conversations_per_s(made: Outcome) -> float:
    """Conversations a second between the first and the last fifth of all that finish: neither filling nor draining."""
    ends = np.sort(made.result.finish_s)
    first, last = len(ends) // 5, 4 * len(ends) // 5
    if len(ends) < 5:
        raise InputError(f"{len(ends)} conversations; give 5 or more", field="conversations")
    return float((last - first) / (ends[last] - ends[first]))


def oracle_windows(rates: Sequence[float], *, conversations: int, seed: int, **case: Any) -> tuple[int, ...]:
    """The window with most tokens a second for each acceptance rate, found by replaying the same conversations.

    case: what else ``simulate`` takes.
    """
    best = []
    for rate in rates:
        talks = replayed(MarkovModulated((rate,), ((1.0,),)), conversations, 500, np.random.default_rng(seed))
        given: dict[str, Any] = {**case, "process": talks, "conversations": conversations}
        seconds = [token_s(simulate(np.random.default_rng(seed), gamma=k, **given)) for k in WINDOWS]
        best.append(WINDOWS[int(np.argmin(seconds))])
    return tuple(best)


SYSTEM = System(
    name="dsd",
    title="DSD: A Distributed Speculative Decoding Solution for Edge-Cloud Agile Large Model Serving",
    paper="2511.21669",
    year=2025,
    lossless="yes",
    topology="M edge drafters, N cloud targets, a link for each pair (or all in the cloud: fused)",
    pipeline="think -> route -> prefill -> [draft a window -> uplink -> batch -> verify -> downlink] until answered",
    rule="min(1, p/q), residual on rejection; a window is static or follows acceptance; the target is kept",
    parameters=(
        Parameter("drafters", 80, "devices that draft", "released scenario"),
        Parameter("targets", 20, "servers that verify", "released scenario"),
        Parameter("gamma", STATIC, "static window", "released code"),
        Parameter("one_way_s", 8.35e-3, "latency of a message", "middle of the released 5.2..11.5 ms"),
        Parameter("jitter", 0.12, "of that latency", "released code"),
        Parameter("bytes_per_s", 1.25e7, "bandwidth of a link", "assumed: 100 Mbit/s"),
        Parameter("max_batch", 11, "requests of a batch at most", "released scenario (11..14)"),
        Parameter("batch_window_s", 0.33e-3, "how long a target gathers a batch", "released scenario (.31...35 ms)"),
        Parameter("think_s", 1.7, "mean pause before the next question", "released scenario"),
        Parameter("think_cv", 0.6, "its coefficient of variation (log-normal)", "released scenario"),
        Parameter("think_min_s", 0.22, "shortest pause", "released scenario"),
        Parameter("mean_prompt", 70.0, "prompt tokens (log-normal, cv 0.5)", "assumed"),
        Parameter("mean_output", 130.0, "answer tokens (log-normal, cv 0.5)", "assumed"),
        Parameter("conversations", 240, "conversations simulated", "-"),
    ),
    assumptions=(
        "seconds of drafting and of a batch: linear laws, constants assumed (the paper's regressor is not published)",
        "acceptance by position is the released fallback curve; its trained classifier is not published",
        "a window is chosen every round (the released code: once a conversation); what is rejected is drafted again",
        "every drafter reaches every target (the released scenario gives each a choice of 4)",
        "the learned window predicts acceptance and knows costs and round trip; it does not switch to fused mode",
        "fused: prompts and answers cross the link outside the rounds and are not timed",
    ),
    batches="each target batches what comes within its window, up to max_batch",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("draft_s", None, "seconds of a drafted token on a device", "-"),
        Parameter("prompt_s", None, "seconds of a prompt token on a device", "-"),
        Parameter("bytes_per_s", None, "bandwidth of a device's link, each way", "-"),
        Parameter("one_way_s", 8.35e-3, "latency of a message", "middle of the released 5.2..11.5 ms"),
        Parameter("jitter", 0.12, "of that latency", "released code"),
        Parameter("token_bytes", 2, "of a drafted token in a message", "released code"),
        Parameter("drafters", 80, "devices that draft", "released scenario"),
        Parameter("targets", 1, "replicas that verify", "assumed: the scenario's one"),
        Parameter("batch_window_s", 0.33e-3, "how long a target gathers a batch", "released scenario (.31...35 ms)"),
        Parameter("gamma", STATIC, "static window", "released code"),
    ),
    choices=(
        Choice("router", ("jsq", *sorted(set(ROUTERS) - {"jsq"})), "which replica a request is on", "assumed"),
        Choice(
            "window",
            ("static", "back-off", "threshold", "learned"),
            "how far to draft, 1 to 8",
            "released code; the learned one is ours",
        ),
    ),
    study="dsd",
)
