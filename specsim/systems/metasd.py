"""MetaSD: a pool of specialised drafters, one picked by a bandit each round (arXiv 2604.05417, ACL 2026). Lossless.

One target, one device. Statistics start afresh with every query: each drafter is tried once, then the bandit decides.
The reward is block efficiency (accepted / drafted) or block divergence (mean of 1 - TV, free after verification).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.cost.drafter import CHAINS
from specsim.drafting.bandits import Bandit, Pulls, Ucb, block_divergence, block_efficiency
from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.outcome import Outcome
from specsim.systems.beside import memory_with, prompt_program
from specsim.systems.composition import Composition, NotApplicable, on_servers
from specsim.systems.descriptor import Parameter, System
from specsim.systems.draft_verify import draft_verify
from specsim.systems.pool_rounds import NO_PROPOSAL, Arm, PoolRounds
from specsim.systems.reproduction import Row
from specsim.theory.tokens import expected_rounds_iid, expected_tokens_iid

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Reward = Literal["efficiency", "divergence"]


@dataclass(frozen=True)
class Pool:
    """Drafters over one target: token t of drafter i is accepted with a probability drawn around ``rates[i]``.

    The probability 1 - TV of a context is Beta with mean ``rates[i]`` and ``concentration`` (a + b), independent from
    token to token, so acceptance is i.i.d. with that rate while the divergence reward sees the probability itself.
    concentration: an assumption; the paper prints none.
    """

    rates: tuple[float, ...]
    k: int
    concentration: float

    def __post_init__(self) -> None:
        if not self.rates or not all(0 < a < 1 for a in self.rates) or self.k < 1 or self.concentration <= 0:
            raise InputError("needs rates strictly in 0..1, k >= 1, concentration above 0", field="rates, k")


@dataclass(frozen=True)
class Queries:
    """Rounds of many queries: picked drafter and accepted tokens, (queries, rounds); rounds each query needed."""

    picked: Ints
    accepted: Ints
    needed: Ints


def run_pool(
    pool: Pool,
    bandit: Bandit,
    *,
    reward: Reward,
    tokens: int,
    queries: int,
    rng: np.random.Generator,
) -> Queries:
    """Answer ``queries`` queries of ``tokens`` tokens, each with statistics of its own.

    Every row runs as many rounds as the slowest needs; ``needed`` says when each was done.
    """
    pulls = Pulls.none(queries, len(pool.rates))
    rates = np.array(pool.rates)
    written: Ints = np.zeros(queries, dtype=np.int64)
    needed: Ints = np.zeros(queries, dtype=np.int64)
    picked, accepted = [], []
    while np.any(written < tokens):
        arms = bandit.pick(pulls, rng)
        mean = rates[arms][:, None]
        agree = rng.beta(
            np.broadcast_to(mean * pool.concentration, (queries, pool.k)), (1.0 - mean) * pool.concentration
        )
        count = np.logical_and.accumulate(rng.random(agree.shape) < agree, axis=1).sum(axis=1)
        gains = block_efficiency(count, pool.k) if reward == "efficiency" else block_divergence(1.0 - agree)
        bandit.learn(pulls, arms, gains)
        needed += written < tokens
        written += count + 1
        picked.append(arms)
        accepted.append(count)
    return Queries(np.stack(picked, axis=1), np.stack(accepted, axis=1), needed)


def regret_rounds(ran: Queries, pool: Pool, tokens: int) -> float:
    """Mean rounds beyond what the best drafter needs for as many tokens: the paper's stopping-time regret.

    The best drafter's rounds are exact: the renewal count of its law of tokens per round.
    """
    return float(ran.needed.mean()) - expected_rounds_iid(max(pool.rates), pool.k, tokens)


def rounds_to_find(ran: Queries, best: int, *, share: float = 0.5) -> int:
    """First round after which the best drafter is the most picked one so far in a ``share`` of the queries.

    Ties count against it. Raises InputError where that never happens.
    """
    hits = np.cumsum(ran.picked == best, axis=1)
    arms = int(ran.picked.max()) + 1
    rival = np.max([np.cumsum(ran.picked == a, axis=1) for a in range(arms) if a != best], axis=0)
    found = (hits > rival).mean(axis=0) >= share
    if not found.any():
        raise InputError(f"drafter {best} leads in no {share:.0%} of the queries", field="best")
    return int(np.argmax(found)) + 1


TASKS = ("code", "translation", "summarisation", "QA", "math")
SPECIALISTS = (2.437, 2.076, 2.133, 1.960, 2.454)
ONE_FOR_ALL = (2.435, 1.032, 1.526, 1.267, 1.571)
UCB_SPEEDUPS = (2.300, 1.587, 1.971, 1.711, 2.280)
"""Black-box speedups on Vicuna-7B with five 68M drafters: best single, one drafter for all, and MetaSD-UCB."""


@dataclass(frozen=True)
class Assumed:
    """What the paper does not print, and the reproduction needs.

    k: N_max. draft_ratio: c, drafter step over target step. query_tokens: tokens of a query. off_task: mean speedup of
    a specialist outside its own task, taken as that of the one-for-all drafter's worst task. Changing the drafter is
    free (its cache catches up: the paper calls that negligible). The first sweep meets the specialist last.
    """

    k: int = 5
    draft_ratio: float = 0.05
    query_tokens: int = 256
    concentration: float = 5.0
    exploration: float = 0.1
    off_task: float = 1.032


def implied_rate(speedup: float, *, k: int, draft_ratio: float) -> float:
    """The i.i.d. rate at which E(a, k) / (1 + k c) is the speedup."""
    from scipy.optimize import brentq

    wanted = speedup * (1.0 + k * draft_ratio)
    if not 1.0 <= wanted <= k + 1:
        raise InputError(f"a speedup of {speedup} is out of reach of {k} tokens at c = {draft_ratio}", field="speedup")
    return float(brentq(lambda a: float(expected_tokens_iid(a, k)) - wanted, 0.0, 1.0 - 1e-12))


def rows(
    assumed: Assumed | None = None, *, queries: int = 400, rng: np.random.Generator | None = None
) -> tuple[Row, ...]:
    """MetaSD-UCB's five black-box speedups, from rates implied by the best single drafters (fitted to these)."""
    given, rng = assumed or Assumed(), rng or np.random.default_rng(0)
    own = [implied_rate(s, k=given.k, draft_ratio=given.draft_ratio) for s in SPECIALISTS]
    off = implied_rate(given.off_task, k=given.k, draft_ratio=given.draft_ratio)
    made = []
    for task, rate, published in zip(TASKS, own, UCB_SPEEDUPS, strict=True):
        pool = Pool((*(off,) * (len(TASKS) - 1), rate), given.k, given.concentration)
        ran = run_pool(
            pool,
            Ucb(given.exploration),
            reward="divergence",
            tokens=given.query_tokens,
            queries=queries,
            rng=rng,
        )
        speedup = given.query_tokens / (float(ran.needed.mean()) * (1.0 + given.k * given.draft_ratio))
        made.append(Row(f"{task}, black box, UCB: speedup", published, speedup, 0.15))
    return tuple(made)


