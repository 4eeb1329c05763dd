"""What users feel and operators pay, from simulated runs, with confidence intervals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from specsim.errors import InputError
from specsim.simulation.backlog import load_grows
from specsim.simulation.intervals import Estimate, across, within
from specsim.simulation.result import Result

Floats = NDArray[np.float64]

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


@dataclass(frozen=True)
class Slo:
    """Limits that one request must keep, in seconds; None: no limit. TPOT of a one-token output is kept by all."""

    ttft_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None


@dataclass(frozen=True)
class Statistics:
    """Mean and quantiles of one latency, in seconds."""

    mean: Estimate
    p50: Estimate
    p90: Estimate
    p95: Estimate
    p99: Estimate

    def to_dict(self) -> dict[str, dict[str, float]]:
        """The five estimates by name."""
        return {name: getattr(self, name).to_dict() for name in ("mean", *QUANTILES)}


@dataclass(frozen=True)
class Summary:
    """Estimates over all runs. Intervals are at the 90 % level; ``method`` says how they were made.

    ttft: arrival to first token. tpot: (last - first) / (output tokens - 1), requests of two tokens or more. itl: gaps
    between a request's consecutive emissions, one a chunk whatever it carries (as vLLM's benchmark counts streamed
    chunks). e2e: arrival to last token. Throughput: from the first counted arrival to the last finish.
    In a closed loop it is that of the counted requests, from the first one's arrival to the first later one's.
    goodput: requests a second that keep every limit, None without limits. acceptance_length: tokens a decode iteration,
    bonus included, before the output length cuts the last; None where nothing was drafted. utilisation: share of the
    time that an iteration runs. mean_batch: decoding requests in the time average of busy time. cache_mean, cache_max:
    share of usable blocks held, mean over busy time. warm_up_requests, cool_down_requests: left out at the start and
    the end of each run. load_grows: requests pile up until the runs end (open loads). warnings: to be read first.
    """

    ttft_s: Statistics
    tpot_s: Statistics | None
    itl_s: Statistics | None
    e2e_s: Statistics
    request_throughput_per_s: Estimate
    output_throughput_tokens_per_s: Estimate
    goodput_per_s: Estimate | None
    goodput_share: Estimate | None
    acceptance_length: Estimate | None
    utilisation: Estimate
    mean_batch: Estimate
    cache_mean: Estimate
    cache_max: Estimate
    preemptions_per_request: Estimate
    iterations: int
    requests: int
    runs: int
    warm_up_requests: tuple[int, ...]
    cool_down_requests: tuple[int, ...]
    load_grows: bool
    method: str
    notes: tuple[str, ...] = field(default=())
    warnings: tuple[str, ...] = field(default=())

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for JSON; every estimate is an object with value, low and high."""
        out: dict[str, Any] = {}
        for name, value in self.__dict__.items():
            out[name] = value.to_dict() if isinstance(value, Estimate | Statistics) else value
        for name in ("warm_up_requests", "cool_down_requests", "notes", "warnings"):
            out[name] = list(out[name])
        return out


def summarise(
    results: Sequence[Result],
    *,
    slo: Slo | None = None,
    warm_up: Literal["none", "mser5"] = "none",
    users: int | None = None,
) -> Summary:
    """Estimates from independent runs (five or more: t interval between runs) or from fewer (within each run).

    Within a run, requests in arrival order are correlated: a moving-block bootstrap with blocks of the square root of
    the run, or, beyond 20,000 values, the spread of 20 batches (Law, Simulation Modeling and Analysis, ch. 9).
    ``warm_up`` mser5 leaves out each run's first requests by the MSER-5 rule on end-to-end latency (White 1997); use it
    for a steady open load only, since a burst or a trace has no steady state. ``users`` of a closed loop: their first
    requests, which all arrive at once, and their last, whose batch empties, are left out.
    """
    if not results:
        raise InputError("no runs to summarise", field="results")
    notes = []
    if users is not None:
        counted = [counted_in_loop(len(r.arrival_s), users) for r in results]
        if any(c.stop == len(r.arrival_s) for c, r in zip(counted, results, strict=True)):
            notes.append(
                f"fewer than three requests a user ({users:,} users): the loop's start and end are counted; raise"
                " simulation.requests"
            )
    else:
        counted = [slice(_mser5(r.e2e_s) if warm_up == "mser5" else 0, len(r.arrival_s)) for r in results]
    runs = list(zip(results, counted, strict=True))

    def scalar(of: Callable[[Result, slice], float]) -> Estimate:
        return across([of(r, c) for r, c in runs])

    def latency(name: str) -> Statistics | None:
        values = [getattr(r, name)[c] for r, c in runs]
        values = [v[np.isfinite(v)] for v in values]
        if not all(len(v) for v in values):
            return None
        return _statistics(values)

    gaps = [_gaps(r, c) for r, c in runs]
    itl = _statistics_weighted(gaps) if all(len(v) for v, _ in gaps) else None
    ttft, e2e = latency("ttft_s"), latency("e2e_s")
    assert ttft is not None
    assert e2e is not None
    drafted = sum(int(r.drafted.sum()) for r in results)
    replicated = len(results) >= 5
    if not replicated:
        notes.append("engine-wide figures have no interval from fewer than five runs; low and high repeat the value")
    return Summary(
        ttft_s=ttft,
        tpot_s=latency("tpot_s"),
        itl_s=itl,
        e2e_s=e2e,
        request_throughput_per_s=scalar(requests_per_s),
        output_throughput_tokens_per_s=scalar(lambda r, c: float(r.output_tokens[c].sum()) / _span(r, c)),
        goodput_per_s=None if slo is None else scalar(lambda r, c: float(_kept(r, slo)[c].sum()) / _span(r, c)),
        goodput_share=None if slo is None else scalar(lambda r, c: float(_kept(r, slo)[c].mean())),
        acceptance_length=None if drafted == 0 else scalar(lambda r, c: 1 + _ratio(r.accepted[c], r.rounds[c])),
        utilisation=scalar(lambda r, _: r.busy_s / r.duration_s),
        mean_batch=scalar(lambda r, _: r.batch_s / r.busy_s),
        cache_mean=scalar(lambda r, _: r.cache_s / r.busy_s),
        cache_max=scalar(lambda r, _: r.cache_max),
        preemptions_per_request=scalar(lambda r, c: float(r.preemptions[c].mean())),
        iterations=sum(r.iterations for r in results),
        requests=sum(len(r.arrival_s) for r in results),
        runs=len(results),
        warm_up_requests=tuple(c.start for c in counted),
        cool_down_requests=tuple(len(r.arrival_s) - c.stop for r, c in runs),
        load_grows=users is None and load_grows(results),
        method=f"90 % t interval between {len(results)} runs"
        if replicated
        else "90 % moving-block bootstrap over requests in arrival order (beyond 20,000 values: 20 batches)",
        notes=tuple(notes),
    )


