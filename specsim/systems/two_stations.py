"""A small station that drafts and a macro station that verifies, for a scenario's requests as they come."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from specsim.simulation.links import LinkLaw
from specsim.simulation.program import RoundProgram
from specsim.simulation.round_rules import ChainRounds
from specsim.simulation.servers import Batching
from specsim.simulation.timed import timed_pass
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology
from specsim.systems.apart import TOKEN_BYTES, across
from specsim.systems.composition import Composition, on_servers

if TYPE_CHECKING:
    from specsim.planning.deployment import Candidate
    from specsim.planning.setting import Setting

USER, SMALL, MACRO, DESK = "user", "small station", "macro station", "small station's desk"
"""The desk sees replies while the small station drafts for others."""

BATCHES_IN_FLIGHT = 2

MOMENT_S = 1e-9
"""A pass that only stands where a message leaves or arrives must take time; what comes within it comes together."""


def compose(setting: Setting) -> Composition:
    """Two batches alternate on both stations; prompts share the uplink, drafts and replies the fronthaul."""
    candidate, k = setting.best(setting.drafters("draft_model"))
    process, most = candidate.process, setting.count("max_batch")
    assert process is not None
    uplink = LinkLaw(bytes_per_s=setting.number("uplink_bytes_per_s", above=0), sharing="shared")
    down, up = setting.own_links(SMALL, MACRO, latency="fronthaul_s", bandwidth="fronthaul_bytes_per_s")
    seats = BATCHES_IN_FLIGHT * most
    cache, apart = setting.deployment.serving(None, 0), setting.other_end.memory(candidate)
    together = Batching(most, window_s=MOMENT_S)
    place = Topology(
        (
            ServerSpec(MACRO, batching=together, num_blocks=cache.num_blocks, block_size=cache.block_size),
            ServerSpec(SMALL, batching=together, num_blocks=apart.num_gpu_blocks, block_size=apart.block_size),
            ServerSpec(DESK, seats),
            ServerSpec(USER, seats),
        ),
        (
            LinkSpec(USER, SMALL, uplink, per="all"),
            replace(down, law=replace(down.law, sharing="shared"), per="all"),  # a batch arrives as one message would
            LinkSpec(MACRO, DESK, replace(up.law, sharing="shared"), per="all"),
            LinkSpec(DESK, USER, LinkLaw()),
        ),
    )
    return on_servers(
        setting,
        candidate,
        {k: program(setting, candidate, k)},
        lambda requests, rng: ChainRounds(process, k, len(requests), rng),
        ran_with=f"{candidate.short} on the small station, K = {k}, batches of {most} at most",
        assumed=(
            "batches form as requests come: the paper plans them for tasks that all wait at time 0",
            "the stations are the scenario's GPUs, not the paper's",
            "a drafted token travels with its 16-bit distribution, a prompt token with its number",
            "an answer's way to the user is not charged",
        ),
        devices=(setting.replica(None, 0), setting.other_end.device(candidate)),
        topology=place,
        seats=seats,
    )


def program(setting: Setting, candidate: Candidate, k: int) -> RoundProgram:
    """Upload (prompts only), draft, fronthaul, verify, fronthaul."""
    first, *rest = setting.other_end.passes(candidate, k, device=SMALL)
    asked = timed_pass("upload", MOMENT_S, device=USER, prefill_s_per_token=MOMENT_S)
    drafting = (replace(first, after=(asked.name,), prompt_bytes_in=TOKEN_BYTES), *rest)
    made = across(
        drafting,
        setting.verify_pass(k, device=MACRO),
        setting.host(candidate, k),
        k,
        bytes_in=k * setting.other_end.drafted_bytes(candidate),
        prompt_bytes_in=TOKEN_BYTES,
    )
    seen = timed_pass(
        "settle",
        MOMENT_S,
        device=DESK,
        prefill_s_per_token=MOMENT_S,
        after=("verify",),
        bytes_in=TOKEN_BYTES * (k + 1),
        prompt_bytes_in=TOKEN_BYTES / setting.mean_prompt_tokens,
    )
    return replace(made, passes=(*made.passes, asked, seen))
