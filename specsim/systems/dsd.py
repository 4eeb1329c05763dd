"""DSD: many edge devices draft, several cloud targets verify; who serves whom, and how far to draft (2511.21669).

A conversation is put on a target by a router and stays there. Its device drafts a window, sends it up, waits in the
target's batching window, and goes on when the reply is down. Windows are static, or follow what was accepted. In fused
mode drafter and target both run in the cloud and rounds cross no link; a conversation may switch from round to round.
Lossless.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specsim.simulation.round_rules import ChainRounds, ControlledRounds, RoundRule
from specsim.simulation.workload import Requests
from specsim.systems.composition import Composition
from specsim.systems.descriptor import Choice, Parameter, System
from specsim.systems.dsd_rounds import PROMPT_HEADER, REPLY, ROUND_HEADER
from specsim.systems.dsd_serving import BATCHINGS, ROUTERS, batches, simulate
from specsim.systems.dsd_windows import MOST, STATIC, controller
from specsim.systems.edge_devices import DEVICE, SERVER, Messages, device_programs, on_devices

if TYPE_CHECKING:
    from specsim.planning.setting import Setting


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
    batching, batch = setting.words["batching"], setting.deployment.scenario.serving.max_num_seqs
    if setting.numbers["max_batch"] < np.inf:
        batch = min(batch, setting.count("max_batch"))
    return on_devices(
        setting,
        programs,
        rule,
        devices=devices,
        links=links,
        messages=messages,
        batching=batches(batching, batch, setting.number("batch_window_s")),
        ran_with=f"{candidate.short} on {devices} devices, window {most if fixed else f'1..{most}, {window}'}"
        + (", like windows together" if batching == "length-aware" else ""),
        assumed=("messages as in the released simulator: tokens and headers, no distributions",),
        targets=targets,
        router=lambda rng: ROUTERS[router](rng, (1.0,) * targets),
    )


SYSTEM = System(
    name="dsd",
    title="DSD: A Distributed Speculative Decoding Solution for Edge-Cloud Agile Large Model Serving",
    paper="2511.21669",
    year=2025,
    lossless="yes",
    topology="M edge drafters, N cloud targets, a link for each pair (or all in the cloud: fused)",
    pipeline="think -> route -> prefill -> [draft a window -> uplink -> batch -> verify -> downlink] until answered",
    rule="min(1, p/q), residual on rejection; a window is static or follows acceptance, as may the mode",
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
        "the learned window predicts acceptance and knows the costs of a round alone and the round trip, not the queue",
        "a switch picks the faster mode at its own best window, every round; a fused decision is kept for one more",
        "where rounds switch, both drafters know every prompt and keep up with what is emitted; both accept alike",
        "a batch lasts as long as its longest member",
        "length-aware: the first job and windows that pad it least (the paper names it; its rule was not found)",
        "fused: prompts and answers cross the link outside the rounds and are not timed",
    ),
    batches="each target batches what comes within its window, up to max_batch: in order, or like windows together",
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
        Parameter("max_batch", float("inf"), "requests of a batch, max_num_seqs at most; fewer make a queue", "none"),
    ),
    choices=(
        Choice("router", ("jsq", *sorted(set(ROUTERS) - {"jsq"})), "which replica a request is on", "assumed"),
        Choice(
            "window",
            ("static", "back-off", "threshold", "learned"),
            "how far to draft, 1 to 8",
            "released code; the learned one is ours",
        ),
        Choice("batching", BATCHINGS, "which jobs a batch takes", "released code; the other is our reading of a name"),
    ),
    study="dsd",
)