def simulate(
    rng: np.random.Generator,
    *,
    best: float = 0.8,
    second: float = 0.6,
    others: float = 0.4,
    drafters: int = 5,
    k: int = 5,
    draft_ratio: float = 0.05,
    exploration: float = 0.1,
    concentration: float = 5.0,
    tokens: int = 2_000,
) -> Outcome:
    """One long query over a pool whose best drafter stands last; seconds are target steps."""
    if drafters < 3:
        raise InputError(f"{drafters}; give 3 or more", field="drafters")
    pool = Pool((*(others,) * (drafters - 2), second, best), k, concentration)
    ran = run_pool(pool, Ucb(exploration), reward="divergence", tokens=tokens, queries=1, rng=rng)
    accepted = ran.accepted[0]
    done = iter([accepted])

    def draw(n: int) -> Drawn:  # noqa: ARG001 - the query was run to its end
        counts = next(done)
        return Drawn(np.full(len(counts), k), counts, counts + 1, np.full(len(counts), 1.0 + k * draft_ratio))

    return in_series(draw, tokens=tokens)


def _compose(setting: Setting) -> Composition:
    given, k = setting.deployment, setting.count("k")
    pool = [c for c in setting.drafters(*CHAINS) if setting.most(c, k) == k]
    if len(pool) < 2:
        raise NotApplicable(f"picks from a pool: add a second [[drafter]] with acceptance for {k} drafted tokens")
    arms, programs = [], {NO_PROPOSAL: given.program(None, 0)}
    for kind, candidate in enumerate(pool, start=1):
        proposes = candidate.drafter.proposal_rate
        first, *later = setting.conditional_rates(candidate, k)
        arms.append(Arm((min(first / proposes, 1.0 - 1e-9), *later), proposes, kind))
        always = replace(candidate.drafter, proposal_rate=1.0)
        drafts = draft_verify(given.target, always, k=k, profile=given.profile, engine=given.engine, **given.precision)
        programs[kind] = replace(drafts, kind=kind)
    models = [c.drafter for c in pool if c.drafter.on_gpu]
    programs[len(programs)] = prompt_program(setting, models, k=k, kind=len(programs))
    by_divergence = setting.count("divergence", least=0, most=1) > 0
    concentration = setting.number("concentration", above=0.0) if by_divergence else None
    bandit = Ucb(setting.number("exploration"))
    return on_servers(
        setting,
        None,
        programs,
        lambda requests, rng: PoolRounds(arms, bandit, concentration, len(requests), rng),
        ran_with=f"{', '.join(c.short for c in pool)}; K = {k}",
        assumed=(
            "changing the drafter is free: all of them read the prompt and keep up",
            "requests do not differ in their acceptance, so the best drafter is the same for all",
        ),
        memory=memory_with(setting, [(drafter, k) for drafter in models]),
        one_at_a_time=True,
    )


