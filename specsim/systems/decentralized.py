"""Decentralised speculative decoding: a target cut over nodes with slow links; a block crosses them once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from specsim.acceptance.chains import Iid
from specsim.cost.shapes import StepShape, StepTime
from specsim.errors import InputError
from specsim.simulation.expanded import run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.links import LinkLaw
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import Pass, RoundProgram
from specsim.simulation.round_rules import ChainRounds
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology
from specsim.systems.apart import TOKEN_BYTES
from specsim.systems.composition import Composition, Device, on_servers
from specsim.systems.descriptor import Parameter, System

if TYPE_CHECKING:
    from specsim.planning.setting import Setting


def speedup(tokens_a_round: float, link_ratio: float) -> float:
    """(1 + rho) / (1 + rho / k), rho = (N - 1) t1 / t0: the paper's idealisation, k tokens charged k steps."""
    return (1.0 + link_ratio) / (1.0 + link_ratio / tokens_a_round)


def simulate(
    rng: np.random.Generator,
    *,
    alpha: float = 0.66,
    gamma: int = 8,
    nodes: int = 4,
    step_s: float = 1.0,
    link_s: float = 5.0,
    verify_s: float = 1.0,
    draft_s: float = 0.05,
    tokens: int = 20_000,
) -> Outcome:
    """One stream; ``gamma`` = 0 decodes plainly. A traversal takes ``step_s`` (``verify_s`` for a block) on all nodes.

    The nodes share the computation equally, each hop takes ``link_s``, the last node drafts and commits: a traversal
    pays nodes - 1 hops, as the paper counts them. Raises InputError for fewer than one node.
    """
    if nodes < 1:
        raise InputError(f"{nodes}; give at least 1", field="nodes")
    whole = verify_s if gamma else step_s
    first = (timed_pass("draft", draft_s, device="node 1", repeats=gamma),) if gamma and draft_s else ()
    passes = list(first)
    for n in range(1, nodes + 1):
        after = (passes[-1].name,) if passes else ()
        passes.append(timed_pass(f"layers {n}", whole / nodes, device=f"node {n}", after=after))
    hops = tuple(LinkSpec(f"node {n}", f"node {n + 1}", LinkLaw(link_s)) for n in range(1, nodes))
    place = Topology(tuple(ServerSpec(f"node {n}") for n in range(1, nodes + 1)), hops)
    rule = ChainRounds(Iid(alpha), gamma, 1, rng)
    program = timed_program(f"{gamma} tokens over {nodes} nodes", gamma, *passes)
    return run_expanded(program, rule, streams(1, tokens), place, rng, prompt_cached=True)


