"""SEED: branches of a thought tree draft in parallel, one shared target verifies them first come, first served."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation.expanded import run_expanded
from specsim.simulation.links import LinkLaw
from specsim.simulation.outcome import Outcome
from specsim.simulation.round_rules import ChainRounds
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology
from specsim.simulation.workload import Requests
from specsim.systems.apart import across
from specsim.systems.composition import Composition, Device, on_servers
from specsim.systems.descriptor import Parameter, System

if TYPE_CHECKING:
    from specsim.planning.setting import Setting


def rounds_per_s_bound(branches: int, *, draft_s: float, verify_s: float) -> float:
    """min(n / (T_d + T_v), 1 / T_v): a closed network of n branches, a drafter each, one verifier."""
    return min(branches / (draft_s + verify_s), 1.0 / verify_s)


def simulate(
    rng: np.random.Generator,
    *,
    alpha: float = 0.7,
    k: int = 3,
    branches: int = 3,
    draft_s: float = 0.1,
    verify_s: float = 1.0,
    depth: int = 2,
    tokens: int = 5_000,
) -> Outcome:
    """A breadth-first search: at each of ``depth`` levels ``branches`` thoughts and as many evaluations, fork and join.

    draft_s: of one drafted token. Each phase's requests start together once all of the phase before have ended.
    """
    if branches < 1 or depth < 1:
        raise InputError("needs at least one branch and one level", field="branches, depth")
    program = timed_program(
        f"draft {k} in parallel, verify in turn",
        k,
        timed_pass("draft", draft_s, device="drafter", repeats=k),
        timed_pass("verify", verify_s, device="target", after=("draft",)),
    )
    place = Topology(
        (ServerSpec("drafter", branches), ServerSpec("target")), (LinkSpec("drafter", "target", LinkLaw()),)
    )
    n = 2 * depth * branches
    requests = Requests(np.zeros(n), np.ones(n, dtype=np.int64), np.full(n, tokens, dtype=np.int64), branches)
    rule = ChainRounds(Iid(alpha), k, n, rng)
    return run_expanded(program, rule, requests, place, rng, prompt_cached=True, together=True)


def _compose(setting: Setting) -> Composition:
    candidate, _ = setting.best(setting.drafters("draft_model"))
    process, given = candidate.process, setting.deployment
    assert process is not None
    k, branches = setting.most(candidate, setting.count("k")), setting.count("branches")
    program = across(
        setting.other_end.passes(candidate, k, device="drafter", profile=given.profile),
        setting.verify_pass(k, device="target"),
        setting.host(candidate, k),
        k,
        bytes_in=0.0,
        prompt_bytes_in=0.0,
    )
    weights, cached = setting.draft_bytes(candidate)
    memory = setting.shared_memory(1.0, (branches * weights, cached))
    place = Topology(
        (
            ServerSpec("target", num_blocks=memory.num_gpu_blocks, block_size=memory.block_size),
            ServerSpec("drafter", branches),
        ),
        (LinkSpec("drafter", "target", LinkLaw()),),
    )
    gpu = Device(
        "replica",
        given.profile.hardware.name,
        given.scenario.target.tensor_parallel,
        memory.weight_bytes + memory.draft_weight_bytes,
        memory.cache_bytes,
    )
    return on_servers(
        setting,
        candidate,
        {k: program},
        lambda requests, rng: ChainRounds(process, k, len(requests), rng),
        ran_with=f"{branches} x {candidate.short}, K = {k}, verified one by one",
        assumed=(
            "the scenario's requests stand for the branches of a thought tree; they neither fork nor join",
            "drafters on one GPU don't slow each other or the target down",
        ),
        devices=(gpu,),
        topology=place,
        seats=branches,
    )


SYSTEM = System(
    name="seed",
    title="SEED: Accelerating Reasoning Tree Construction via Scheduled Speculative Decoding",
    paper="2406.18200",
    year=2024,
    lossless="yes, branch by branch",
    topology="n drafters and one target on one GPU, in processes of their own",
    pipeline="[draft x k] on n branches -> first come, first served -> verify -> that branch drafts again",
    rule="min(1, p/q), residual on rejection (chain mode of the released demo)",
    parameters=(
        Parameter("alpha", 0.7, "acceptance per position", "assumed"),
        Parameter("k", 3, "drafted tokens a round", "the released demo's chain mode"),
        Parameter("branches", 3, "thoughts drafted in parallel", "the released demo"),
        Parameter("draft_s", 0.1, "seconds of a drafting step", "assumed"),
        Parameter("verify_s", 1.0, "seconds of a target pass", "unit"),
        Parameter("depth", 2, "levels of the tree", "the released demo"),
    ),
    assumptions=(
        "drafters on one GPU don't slow each other or the target down",
        "every branch and evaluation has the same number of tokens",
        "acceptance is i.i.d.",
    ),
    batches="one branch at a time by design; the target verifies no batch",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("branches", 3, "requests at a time, each with a drafter of its own", "the released demo"),
        Parameter("k", 3, "drafted tokens a round", "the released demo's chain mode"),
    ),
    study="seed",
)
