"""Fit acceptance processes to per-request records, by moments, with a bootstrap over requests."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import ByDraftLength, MeasuredLength, PerPosition, Sample
from specsim.acceptance.conversions import conditional_from_survival, survival_from_histogram
from specsim.acceptance.heterogeneous import Heterogeneous
from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.recorded import RecordedHistograms
from specsim.acceptance.records import SpecDecodeAcceptanceRecord
from specsim.errors import InputError

Floats = NDArray[np.float64]
Records = Sequence[SpecDecodeAcceptanceRecord]


def histograms_by_draft_length(records: Records) -> dict[int, NDArray[np.int64]]:
    """Rounds by accepted count for each draft length: K -> (requests, K + 1), K rising.

    Records whose rounds drafted different lengths need per_step_accepted and per_step_drafted; without them InputError.
    """
    rows: dict[int, list[NDArray[np.int64]]] = {}
    for number, record in enumerate(records, start=1):
        for k, counts in _histograms(record, number):
            rows.setdefault(k, []).append(counts)
    rows.pop(0, None)
    if not rows:
        raise InputError("no record drafted anything; run with speculation on", field="records")
    return {k: np.array(rows[k]) for k in sorted(rows)}


def fit_by_draft_length(records: Records, *, label: str = "") -> ByDraftLength:
    """Conditional rates pooled over rounds for every draft length in the records, with their sample sizes."""
    tables = histograms_by_draft_length(records)
    return ByDraftLength(tuple(_pooled(table) for table in tables.values()), label)


def fit_per_position(records: Records) -> PerPosition:
    """Conditional rates pooled over rounds. The records must share one draft length; use fit_by_draft_length else."""
    table = _only_length(histograms_by_draft_length(records))
    row = _pooled(table)
    return PerPosition(row.conditional, row.sample)


def fit_recorded(records: Records) -> RecordedHistograms:
    """The records' own histograms, one recorded request each; they must share one draft length."""
    table = _only_length(histograms_by_draft_length(records))
    return RecordedHistograms(tuple(tuple(int(n) for n in row) for row in table))


def fit_heterogeneous(records: Records) -> Heterogeneous:
    """Pooled rates and the logit spread between requests that reproduces the spread of their acceptance lengths.

    The variance between requests of their own length, less the part that finitely many rounds explain (each request's
    variance of accepted counts over its rounds), is matched by ``between_requests_sd``. Rounds of a request are taken
    as independent; memory between them is read as spread.
    """
    table = _only_length(histograms_by_draft_length(records))
    base = fit_per_position(records)
    if len(table) < 2:
        raise InputError("one request shows no spread; give records of at least two", field="records")
    accepted = np.arange(table.shape[1])
    rounds = table.sum(axis=1)
    mean = table @ accepted / rounds
    within = table @ accepted**2 / rounds - mean**2
    usable = rounds > 1
    noise = np.zeros(len(rounds))
    noise[usable] = within[usable] / (rounds[usable] - 1)
    variance = float(mean.var(ddof=1)) - float(noise.mean())
    return Heterogeneous(base, spread_for_length_sd(base, table.shape[1] - 1, float(np.sqrt(max(variance, 0.0)))))


def spread_for_length_sd(base: AcceptanceProcess, k: int, length_sd: float, *, limit: float = 4.0) -> float:
    """The ``between_requests_sd`` whose requests' own acceptance lengths at K = k have a standard deviation.

    Bisection: the deviation grows with the spread. InputError where even ``limit`` on the logit scale is too little.
    """
    if length_sd <= 0:
        return 0.0
    if Heterogeneous(base, limit).length_sd(k) < length_sd:
        raise InputError(
            f"{length_sd:g} is more than acceptance lengths at K = {k} around {base.name} can spread; check that it is"
            " a standard deviation between requests",
            field="request_length_sd",
        )
    low, high = 0.0, limit
    while high - low > 1e-7:
        middle = 0.5 * (low + high)
        if Heterogeneous(base, middle).length_sd(k) < length_sd:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)


def bootstrap_lengths(records: Records, k: int, n: int, rng: np.random.Generator) -> Floats:
    """Acceptance length at a recorded K, tokens over rounds, in n resamples of the requests; shape (n,)."""
    tables = histograms_by_draft_length(records)
    if k not in tables:
        raise InputError(f"K = {k} was not recorded; recorded are {', '.join(map(str, tables))}", field="k")
    table = tables[k]
    rounds, accepted = table.sum(axis=1), table @ np.arange(k + 1)
    chosen = rng.multinomial(len(table), np.full(len(table), 1.0 / len(table)), size=n)
    return np.asarray(1.0 + (chosen @ accepted) / (chosen @ rounds))


def _only_length(tables: dict[int, NDArray[np.int64]]) -> NDArray[np.int64]:
    if len(tables) > 1:
        raise InputError(
            f"records drafted K = {', '.join(map(str, tables))}; fit one at a time, or all by fit_by_draft_length",
            field="records",
        )
    return next(iter(tables.values()))


def _pooled(table: NDArray[np.int64]) -> MeasuredLength:
    conditional = conditional_from_survival(survival_from_histogram(table.sum(axis=0)))
    rounds = table.sum(axis=1)
    own = 1.0 + (table @ np.arange(table.shape[1]))[rounds > 0] / rounds[rounds > 0]
    spread = float(own.std(ddof=1)) if len(own) > 1 else None
    sample = Sample(
        rounds=int(rounds.sum()),
        requests=len(own),
        request_length_sd=spread,
        request_weighted_length=float(own.mean()),
    )
    return MeasuredLength(tuple(conditional.tolist()), sample)


def _histograms(record: SpecDecodeAcceptanceRecord, number: int) -> list[tuple[int, NDArray[np.int64]]]:
    k = record.drafted_per_step
    if k is not None:
        counts = np.zeros(k + 1, dtype=np.int64)
        for accepted, rounds in record.acceptance_histogram.items():
            if accepted > k:
                raise InputError(f"{accepted} accepted of {k} drafted", field=f"record {number}.acceptance_histogram")
            counts[accepted] = rounds
        return [(k, counts)]
    if record.per_step_accepted is None or record.per_step_drafted is None:
        raise InputError(
            "drafted different lengths; their rounds are needed (per_step_accepted and per_step_drafted: vLLM's"
            " --per-request-spec-decode-metrics detailed)",
            field=f"record {number}",
        )
    steps = np.column_stack([record.per_step_drafted, record.per_step_accepted])
    if np.any(steps[:, 1] > steps[:, 0]):
        raise InputError("a round accepted more than it drafted", field=f"record {number}.per_step_accepted")
    return [
        (int(length), np.bincount(steps[steps[:, 0] == length, 1], minlength=int(length) + 1))
        for length in np.unique(steps[:, 0])
    ]
