"""SPEED: a decoder of shared layers guesses its next token early and sends it through the same layers meanwhile."""

from __future__ import annotations

import numpy as np
import simpy

from specsim.errors import InputError
from specsim.simulation.expanded import Outcome
from specsim.simulation.free_run import finish, streams
from specsim.simulation.ledger import Ledger
from specsim.simulation.servers import Job, Server
from specsim.systems.descriptor import Parameter, System, rate_in_range


def ticks_per_token(right: float, depth: int, guess_at: int) -> float:
    """Ticks a token, j + (1 - a)(r - j): it starts j ticks after the one before it if the guess was right, else r."""
    return guess_at + (1.0 - right) * (depth - guess_at)


def simulate(
    rng: np.random.Generator,
    *,
    right: float = 0.929,
    depth: int = 4,
    guess_at: int = 1,
    tick_s: float = 1.0,
    tokens: int = 20_000,
) -> Outcome:
    """One stream through a pipeline of ceil(depth / guess_at) tokens; a wrong guess flushes the younger ones.

    A tick passes all tokens in flight once through the shared group. Raises InputError for a guess after the end.
    """
    rate_in_range(right, "right")
    if not 1 <= guess_at <= depth:
        raise InputError(f"{guess_at} must lie in 1..depth = {depth}", field="guess_at")
    env, ledger = simpy.Environment(), Ledger(streams(1, tokens))
    group = Server(env, "shared layers", lambda jobs: tick_s)  # noqa: ARG005 - memory-bound: flat in the tokens

    ages, guesses = [0], [bool(rng.random() < right)]  # oldest first; whether the guess after each is right

    def tick(_: Job) -> None:
        nonlocal ages, guesses
        ages = [age + 1 for age in ages]
        if ages[0] == depth:
            ages.pop(0)
            kept = guesses.pop(0)
            if not kept:
                ledger.waste(0, max(1, len(ages)))
                ages, guesses = [], []
            if ledger.commit(0, env.now, drafted=kept, accepted=kept, emitted=1, stage="last traversal"):
                return
        if not ages or ages[-1] == guess_at:
            ages.append(0)
            guesses.append(bool(rng.random() < right))
        group.submit(Job("pipeline", len(ages), tick))

    group.submit(Job("pipeline", 1, tick))
    return finish(env, ledger, [group])


SYSTEM = System(
    name="speed",
    title="SPEED: Speculative Pipelined Execution for Efficient Decoding",
    paper="2310.12072",
    year=2023,
    lossless="yes, greedy only",
    topology="one model on one device, several of its own tokens in flight",
    pipeline="layers x depth, a guess after guess_at -> next token into the same layers; wrong: flush",
    rule="the guess stands if it is the token that full depth gives",
    parameters=(
        Parameter("right", 0.929, "share of guesses that full depth confirms", "solved from a looped model's BBH row"),
        Parameter("depth", 4, "traversals of the shared group a token", "Ouro, R = 4 (LOOPSPEC, Table 1)"),
        Parameter("guess_at", 1, "traversals after which the guess is read", "Ouro, d = 1 (LOOPSPEC, Table 1)"),
        Parameter("tick_s", 1.0, "seconds of a traversal", "unit"),
    ),
    assumptions=(
        "a traversal costs the same whatever the tokens in flight (memory-bound)",
        "guesses are right independently; one guess point",
        "on a wrong guess all younger tokens start again (the paper's invalidation details were not found)",
    ),
    batches="the cost law is batch 1; it cannot batch here",
    simulate=simulate,
    study="speed",
)