def _compose(setting: Setting) -> Composition:
    candidate, _ = setting.best(setting.drafters("draft_model"))
    process, given = candidate.process, setting.deployment
    assert process is not None
    gamma, nodes = setting.most(candidate, setting.count("gamma")), setting.count("nodes", most=given.target.layers)
    there, back = setting.own_links("node 1", f"node {nodes}")
    drafting = setting.other_end.passes(candidate, gamma, device="node 1", profile=given.profile)
    whole = setting.verify_pass(gamma, device=f"node {nodes}")
    hidden = 2.0 * given.target.hidden
    layers = [len(part) for part in np.array_split(np.arange(given.target.layers), nodes)]
    shards: list[Pass] = []
    for n, mine in enumerate(layers, start=1):
        last = n == nodes
        shards.append(
            Pass(
                f"layers {n}",
                whole.model,
                whole.shape,
                _share(whole.cost, mine / given.target.layers, head=last),
                device=f"node {n}",
                after=(shards[-1].name if shards else drafting[-1].name,),
                bytes_in=hidden * (gamma + 1),
                prompt_bytes_in=hidden,
                forward=whole.forward if last else None,  # a shape has whole layers: all are counted at the end
            )
        )
    program = RoundProgram(
        f"{gamma} tokens over {nodes} nodes",
        gamma,
        (shards[-1], *drafting, *shards[:-1]),
        setting.host(candidate, gamma),
    )
    hops = [LinkSpec(f"node {n}", f"node {n + 1}", there.law) for n in range(1, nodes)]
    beside = setting.draft_bytes(candidate)
    memories = [
        setting.shared_memory(mine / given.target.layers, beside if n == 0 else (0.0, 0.0))
        for n, mine in enumerate(layers)
    ]
    place = Topology(
        tuple(
            ServerSpec(f"node {n}", num_blocks=memory.num_gpu_blocks, block_size=memory.block_size)
            for n, memory in enumerate(memories, start=1)
        ),
        (*hops, back) if nodes > 1 else (),
        home="node 1",
        reply_bytes=TOKEN_BYTES * (gamma + 1),
    )
    gpus, name = given.scenario.target.tensor_parallel, given.profile.hardware.name
    return on_servers(
        setting,
        candidate,
        {gamma: program},
        lambda requests, rng: ChainRounds(process, gamma, len(requests), rng),
        ran_with=f"{candidate.short}, window {gamma}, target over {nodes} nodes",
        assumed=(
            "a node's layers take their share of the target's pass; the last has the LM head and the host's work",
            "hidden states travel in 16 bits; the way back to the drafter is a hop too, which the paper leaves out",
            "plain decoding, as everywhere, is on one replica: splitting what fits there costs the links",
        ),
        devices=tuple(
            Device(f"node {n}", name, gpus, memory.weight_bytes + memory.draft_weight_bytes, memory.cache_bytes)
            for n, memory in enumerate(memories, start=1)
        ),
        topology=place,
        one_at_a_time=True,
    )


def _share(cost: Callable[[StepShape], StepTime], share: float, *, head: bool) -> Callable[[StepShape], StepTime]:
    """A share of a pass's layers, and its LM head where it has that."""

    def seconds(shape: StepShape) -> StepTime:
        terms = dict(cost(shape).terms)
        ends = terms.pop("head")
        part = StepTime(terms).scaled(share)
        return part + StepTime({"head": ends}) if head else part

    return seconds


SYSTEM = System(
    name="decentralized",
    title="Speculative Decoding in Decentralized LLM Inference",
    paper="2511.11733",
    year=2025,
    lossless="yes (its adaptive relaxation, whose formula was not found, is not modelled)",
    topology="a target cut over nodes in a row, with a link between neighbours",
    pipeline="draft x gamma -> layers 1 -> link -> layers 2 -> ... -> layers N -> commit",
    rule="min(1, p/q), residual on rejection, a bonus if all are kept",
    parameters=(
        Parameter("alpha", 0.66, "acceptance per position", "assumed: gives the 2.86 tokens that 2.56x would need"),
        Parameter("gamma", 8, "drafted tokens a round", "the vendor's article"),
        Parameter("nodes", 4, "nodes that hold the target", "4 to 8 in the vendor's article"),
        Parameter("step_s", 1.0, "seconds of one token's computation on all nodes", "unit"),
        Parameter("link_s", 5.0, "seconds of a hop, in steps", "assumed, inside the regime 3..10 that is claimed"),
        Parameter("verify_s", 1.0, "seconds of a block's computation on all nodes", "assumed flat"),
        Parameter("draft_s", 0.05, "seconds of a drafting step", "assumed"),
    ),
    assumptions=(
        "acceptance is i.i.d.",
        "the commit is where the last node is; its way back is not charged, as in the paper",
    ),
    batches="batch 1 here; streams beside each other would fill the idle nodes",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("one_way_s", None, "latency of a hop between neighbours, and from the last node to the first", "-"),
        Parameter("bytes_per_s", None, "bandwidth of a hop", "-"),
        Parameter("nodes", 4, "nodes that hold the target, a replica's GPUs each", "4 to 8 in the vendor's article"),
        Parameter("gamma", 8, "drafted tokens a round", "the vendor's article"),
    ),
    study="decentralized",
)
