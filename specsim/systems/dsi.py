"""DSI: the drafter never waits; every block is verified by a target of its own, and a mismatch cancels the rest."""

from __future__ import annotations

import math

import numpy as np
import simpy

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation.free_run import finish, streams
from specsim.simulation.ledger import Ledger
from specsim.simulation.outcome import Outcome
from specsim.simulation.round_rules import DrawnRounds
from specsim.simulation.servers import Server
from specsim.systems.descriptor import Parameter, System
from specsim.systems.dsi_serving import compose
from specsim.systems.stretches import Stretches


def servers_needed(lookahead: int, *, draft_s: float, target_s: float) -> int:
    """ceil(target / (lookahead draft)): targets busy at once while nothing is rejected (the paper's SP)."""
    return math.ceil(target_s / (lookahead * draft_s) - 1e-9)


def seconds_per_token(
    alpha: float, lookahead: int, *, draft_s: float, target_s: float, compares_bonus: bool = True
) -> float:
    """Closed form with enough targets, for lookahead * draft <= target.

    A stretch ends at its first wrong token, (1-a)^-1 tokens on average. It lasts a target step plus the drafting of the
    blocks before the task that shows the mistake: k c a / (1 - a^k) on average where a task's own next token is
    compared with the next block's first (at k = 1 the paper's theorem), k c (a + a^k / (1 - a^k)) where it is not (the
    rule of the authors' simulator).
    """
    full = alpha**lookahead
    blocks = alpha / (1 - full) if compares_bonus else alpha + full / (1 - full)
    return (1 - alpha) * (target_s + lookahead * draft_s * blocks)


def simulate(
    rng: np.random.Generator,
    *,
    alpha: float = 0.8,
    lookahead: int = 5,
    draft_s: float = 0.1,
    target_s: float = 1.0,
    targets: int = 7,
    tokens: int = 20_000,
    compares_bonus: bool = True,
) -> Outcome:
    """One stream. Raises InputError for a drafter slower than the target, or no target."""
    if not 0 < draft_s <= target_s:
        raise InputError(f"{draft_s} s; DSI needs a drafter no slower than its target ({target_s} s)", field="draft_s")
    if targets < 1 or lookahead < 1:
        raise InputError("needs at least one target and one token of lookahead", field="targets, lookahead")
    env, ledger = simpy.Environment(), Ledger(streams(1, tokens))
    drafter = Server(env, "drafter", lambda jobs: sum(job.what for job in jobs) * draft_s)
    pool = [Server(env, f"target[{n}]", lambda jobs: target_s) for n in range(targets)]  # noqa: ARG005
    drawn = DrawnRounds(Iid(alpha), 1, rng)
    Stretches(env, ledger, drafter, pool, drawn, lookahead, compares_bonus=compares_bonus)
    return finish(env, ledger, [drafter, *pool])


SYSTEM = System(
    name="dsi",
    title="Distributed Speculative Inference: Speculation Parallelism for Provably Faster Lossless Inference",
    paper="2405.14105",
    year=2025,
    lossless="yes",
    topology="one drafter, several targets, each on a device of its own",
    pipeline="draft x k -> verify on a free target, while the drafter goes on; a mismatch cancels what follows",
    rule="the first wrong token is replaced by the target's; tasks built on it are cancelled",
    parameters=(
        Parameter("alpha", 0.8, "acceptance per position", "assumed"),
        Parameter("lookahead", 5, "drafted tokens a verification task", "assumed"),
        Parameter("draft_s", 0.1, "seconds of a drafting step", "assumed"),
        Parameter("target_s", 1.0, "seconds of a target pass", "unit"),
        Parameter("targets", 7, "target servers", "the authors' default: an 8-GPU node with one drafter"),
    ),
    assumptions=("verification takes one target step", "acceptance is i.i.d.", "cancelling is free"),
    batches="a stream takes all targets; it cannot batch",
    simulate=simulate,
    compose=compose,
    inputs=(
        Parameter("lookahead", 5, "drafted tokens a verification task", "assumed"),
        Parameter("targets", 7, "target replicas", "the authors' default: an 8-GPU node with one drafter"),
    ),
    study="dsi",
)
