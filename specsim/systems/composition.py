"""A system put together for one scenario: what it runs with, on which devices, and what it executed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from specsim.acceptance.process import AcceptanceProcess
from specsim.cost.memory import Memory
from specsim.simulation.engine import Policy, simulate
from specsim.simulation.expanded import run_expanded
from specsim.simulation.outcome import Outcome
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import Batch, PrefillChunk, RoundProgram
from specsim.simulation.round_rules import RoundRule
from specsim.simulation.servers import Batching
from specsim.simulation.topology import ServerSpec, Topology
from specsim.simulation.workload import Requests

if TYPE_CHECKING:
    from specsim.planning.deployment import Candidate
    from specsim.planning.setting import Setting

Run = Callable[[Requests, np.random.Generator], Outcome]


class NotApplicable(Exception):  # noqa: N818 - an answer, not an error
    """The system has nothing to run on this scenario; ``reason`` says what the scenario would have to hold."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Device:
    """``gpus`` equal GPUs that hold one model or several: bytes of weights and of all cache blocks on each."""

    name: str
    hardware: str
    gpus: int
    weight_bytes: float
    cache_bytes: float


@dataclass(frozen=True)
class Composition:
    """A system on a scenario's hardware, ready to serve its requests.

    ran_with: the drafter, length, tree or window, in words. run: requests and a generator in, what happened out.
    devices: the target's first, as are its servers in what ``run`` returns.
    programs: by draft length or kind, for counting what was executed. assumed: what the scenario did not say.
    one_at_a_time: it cannot batch, so requests wait for each other. proposes: share of rounds in which anything is
    drafted.
    """

    ran_with: str
    run: Run
    programs: Mapping[int, RoundProgram]
    devices: tuple[Device, ...]
    assumed: tuple[str, ...] = ()
    one_at_a_time: bool = False
    proposes: float = 1.0

    @property
    def gpus(self) -> int:
        """GPUs of all devices."""
        return sum(device.gpus for device in self.devices)

    @property
    def hardware(self) -> dict[str, int]:
        """GPUs by their name."""
        counted: dict[str, int] = {}
        for device in self.devices:
            counted[device.hardware] = counted.get(device.hardware, 0) + device.gpus
        return counted

    def round_flops(self, outcome: Outcome) -> float:
        """Operations of every round that ran, rejected tokens and drafts included; prompts are not."""
        rounds = outcome.result.work.rounds
        return sum(float(self.programs[k].flops(Batch(float(n), cached))) for k, (n, cached) in rounds.items())

    def prompt_flops(self, outcome: Outcome) -> float:
        """Operations of every prompt's chunks, by target and drafter, recomputed ones counted again."""
        total = 0.0
        for k, chunks in outcome.result.work.chunks.items():
            if chunks:
                tokens, past = np.array([(new, before) for new, before, _ in chunks], dtype=np.float64).T
                each = self.programs[k].flops(Batch(0.0, 0.0, prefill=(PrefillChunk(tokens, past),)))
                total += float(each @ np.array(list(chunks.values()), dtype=np.float64))
        return total


def never(reason: str) -> Callable[[Setting], Composition]:
    """For what no scenario can hold: a composition that always says why."""

    def refuse(_: Setting) -> Composition:
        raise NotApplicable(reason)

    return refuse


def with_prompts(programs: Mapping[int, RoundProgram], key: int) -> dict[int, RoundProgram]:
    """The programs, and that of ``key`` once more for prompts, which run the largest key's.

    Where lengths differ, a prompt would else be followed by a draft of the longest before its first token is out.
    """
    last = max(programs) + 1
    return {**programs, last: replace(programs[key], kind=last)}


