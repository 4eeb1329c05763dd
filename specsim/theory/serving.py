"""A replica under load in closed form: goodput of a batch, and the steady decode batch that a request rate leads to."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def goodput(tokens: ArrayLike, round_s: ArrayLike, *, axis: int = -1) -> Floats:
    """Tokens per second of a batch: expected tokens of its requests, summed along ``axis``, over the batch's seconds.

    The objective of SmartSpec/TurboSpec (arXiv 2406.14066). round_s: the sum's shape.
    """
    return np.asarray(np.asarray(tokens, dtype=np.float64).sum(axis=axis) / np.asarray(round_s, dtype=np.float64))


def best_k_by_goodput(survival: ArrayLike, batch_s: Callable[[int, int], float], *, max_k: int) -> tuple[Ints, float]:
    """Draft lengths of the requests in one batch that maximise goodput, and the goodput.

    survival: (requests, positions), each row non-increasing. batch_s(drafted, longest): seconds of a batch that drafts
    so many tokens in all, the longest draft deciding the drafter's sequential passes. For each longest length the
    tokens are taken in order of survival; a prefix of that order is optimal for its total, since survival falls along
    each row. Exact; O(max_k * requests * max_k).
    """
    rows = np.atleast_2d(np.asarray(survival, dtype=np.float64))[:, :max_k]
    if np.any(np.diff(rows, axis=1) > 1e-12):
        raise InputError("must not rise along a request's positions", field="survival")
    n, width = rows.shape
    best, chosen = n / batch_s(0, 0), np.zeros(n, dtype=np.int64)
    for longest in range(1, width + 1):
        flat = rows[:, :longest].ravel()
        order = np.argsort(-flat, kind="stable")
        total = n + np.cumsum(flat[order])
        for drafted in range(1, len(order) + 1):
            value = float(total[drafted - 1]) / batch_s(drafted, longest)
            if value > best:
                best = value
                chosen = np.bincount(order[:drafted] // longest, minlength=n).astype(np.int64)
    return chosen, best


@dataclass(frozen=True)
class SteadyLoad:
    """Where a replica settles at a request rate; ``stable`` is False where no decode batch up to the limit keeps up.

    concurrency: mean requests decoding. seconds_per_token: mean time per output token after the first. prefill_share:
    share of the engine's time that prefill takes.
    """

    stable: bool
    concurrency: float
    seconds_per_token: float
    prefill_share: float


def steady_load(
    rate_per_s: float,
    *,
    round_s: Callable[[Floats], Floats],
    tokens_per_round: float,
    output_tokens: float,
    prefill_s: float,
    max_batch: int,
) -> SteadyLoad:
    """The decode batch B at which arrivals and completions balance (Little's law).

    A request stays for (output_tokens - 1) / tokens_per_round rounds, its first token coming from the prefill. Rounds
    take round_s(B), stretched by 1 / (1 - rate * prefill_s) since prefill takes that share of the engine. So

        B = rate * rounds * round_s(B) / (1 - rate * prefill_s),

    whose smallest root is the load; the sustainable rate is where none is left. Mean-field: the batch is taken at its
    mean, so queueing fluctuations are left out, and a batch below one is a replica that is idle part of the time
    (round_s is then taken at one).
    """
    _positive(tokens_per_round=tokens_per_round, output_tokens=output_tokens, max_batch=max_batch)
    share = rate_per_s * prefill_s
    if share >= 1.0:
        return _overloaded(1.0)
    rounds = max(output_tokens - 1.0, 0.0) / tokens_per_round
    batches = np.arange(1.0, max_batch + 1.0)
    seconds = np.asarray(round_s(batches), dtype=np.float64) / (1.0 - share)
    demand = rate_per_s * rounds * seconds
    if demand[0] <= 1.0:
        return SteadyLoad(
            stable=True,
            concurrency=float(demand[0]),
            seconds_per_token=float(seconds[0] / tokens_per_round),
            prefill_share=share,
        )
    keeps_up = np.flatnonzero(demand <= batches)
    if not len(keeps_up):
        return _overloaded(share)
    i = int(keeps_up[0])
    over, under = demand[i - 1] - batches[i - 1], batches[i] - demand[i]
    b = float(batches[i - 1] + over / (over + under))
    per_token = float(np.interp(b, batches, seconds) / tokens_per_round)
    return SteadyLoad(stable=True, concurrency=b, seconds_per_token=per_token, prefill_share=share)


def sustainable_rate(
    *,
    round_s: Callable[[Floats], Floats],
    tokens_per_round: float,
    output_tokens: float,
    prefill_s: float,
    max_batch: int,
    max_seconds_per_token: float | None = None,
) -> float:
    """The highest request rate at which ``steady_load`` has a fixed point: max over B of B / (rounds round_s(B) + B p).

    From B = rate rounds round_s(B) / (1 - rate p), solved for the rate. With ``max_seconds_per_token`` only batches
    whose tokens come at least that fast count (prefill's stretch included); 0 where none does.
    """
    _positive(tokens_per_round=tokens_per_round, output_tokens=output_tokens, max_batch=max_batch)
    batches = np.arange(1.0, max_batch + 1.0)
    rounds = max(output_tokens - 1.0, 0.0) / tokens_per_round
    seconds = np.asarray(round_s(batches), dtype=np.float64)
    residence = rounds * seconds + batches * prefill_s
    if residence[0] <= 0:
        raise InputError("neither decoding nor prefill takes any time", field="round_s, prefill_s")
    rates = batches / residence
    if max_seconds_per_token is not None:
        with np.errstate(divide="ignore"):
            per_token = seconds / (1.0 - rates * prefill_s) / tokens_per_round
        rates = np.where(per_token <= max_seconds_per_token, rates, 0.0)
    return float(rates.max())


def pollaczek_khinchine_wait(rate_per_s: float, service_mean_s: float, service_cv: float) -> float:
    """Mean wait of an M/G/1 queue, rate E[S^2] / (2 (1 - rho)), inf where rho >= 1: for prefill, served in turn.

    With E[S^2] = mean^2 (1 + cv^2) (Pollaczek 1930, Khinchine 1932).
    """
    rho = rate_per_s * service_mean_s
    if rho >= 1.0:
        return float("inf")
    return rate_per_s * service_mean_s**2 * (1.0 + service_cv**2) / (2.0 * (1.0 - rho))


def _overloaded(prefill_share: float) -> SteadyLoad:
    never = float("inf")
    return SteadyLoad(stable=False, concurrency=never, seconds_per_token=never, prefill_share=prefill_share)


def _positive(**values: float) -> None:
    for field, value in values.items():
        if not value > 0:
            raise InputError(f"{value} must be above 0", field=field)
