"""Simulate one replica of a serving engine: requests in, event times out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal

import numpy as np

from specsim.acceptance.process import AcceptanceProcess
from specsim.errors import InputError
from specsim.simulation.macro import run_macro
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import RoundProgram
from specsim.simulation.result import Result
from specsim.simulation.rounds import BLOCK, RoundSource
from specsim.simulation.scheduler import BudgetBound
from specsim.simulation.serving import Serving
from specsim.simulation.stepwise import Accepts, run_stepwise
from specsim.simulation.workload import Requests, Workload

Policy = Callable[[int, float], int]
"""Draft length for an iteration, from the decoding requests and their mean cached tokens."""

__all__ = ["Policy", "Result", "simulate"]


def simulate(
    program: RoundProgram | Mapping[int, RoundProgram],
    process: AcceptanceProcess | None,
    load: Requests | Workload,
    serving: Serving,
    rng: np.random.Generator,
    *,
    num_requests: int | None = None,
    policy: Policy | None = None,
    executor: Literal["auto", "macro", "stepwise"] = "auto",
    pricers: dict[int, Pricer] | None = None,
) -> Result:
    """Run requests through one replica and return when each was scheduled, answered and finished.

    program: one round program (fixed draft length), or programs by draft length with a ``policy`` that picks one for
    every iteration. process: what survives of drafts; None only where nothing is drafted. load: requests, or a workload
    of which ``num_requests`` are sampled. The random streams of load and acceptance are spawned from ``rng`` apart, so
    that scenarios with one seed share their randomness.

    executor: ``stepwise`` runs iteration by iteration; ``macro`` needs a fixed draft length and gives the same event
    times; ``auto`` takes macro where it can. pricers: filled with, and reused from, earlier runs of the same programs.
    Raises InputError where a request could never fit the cache or the budget.
    """
    for_load, for_rounds = rng.spawn(2)
    requests = _requests(load, num_requests, for_load)
    programs = {program.k: program} if isinstance(program, RoundProgram) else dict(program)
    _check(programs, process, policy)
    serving.check(requests.prompt_tokens, requests.output_tokens, max(programs))
    prices = {} if pricers is None else pricers
    for k, one in programs.items():
        if k not in prices or prices[k].program is not one:
            prices[k] = Pricer(one, serving.usable_blocks * serving.block_size)
    if policy is not None:
        if executor == "macro":
            raise InputError("a policy needs the stepwise executor", field="executor")
        return run_stepwise(requests, serving, prices, policy, _drawn_as_it_goes(process, len(requests), for_rounds))
    (k,) = programs
    if executor != "stepwise":
        try:
            return run_macro(requests, serving, prices[k], RoundSource(process, k, requests, for_rounds))
        except BudgetBound:
            if executor == "macro":
                raise InputError(
                    f"{serving.max_num_seqs} sequences of {k + 1} tokens exceed the budget of "
                    f"{serving.max_num_batched_tokens}; use the stepwise executor",
                    field="serving.max_num_batched_tokens",
                ) from None
    if serving.max_num_seqs * (k + 1) > serving.max_num_batched_tokens:  # cut drafts take more rounds than drawn ahead
        accepts = _drawn_as_it_goes(process, len(requests), for_rounds)
    else:
        accepts = _drawn_before(RoundSource(process, k, requests, for_rounds))
    return run_stepwise(requests, serving, prices, lambda _n, _kv: k, accepts)


def _requests(load: Requests | Workload, num_requests: int | None, rng: np.random.Generator) -> Requests:
    if isinstance(load, Requests):
        if num_requests is not None and num_requests != len(load):
            raise InputError(f"{len(load)} requests were given, {num_requests} asked for", field="num_requests")
        return load
    if num_requests is None:
        raise InputError("how many requests to sample from the workload?", field="num_requests")
    return load.sample(num_requests, rng)


def _check(programs: dict[int, RoundProgram], process: AcceptanceProcess | None, policy: Policy | None) -> None:
    if not programs:
        raise InputError("no round program", field="program")
    for k, program in programs.items():
        if k != program.k:
            raise InputError(f"the program {program.name} drafts {program.k} tokens, listed under {k}", field="program")
        if len({p.device for p in program.passes}) > 1:
            raise InputError(
                f"the passes of {program.name} use several devices; this executor has one", field="program"
            )
    if policy is None and len(programs) > 1:
        raise InputError("several draft lengths need a policy that picks one", field="policy")
    longest = max(programs)
    if longest > 0 and process is None:
        raise InputError(f"{longest} drafted tokens need an acceptance process", field="acceptance")


def _drawn_before(source: RoundSource) -> Accepts:
    """Rounds drawn ahead of time, request by request; the last ones of a request may never be used."""
    rows: dict[int, list[int]] = {}

    def emits(requests: list[int], k: int) -> list[int]:  # noqa: ARG001 - fixed when drawn
        out = []
        for i in requests:
            if i not in rows:
                drawn = source.block(i // BLOCK)
                for row, count in enumerate(drawn.count.tolist()):
                    rows[drawn.first + row] = drawn.emitted[row, :count].tolist()[::-1]
            out.append(rows[i].pop())
        return out

    return emits


def _drawn_as_it_goes(process: AcceptanceProcess | None, n: int, rng: np.random.Generator) -> Accepts:
    """Rounds drawn when they run, for draft lengths that depend on the batch."""
    latent = None if process is None else process.start(n, rng)

    def emits(requests: list[int], k: int) -> list[int]:
        if k == 0 or process is None or latent is None or not requests:
            return [1] * len(requests)
        accepted, after = process.verify(latent[requests], k, rng)
        latent[requests] = after
        emitted: list[int] = (accepted[:, 0] + 1).tolist()
        return emitted

    return emits