def _statistics(runs: list[Floats]) -> Statistics:
    if len(runs) >= 5:
        return Statistics(
            across([float(v.mean()) for v in runs]),
            *(across([float(np.quantile(v, q)) for v in runs]) for q in QUANTILES.values()),
        )
    return Statistics(*within(runs, tuple(QUANTILES.values())))


def _statistics_weighted(runs: list[tuple[Floats, NDArray[np.int64]]]) -> Statistics:
    """Of gaps and how many requests saw each. Short of five runs, each is cut into 20 stretches of time."""
    if len(runs) < 5:
        whole = _weighted(np.concatenate([v for v, _ in runs]), np.concatenate([c for _, c in runs]))
        pieces = [
            _weighted(*piece)
            for values, counts in runs
            for piece in zip(np.array_split(values, 20), np.array_split(counts, 20), strict=True)
            if len(piece[0])
        ]
        around = [across([piece[j] for piece in pieces], least=2) for j in range(5)]
        return Statistics(*(e.around(whole[j]) for j, e in enumerate(around)))
    each = [_weighted(*run) for run in runs]
    return Statistics(*(across([e[j] for e in each]) for j in range(5)))


def _weighted(values: Floats, counts: NDArray[np.int64]) -> tuple[float, ...]:
    """Mean and the quantiles, each value as often as counted."""
    by_size = np.argsort(values)
    upto = np.cumsum(counts[by_size])
    places = [min(int(np.searchsorted(upto, q * upto[-1])), len(values) - 1) for q in QUANTILES.values()]
    return (float(values @ counts / upto[-1]), *(float(values[by_size[p]]) for p in places))


def counted_in_loop(requests: int, users: int | None) -> slice:
    """The requests of a closed loop that meet a full batch: neither a user's first nor last, in order of arrival.

    All but the first where that would leave fewer than one a user, and all where nothing else is left, or there are no
    users (None: no loop).
    """
    if users is None:
        return slice(0, requests)
    if requests >= 3 * users:
        return slice(users, requests - users)
    return slice(users if requests > users else 0, requests)


def requests_per_s(result: Result, counted: slice) -> float:
    """The counted requests over the time in which they came (in a loop that goes on), or came and were served."""
    return float((counted.stop - counted.start) / _span(result, counted))


def _gaps(result: Result, counted: slice) -> tuple[Floats, NDArray[np.int64]]:
    """The gaps without the shares of them that requests left out take, from both ends: gaps are in time order."""
    start, stop = (int(len(result.itl_s) * at / len(result.arrival_s)) for at in (counted.start, counted.stop))
    return result.itl_s[start:stop], result.itl_count[start:stop]


def _span(result: Result, counted: slice) -> float:
    """Seconds in which the counted requests came (a closed loop that goes on after them), or came and were served."""
    if counted.stop < len(result.arrival_s):
        return float(result.arrival_s[counted.stop] - result.arrival_s[counted.start])
    return float(result.finish_s[counted].max() - result.arrival_s[counted.start])


def _ratio(a: NDArray[np.int64], b: NDArray[np.int64]) -> float:
    return float(a.sum() / b.sum()) if b.sum() else float("nan")


def _kept(result: Result, slo: Slo) -> NDArray[np.bool_]:
    kept = np.ones(len(result.arrival_s), dtype=np.bool_)
    for values, limit in ((result.ttft_s, slo.ttft_s), (result.tpot_s, slo.tpot_s), (result.e2e_s, slo.e2e_s)):
        if limit is not None:
            kept &= np.isnan(values) | (values <= limit)
    return kept


def _mser5(values: Floats) -> int:
    """Values to leave out: the cut, up to half, with the smallest standard error of what remains, in fives."""
    batches = values[: len(values) // 5 * 5].reshape(-1, 5).mean(axis=1)
    n = len(batches)
    if n < 4:
        return 0
    tail = batches[::-1]
    count = np.arange(1, n + 1)
    mean = np.cumsum(tail) / count
    squares = np.maximum(np.cumsum(tail**2) / count - mean**2, 0.0)
    score = (squares / count)[::-1]  # score[d]: of leaving out the first d batches
    return int(score[: n // 2 + 1].argmin()) * 5
