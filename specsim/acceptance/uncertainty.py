"""How sure an acceptance length is, and in words what a figure rests on."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import ByDraftLength, Iid, LengthOnly, PerPosition, Sample, Survival
from specsim.acceptance.heterogeneous import Heterogeneous
from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.recorded import Recorded, RecordedHistograms

Floats = NDArray[np.float64]


def acceptance_draws(process: AcceptanceProcess, k: int, n: int, rng: np.random.Generator) -> Floats:
    """Plausible mean tokens per round at K = k (bonus included), shape (n,), given how much evidence there was.

    Normal around 1 + sum of survival with ``length_standard_error``, kept within [1, k + 1]. Without counts every draw
    is the same value: ``uncertainty_note`` says so. Exactly n numbers are drawn, so generators in the same state give
    draws for several K that move together, as evidence from the same requests does.
    """
    z = rng.standard_normal(n)
    length = 1.0 + float(process.survival(k).sum())
    error = length_standard_error(process, k) if k else 0.0
    return np.clip(length + (error or 0.0) * z, 1.0, k + 1.0)


def length_standard_error(process: AcceptanceProcess, k: int) -> float | None:
    """Standard error of the acceptance length at K = k, or None where the evidence carries no counts.

    With requests and the spread of their own lengths: spread / sqrt(requests), rounds of one request being anything
    but independent (requests taken as equally long). With rounds only: sqrt(Var(accepted) / rounds), which takes rounds
    as independent and is a lower bound. At a K other than the measured one the error is scaled with accepted tokens;
    between two measured K it is interpolated.
    """
    if isinstance(process, Heterogeneous):
        return length_standard_error(process.base, k)
    if isinstance(process, ByDraftLength):
        errors = [(row.k, _row_error(process, row.sample, row.k)) for row in process.rows if row.sample is not None]
        known = [(at, error) for at, error in errors if error is not None]
        if not known:
            return None
        if known[0][0] <= k <= known[-1][0]:
            return float(np.interp(k, [at for at, _ in known], [error for _, error in known]))
        at, error = known[0] if k < known[0][0] else known[-1]
        return error * _accepted(process, k) / max(_accepted(process, at), 1e-12)
    sample: Sample | None = getattr(process, "sample", None)
    measured = process.max_k or k
    error_there = _row_error(process, sample, measured)
    if error_there is None or measured == k:
        return error_there
    return error_there * _accepted(process, k) / max(_accepted(process, measured), 1e-12)


def _accepted(process: AcceptanceProcess, k: int) -> float:
    return float(process.survival(k).sum())


def _row_error(process: AcceptanceProcess, sample: Sample | None, k: int) -> float | None:
    if sample is None:
        return None
    if sample.requests and sample.request_length_sd is not None:
        return sample.request_length_sd / float(np.sqrt(sample.requests))
    if sample.rounds:
        survival = process.survival(k)
        second = float((survival * (2.0 * np.arange(1.0, k + 1.0) - 1.0)).sum())
        return float(np.sqrt(max(second - float(survival.sum()) ** 2, 0.0) / sample.rounds))
    return None


def uncertainty_note(process: AcceptanceProcess, k: int) -> str:
    """One sentence: what the interval of the acceptance length covers."""
    error = length_standard_error(process, k) if k else 0.0
    if error is None:
        return "acceptance was given without counts, so its sampling error is unknown and intervals leave it out"
    return f"acceptance length at K = {k} has a standard error of {error:.2g} from the evidence's own counts"


def evidence_note(process: AcceptanceProcess, k: int) -> str | None:
    """One sentence where survival at K = k was not measured (inferred, interpolated, extrapolated), else None."""
    if isinstance(process, Heterogeneous):
        return evidence_note(process.base, k)
    if k == 0:
        return None
    if isinstance(process, LengthOnly):
        note = f"curve inferred from one acceptance length at K = {process.at_k} as if i.i.d."
        return note if k == process.at_k else f"{note}; K = {k} is extrapolated"
    if isinstance(process, Iid):
        return "one rate taken for every position and draft length (i.i.d.)"
    limit = process.max_k
    if limit is not None and k > limit and not isinstance(process, Recorded | RecordedHistograms):
        return f"K = {k} lies beyond the evidence (K <= {limit}): the last position's conditional rate is held"
    if isinstance(process, ByDraftLength):
        return _between(process, k)
    if isinstance(process, PerPosition | Survival | Recorded | RecordedHistograms) and limit is not None and k < limit:
        return (
            f"measured while drafting {limit} tokens, used at K = {k}: shorter drafts are accepted more often (on real"
            " sets 2 to 6 % more tokens per round with EAGLE-3, 3 to 19 % with n-gram, between K = 10 and 1)"
        )
    return None


def _between(process: ByDraftLength, k: int) -> str | None:
    measured = [row.k for row in process.rows]
    if k in measured:
        return None
    if k < measured[0]:
        return f"K = {k} lies below the shortest measured draft (K = {measured[0]}), whose first positions are used"
    below, above = max(m for m in measured if m < k), min(m for m in measured if m > k)
    return f"K = {k} is interpolated between K = {below} and K = {above}"
