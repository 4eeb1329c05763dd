"""Decentralised speculative decoding: a target cut over nodes with slow links; a block crosses them once."""

from __future__ import annotations

import numpy as np

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation.expanded import Outcome, run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.links import LinkLaw
from specsim.simulation.round_rules import ChainRounds
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology
from specsim.systems.descriptor import Parameter, System


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
    study="decentralized",
)
