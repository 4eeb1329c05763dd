"""Systems side by side: the same hardware, requests, acceptance evidence and seed for each."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.planning.deployment import Deployment, deploy
from specsim.planning.setting import Setting
from specsim.planning.share import beyond, load_in_words, of_one_replica, remedy
from specsim.scenario import Scenario
from specsim.simulation.backlog import load_grows
from specsim.simulation.intervals import Estimate, across
from specsim.simulation.metrics import counted_in_loop
from specsim.simulation.outcome import Outcome
from specsim.simulation.result import Result
from specsim.simulation.workload import Requests
from specsim.systems.catalogue import system
from specsim.systems.composition import Composition, NotApplicable
from specsim.systems.descriptor import System

PLAIN = "plain"
"""The row that every speedup refers to."""

SWEEP_ROUNDS = 4
"""Requests of a point of the sweep, over its users: the first and the last of each user are left out."""

STRETCHES = 20
"""Stretches of requests, in order of arrival, that a speedup's interval is made from."""

LEAST_REQUESTS = 32
"""Requests of a point with few users."""


@dataclass(frozen=True)
class Point:
    """One closed loop of ``concurrency`` users: output tokens a second, and what a request sees on the mean."""

    concurrency: int
    output_tokens_per_s: float
    ttft_s: float
    tpot_s: float


@dataclass(frozen=True)
class Row:
    """What one system did with the scenario's requests; seconds, bytes and operations are means unless named.

    per_gpu: output tokens a second and GPU. speedup: plain decoding's mean TPOT over this one's, with a 90 % interval
    from stretches of requests (their mean TPOT: ``stretch_tpot_s``), paired since both ran the same. drafted, flops (of
    rounds), prompt_flops, network_bytes: an output token. wasted_share: of drafted tokens. weight_bytes, cache_bytes:
    on each of the target's GPUs, the cache at its fullest. Of a closed loop, each user's first and last requests count
    in no latency nor speed. load_grows: requests pile up until the run ends. beyond_slo: limits that do not hold.
    """

    system: str
    ran_with: str
    lossless: str
    one_at_a_time: bool
    gpus: int
    hardware: tuple[str, ...]
    requests: int
    output_tokens_per_s: float
    per_gpu: float
    speedup: Estimate
    ttft_s: float
    ttft_p95_s: float
    tpot_s: float
    tpot_p95_s: float
    stretch_tpot_s: tuple[float, ...]
    tokens_per_round: float
    drafted: float
    wasted_share: float | None
    weight_bytes: float
    cache_bytes: float
    network_bytes: float
    flops: float
    prompt_flops: float
    load_grows: bool
    beyond_slo: tuple[str, ...]
    assumed: tuple[str, ...]
    sweep: tuple[Point, ...]


@dataclass(frozen=True)
class Comparison:
    """Rows in the order of the names, and why the others have none: ``left_out`` by name.

    load: what one replica was given. remedy: what to do where that is more than it can serve.
    """

    rows: tuple[Row, ...]
    left_out: dict[str, str]
    load: str
    remedy: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "rows": [asdict(row) for row in self.rows],
            "left_out": dict(self.left_out),
            "load": self.load,
        }


