"""Many devices with a small model each, and the scenario's replicas that verify for all of them."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from specsim.simulation.expanded import run_expanded
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import RoundProgram
from specsim.simulation.round_rules import RoundRule
from specsim.simulation.servers import Batching
from specsim.simulation.topology import LinkSpec, Router, ServerSpec, Topology
from specsim.simulation.workload import Requests
from specsim.systems.apart import across
from specsim.systems.composition import Composition, on_servers

if TYPE_CHECKING:
    from specsim.planning.deployment import Candidate
    from specsim.planning.setting import Setting

DEVICE, SERVER = "device", "server"


@dataclass(frozen=True)
class Messages:
    """Bytes: of a drafted token, of what goes around a round's tokens, of a prompt token, and of a reply."""

    token: float
    round: float
    prompt_token: float
    reply: float


def device_programs(
    setting: Setting, candidate: Candidate, lengths: Iterable[int], messages: Messages
) -> dict[int, RoundProgram]:
    """Rounds by draft length: the device's passes take the seconds that the scenario says, the target's its price."""
    return {
        k: across(
            setting.device_passes(candidate, k, device=DEVICE),
            setting.verify_pass(k, device=SERVER),
            setting.host(candidate, k),
            k,
            bytes_in=messages.token * k + messages.round,
            prompt_bytes_in=messages.prompt_token,
        )
        for k in lengths
    }


def on_devices(
    setting: Setting,
    programs: dict[int, RoundProgram],
    rule: Callable[[Requests, np.random.Generator], RoundRule],
    *,
    devices: int,
    links: tuple[LinkSpec, LinkSpec],
    messages: Messages,
    batching: Batching,
    ran_with: str,
    assumed: tuple[str, ...],
    targets: int = 1,
    router: Callable[[np.random.Generator], Router] | None = None,
    execute: Callable[..., Outcome] = run_expanded,
) -> Composition:
    """Rounds of ``device_programs`` on ``devices`` devices and ``targets`` replicas, which alone count as GPUs.

    A request has a device while it is served; with more requests at a time than devices some share one. router: which
    replica it is on; None: in turn.
    """
    cache = setting.deployment.serving(None, 0)

    def place(rng: np.random.Generator) -> Topology:
        server = ServerSpec(
            SERVER, targets, batching, router(rng) if router else "seat",
            num_blocks=cache.num_blocks, block_size=cache.block_size,
        )  # fmt: skip
        return Topology((server, ServerSpec(DEVICE, devices)), links, home=DEVICE, reply_bytes=messages.reply)

    replica = setting.replica(None, 0)
    return on_servers(
        setting,
        None,
        programs,
        rule,
        ran_with=ran_with,
        assumed=(*assumed, "a device runs one sequence at a time; its memory and power are not counted"),
        devices=(replace(replica, gpus=replica.gpus * targets),),
        topology=place,
        seats=cache.max_num_seqs * targets,
        execute=execute,
    )
