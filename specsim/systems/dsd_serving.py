"""DSD at work: conversations of many devices on several targets, as its released scenario has them (2511.21669)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from specsim.acceptance.chains import PerPosition
from specsim.acceptance.modulated import MarkovModulated
from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.replayed import replayed
from specsim.errors import InputError
from specsim.simulation import routers
from specsim.simulation.expanded import run_expanded
from specsim.simulation.like_lengths import LikeLengths, window_of
from specsim.simulation.links import LinkLaw
from specsim.simulation.outcome import Outcome
from specsim.simulation.servers import Batching
from specsim.simulation.topology import Router, ServerSpec
from specsim.simulation.workload import ClosedLoop, Lognormal, Workload
from specsim.systems.dsd_rounds import Costs, Floats, Mode, place_of, programs_of
from specsim.systems.dsd_windows import MOST, STATIC, WINDOWS, Wish, rounds_of

FALLBACK = PerPosition(tuple(float(np.clip(0.92 * 0.96**i, 0.25, 0.99)) for i in range(MOST)))
"""Acceptance by position that the released simulator falls back to without a trained model."""

BATCHINGS = ("fifo", "length-aware")
"""First come, first served, as released; and the paper's other policy, of which its name alone is known."""

ROUTERS: dict[str, Callable[[np.random.Generator, Sequence[float]], Router]] = {
    "random": lambda rng, factors: routers.random_router(rng),  # noqa: ARG005 - one signature for all
    "round-robin": lambda rng, factors: routers.round_robin(),  # noqa: ARG005
    "jsq": lambda rng, factors: routers.join_shortest_queue(rng),  # noqa: ARG005
    "jsq-2": lambda rng, factors: routers.shortest_of_two(rng),  # noqa: ARG005
    "weighted-jsq-2": routers.weighted_shortest_of_two,
    "jiq": lambda rng, factors: routers.join_idle_queue(rng),  # noqa: ARG005
    "semi-clairvoyant": routers.fastest_progress,
}
"""The seven routers by name, from draws and the targets' time factors."""


def batches(name: str, max_batch: int, window_s: float) -> Batching:
    """A target's batches by the name of their policy, gathered for ``window_s``."""
    if name not in BATCHINGS:
        raise InputError(f"{name!r}; use {' or '.join(BATCHINGS)}", field="batching")
    take = LikeLengths(max_batch, window_of) if name == "length-aware" else None
    return Batching(max_batch, window_s=window_s, take=take)


def simulate(
    rng: np.random.Generator,
    *,
    drafters: int = 80,
    targets: int = 20,
    router: str = "jsq",
    window: str | Sequence[int] | Sequence[Wish] = "static",
    mode: Mode = "distributed",
    batching: str = "fifo",
    gamma: int = STATIC,
    time_factor: Sequence[float] = (),
    process: AcceptanceProcess = FALLBACK,
    costs: Costs | None = None,
    one_way_s: float = 8.35e-3,
    jitter: float = 0.12,
    bytes_per_s: float = 1.25e7,
    max_batch: int = 11,
    batch_window_s: float = 0.33e-3,
    think_s: float = 1.7,
    think_cv: float = 0.6,
    think_min_s: float = 0.22,
    mean_prompt: float = 70.0,
    mean_output: float = 130.0,
    conversations: int = 240,
) -> Outcome:
    """Drafters that ask, wait for the whole answer, think, and ask again, until all conversations are over.

    window: ``static`` (``gamma`` tokens), ``back-off``, ``threshold``, ``learned``, or a window for each state of a
    Replayed process (an oracle that sees it); in ``switched`` mode ``learned``, or a Wish for each state. batching:
    ``fifo``, or ``length-aware`` (like windows together). time_factor: seconds of each target over ``costs``; empty:
    equal.
    """
    if router not in ROUTERS:
        raise InputError(f"{router!r}; use one of {', '.join(ROUTERS)}", field="router")
    if mode not in ("distributed", "fused", "switched"):
        raise InputError(f"{mode!r}; use distributed, fused or switched", field="mode")
    if targets < 1 or drafters < 1:
        raise InputError(f"{drafters} drafters, {targets} targets; give at least 1", field="drafters, targets")
    if gamma < 1:
        raise InputError(f"{gamma}; give at least 1 drafted token", field="gamma")
    if not 0 <= think_s < np.inf or not 0 <= think_min_s < np.inf:
        raise InputError(f"{think_s} and {think_min_s} s; give 0 or more", field="think_s, think_min_s")
    price = costs or Costs()
    factors = tuple(time_factor) or (1.0,) * targets
    for_load, for_route, for_rounds, for_think, for_links = rng.spawn(5)
    load = Workload(ClosedLoop(drafters), Lognormal(mean_prompt, 0.5), Lognormal(mean_output, 0.5))
    requests = load.sample(conversations, for_load)
    cloud = ServerSpec(
        "cloud", targets, batches(batching, max_batch, batch_window_s), ROUTERS[router](for_route, factors), factors
    )
    rule, lengths = rounds_of(window, mode, process, price, conversations, for_rounds, gamma=gamma, rtt_s=2 * one_way_s)
    programs = programs_of(lengths, price, mode, mean_prompt=mean_prompt)
    place = place_of(mode, drafters, cloud, LinkLaw(one_way_s, bytes_per_s, jitter))
    pauses = Lognormal(max(1000 * think_s, 1.0), think_cv).sample(conversations, for_think) / 1000
    pauses = np.maximum(pauses, think_min_s) if think_s > 0 else np.zeros(conversations)
    return run_expanded(programs, rule, requests, place, for_links, think_s=lambda i: float(pauses[i]))


def token_s(made: Outcome) -> float:
    """Seconds between tokens after the first, over all tokens."""
    result = made.result
    return float((result.finish_s - result.first_token_s).sum() / (result.output_tokens - 1).sum())


def conversations_per_s(made: Outcome) -> float:
    """Conversations a second between the first and the last fifth of all that finish: neither filling nor draining."""
    ends = np.sort(made.result.finish_s)
    first, last = len(ends) // 5, 4 * len(ends) // 5
    if len(ends) < 5:
        raise InputError(f"{len(ends)} conversations; give 5 or more", field="conversations")
    return float((last - first) / (ends[last] - ends[first]))


def replayed_seconds(rates: Sequence[float], *, conversations: int, seed: int, **case: Any) -> Floats:
    """Seconds a token of the same conversations at every acceptance rate and window, shape (rates, WINDOWS).

    case: what else ``simulate`` takes.
    """
    seconds = np.empty((len(rates), len(WINDOWS)))
    for row, rate in zip(seconds, rates, strict=True):
        talks = replayed(MarkovModulated((rate,), ((1.0,),)), conversations, 500, np.random.default_rng(seed))
        given: dict[str, Any] = {**case, "process": talks, "conversations": conversations}
        row[:] = [token_s(simulate(np.random.default_rng(seed), gamma=k, **given)) for k in WINDOWS]
    return seconds