SYSTEM = System(
    name="metasd",
    title="Multi-Drafter Speculative Decoding with Alignment Feedback",
    paper="2604.05417",
    year=2026,
    lossless="yes",
    topology="several drafters and a target on one device",
    pipeline="bandit picks a drafter -> draft x k -> verify -> reward -> commit",
    rule="argmax of mean + exploration sqrt(2 ln t / n), reward 1 - TV; min(1, p/q) and residual",
    parameters=(
        Parameter("best", 0.8, "acceptance of the best drafter", "assumed"),
        Parameter("second", 0.6, "of the second best", "assumed"),
        Parameter("others", 0.4, "of the rest", "assumed"),
        Parameter("drafters", 5, "size of the pool", "printed"),
        Parameter("k", 5, "N_max", "assumed: ablated, its default not found"),
        Parameter("draft_ratio", 0.05, "drafter step over target step", "assumed"),
        Parameter("exploration", 0.1, "beta", "assumed: never reported"),
        Parameter("concentration", 5.0, "a + b of the Beta law of a token's 1 - TV", "assumed"),
        Parameter("tokens", 2_000, "tokens of the query", "-"),
    ),
    assumptions=("changing the drafter is free", "1 - TV is independent from token to token"),
    batches="each request has statistics of its own; the paper runs batch 1",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("k", 5, "N_max, of every drafter", "assumed: ablated, its default not found"),
        Parameter("exploration", 0.1, "beta", "assumed: never reported"),
        Parameter("divergence", 1, "1: the reward is 1 - TV; 0: the accepted share", "the paper's choice"),
        Parameter("concentration", 5.0, "a + b of the Beta law of a token's 1 - TV", "assumed"),
    ),
    study="metasd",
)