def compare(
    scenario: Scenario,
    names: Sequence[str],
    *,
    concurrencies: Sequence[int] | None = None,
    processes: int = 1,
    done: Callable[[int, int], None] = lambda _at, _of: None,
) -> Comparison:
    """Run systems on one scenario; plain decoding always, as the reference.

    concurrencies: users of the closed loops of the sweep; None: 1, 2, 4 ... up to max_num_seqs. processes: run so many
    at once (a script that asks for several must be importable). done(finished, all) reports progress. Raises
    InputError for an unknown system and for a scenario without requests.
    """
    chosen = [system(name) for name in dict.fromkeys((PLAIN, *names))]
    if scenario.workload is None:
        raise InputError("is missing; a comparison needs requests", field="workload")
    users = tuple(concurrencies) if concurrencies is not None else doubling(scenario.serving.max_num_seqs)
    if any(c < 1 for c in users):
        raise InputError(f"{min(users)}; give 1 or more", field="--concurrency")
    rows: list[Row] = []
    left_out: dict[str, str] = {}
    ran = _each(scenario, [one.name for one in chosen], users, processes)
    for at, (one, made) in enumerate(zip(chosen, ran, strict=True), start=1):
        done(at, len(chosen))
        if isinstance(made, Row):
            rows.append(made)
        else:
            left_out[one.name] = made
    rows = [replace(row, speedup=_speedup(rows[0], row)) for row in rows]
    load = load_in_words(_whole(scenario.to_toml()))
    return Comparison(tuple(rows), left_out, load, remedy(scenario))


def _speedup(plain: Row, row: Row) -> Estimate:
    each = [a / b for a, b in zip(plain.stretch_tpot_s, row.stretch_tpot_s, strict=True)]
    found = across(each, least=2).around(plain.tpot_s / row.tpot_s)
    return Estimate(float(found.value), float(found.low), float(found.high))


def doubling(most: int) -> tuple[int, ...]:
    """1, 2, 4 ... and ``most``."""
    return tuple(sorted({*(2**i for i in range(most.bit_length())), most}))


def run_one(scenario: Scenario, name: str, concurrencies: Sequence[int]) -> Row | str:
    """One system's row (its speedup still 1), or why it does not apply."""
    given = system(name)
    deployment = _deployed(scenario.to_toml())
    try:
        composition, assumed = compose(given, deployment)
    except NotApplicable as why:
        return why.reason
    simulated = scenario.simulation
    requests = _sampled(deployment, simulated.requests)
    outcome = composition.run(requests, np.random.default_rng((simulated.seed, 1)))
    sweep = tuple(
        _point(composition, deployment, users) for users in concurrencies if users == 1 or not composition.one_at_a_time
    )
    return _row(given, composition, outcome, assumed, sweep, deployment)


def compose(given: System, deployment: Deployment) -> tuple[Composition, tuple[str, ...]]:
    """The system on this scenario, and everything that was assumed; raises NotApplicable with what is missing."""
    own = deployment.scenario.systems.get(given.name, {})
    missing = [f"{p.name} ({p.meaning})" for p in given.inputs if p.default is None and p.name not in own]
    if missing:
        raise NotApplicable(f"needs [systems.{given.key}] {', '.join(missing)}: the scenario does not say")
    numbers = {p.name: float(own[p.name]) if p.name in own else p.default for p in given.inputs}
    words = {c.name: str(own.get(c.name, c.options[0])) for c in given.choices}
    defaults = tuple(f"{p.name} = {p.default:g} ({p.source})" for p in given.inputs if p.name not in own)
    defaults += tuple(f"{c.name} = {c.options[0]} ({c.source})" for c in given.choices if c.name not in own)
    known = {name: value for name, value in numbers.items() if value is not None}
    composition = given.compose(Setting(deployment, given.key, known, words))
    return composition, (*defaults, *composition.assumed)


@cache
def _deployed(scenario_toml: str) -> Deployment:
    """The scenario with what one of its replicas gets of the requests."""
    return of_one_replica(_whole(scenario_toml))


@cache
def _whole(scenario_toml: str) -> Deployment:
    import tomllib

    return deploy(Scenario.from_dict(tomllib.loads(scenario_toml)))