def on_the_replica(
    setting: Setting,
    candidate: Candidate | None,
    programs: Mapping[int, RoundProgram],
    process: AcceptanceProcess | None,
    *,
    ran_with: str,
    assumed: tuple[str, ...] = (),
    policy: Callable[[], tuple[Policy, AcceptanceProcess]] | None = None,
    memory: Memory | None = None,
    one_at_a_time: bool = False,
) -> Composition:
    """Everything on the scenario's one replica, batched continuously under its limits and its cache.

    policy: makes the controller that picks a draft length for every iteration, and the process that it watches.
    memory: of a replica that holds other models than the target and ``candidate``.
    """
    serving = setting.serving(candidate, max(programs), memory)
    if one_at_a_time:
        serving = replace(serving, max_num_seqs=1)
    pricers: dict[int, Pricer] = {}

    def run(requests: Requests, rng: np.random.Generator) -> Outcome:
        chosen, watched = policy() if policy else (None, process)
        result = simulate(programs, watched, requests, serving, rng, policy=chosen, pricers=pricers)
        return Outcome(result, (), ())

    return Composition(
        ran_with=ran_with,
        run=run,
        programs=programs,
        devices=(setting.replica(candidate, max(programs), memory),),
        assumed=(*(setting.deployment.drafting_assumed(candidate) if candidate else ()), *assumed),
        one_at_a_time=one_at_a_time,
        proposes=candidate.drafter.proposal_rate if candidate else 1.0,
    )


def on_servers(
    setting: Setting,
    candidate: Candidate | None,
    programs: Mapping[int, RoundProgram],
    rule: Callable[[Requests, np.random.Generator], RoundRule],
    *,
    ran_with: str,
    assumed: tuple[str, ...] = (),
    devices: tuple[Device, ...] = (),
    topology: Topology | Callable[[np.random.Generator], Topology] | None = None,
    memory: Memory | None = None,
    one_at_a_time: bool = False,
    seats: int | None = None,
    execute: Callable[..., Outcome] = run_expanded,
) -> Composition:
    """The same on servers and links, for lengths that differ between the requests of a batch and for several devices.

    devices, topology: None for the scenario's replica alone, whose server forms batches of up to max_num_seqs within
    the cache that its memory leaves. memory: as above; candidate None: what is drafted stands in the programs alone.
    seats: requests at a time; None for max_num_seqs. topology may be made anew for every run, where it draws.
    execute: ``run_expanded``, or that with more arguments.
    """
    longest = max(program.k for program in programs.values())
    serving = setting.serving(candidate, longest, memory)
    most = 1 if one_at_a_time else serving.max_num_seqs
    gpu = ServerSpec(
        "gpu", batching=Batching(max_batch=most), num_blocks=serving.num_blocks, block_size=serving.block_size
    )
    place = topology or Topology((gpu,))

    def run(requests: Requests, rng: np.random.Generator) -> Outcome:
        for_rule, for_links, for_place = rng.spawn(3)
        return execute(
            programs,
            rule(requests, for_rule),
            requests,
            place(for_place) if callable(place) else place,
            for_links,
            seats=most if seats is None else seats,
            chunk_tokens=serving.max_num_batched_tokens,
        )

    return Composition(
        ran_with=ran_with,
        run=run,
        programs=programs,
        devices=devices or (setting.replica(candidate, longest, memory),),
        assumed=assumed,
        one_at_a_time=one_at_a_time,
        proposes=candidate.drafter.proposal_rate if candidate else 1.0,
    )


def fixed_chain(setting: Setting, *methods: str, k: int | None = None) -> Composition:
    """K tokens drafted in a row by a drafter of one of ``methods``, then verified, on the scenario's replica.

    ``k`` None: the drafter and length with the fewest seconds a token in closed form. Raises NotApplicable without a
    drafter of these methods that has acceptance evidence.
    """
    candidate, length = setting.best(setting.drafters(*methods), k=k)
    return on_the_replica(
        setting,
        candidate,
        {length: setting.deployment.program(candidate, length)},
        candidate.process,
        ran_with=f"{candidate.short}, K = {length}",
    )