def _each(scenario: Scenario, names: Sequence[str], users: Sequence[int], processes: int) -> Iterator[Row | str]:
    processes = min(len(names), processes)
    if processes <= 1:
        yield from (run_one(scenario, name, users) for name in names)
        return
    with ProcessPoolExecutor(processes, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(run_one, [scenario] * len(names), names, [users] * len(names))


def _sampled(deployment: Deployment, count: int) -> Requests:
    assert deployment.workload is not None
    return deployment.workload.sample(count, np.random.default_rng((deployment.scenario.simulation.seed, 0)))


def _point(composition: Composition, deployment: Deployment, users: int) -> Point:
    """A closed loop; each user's first and last requests, which meet a batch that fills or empties, do not count."""
    seed = deployment.scenario.simulation.seed
    count = max(LEAST_REQUESTS, SWEEP_ROUNDS * users)
    lengths = _sampled(deployment, count)
    requests = Requests(np.zeros(count), lengths.prompt_tokens, lengths.output_tokens, users)
    result = composition.run(requests, np.random.default_rng((seed, 2, users))).result
    middle = counted_in_loop(count, users)
    tpot = result.tpot_s[middle]
    return Point(
        concurrency=users,
        output_tokens_per_s=_loop_tokens_per_s(result, middle, users),
        ttft_s=float(result.ttft_s[middle].mean()),
        tpot_s=float(np.nanmean(tpot)) if np.isfinite(tpot).any() else float("nan"),
    )


def _loop_tokens_per_s(result: Result, counted: slice, users: int) -> float:
    """Little's law: all users are in the loop for as long as the counted requests stay."""
    return users * float(result.output_tokens[counted].mean()) / float(result.e2e_s[counted].mean())


def _row(
    given: System,
    composition: Composition,
    outcome: Outcome,
    assumed: tuple[str, ...],
    sweep: tuple[Point, ...],
    deployment: Deployment,
) -> Row:
    result = outcome.result
    tokens = float(result.output_tokens.sum())
    drafted = float(result.drafted.sum()) * composition.proposes
    users = deployment.workload.users if deployment.workload else None
    counted = counted_in_loop(len(result.arrival_s), users)
    ttft, tpot = result.ttft_s[counted], result.tpot_s[counted]
    tpot = tpot[np.isfinite(tpot)]
    tokens_per_s = outcome.tokens_per_s if users is None else _loop_tokens_per_s(result, counted, users)
    if not tpot.size:
        raise InputError("every output has one token; there is no time between tokens", field="workload.output_tokens")
    latencies = {"ttft": ttft, "tpot": tpot}
    held = outcome.servers[0].cache_max if outcome.servers else result.cache_max
    return Row(
        system=given.name,
        ran_with=composition.ran_with,
        lossless=given.lossless,
        one_at_a_time=composition.one_at_a_time,
        gpus=composition.gpus,
        hardware=tuple(f"{gpus} x {name}" for name, gpus in composition.hardware.items()),
        requests=len(result.arrival_s),
        output_tokens_per_s=tokens_per_s,
        per_gpu=tokens_per_s / composition.gpus,
        speedup=Estimate(1.0, 1.0, 1.0),
        ttft_s=float(ttft.mean()),
        ttft_p95_s=float(np.quantile(ttft, 0.95)),
        tpot_s=float(tpot.mean()),
        tpot_p95_s=float(np.quantile(tpot, 0.95)),
        stretch_tpot_s=tuple(float(part.mean()) for part in np.array_split(tpot, min(STRETCHES, tpot.size))),
        tokens_per_round=outcome.tokens_per_round,
        drafted=drafted / tokens,
        wasted_share=(drafted - float(result.accepted.sum())) / drafted if drafted else None,
        weight_bytes=composition.devices[0].weight_bytes,
        cache_bytes=composition.devices[0].cache_bytes * held,
        network_bytes=sum(link.bytes_sent for link in outcome.links) / tokens,
        flops=composition.round_flops(outcome) / tokens,
        prompt_flops=composition.prompt_flops(outcome) / tokens,
        load_grows=users is None and load_grows([result]),
        beyond_slo=beyond(deployment.scenario.slo, lambda name, q: float(np.quantile(latencies[name], q))),
        assumed=assumed,
        sweep=sweep,
    )
