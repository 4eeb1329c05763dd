"""The acceptance table of a scenario, one kind of evidence with optional spread, as a process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from specsim.acceptance.acceptance_file import read_evidence
from specsim.acceptance.chains import Iid, LengthOnly, PerPosition, Survival
from specsim.acceptance.checks import checked_length, checked_rates, checked_survival
from specsim.acceptance.heterogeneous import Heterogeneous
from specsim.acceptance.process import AcceptanceProcess
from specsim.errors import InputError


def from_evidence(
    *,
    per_position: Sequence[float] | None = None,
    survival: Sequence[float] | None = None,
    length: float | None = None,
    at_k: int | None = None,
    rate: float | None = None,
    file: Path | str | None = None,
    method: str | None = None,
    dataset: str | None = None,
    between_requests_sd: float | None = None,
    within_requests_sd: float | None = None,
    round_correlation: float | None = None,
    scenario: str | None = None,
) -> AcceptanceProcess:
    """The process that exactly one kind of evidence makes, with its spread between requests where given.

    per_position: conditional rates. survival: unconditional ones (vLLM's per-position rates). length with at_k:
    acceptance length, bonus included. rate: one conditional rate. file: an acceptance file; method and dataset choose
    a set in it. between_requests_sd: spread of requests on the logit scale of conditional rates; within_requests_sd
    with round_correlation (memory from round to round): the same between rounds of a request. The mean over rounds,
    which server counters show, is kept exactly.
    scenario: name of the file that the fields stand in, for messages. Raises InputError naming field, value, remedy.
    """
    given = {"per_position": per_position, "survival": survival, "length": length, "rate": rate, "file": file}
    named = [name for name, value in given.items() if value is not None]
    if len(named) != 1:
        found = "no evidence is given" if not named else f"{' and '.join(named)} are given together"
        raise InputError(f"{found}; give exactly one of {', '.join(given)}", file=scenario, field="acceptance")
    if (at_k is None) != (length is None):
        lone, other = ("length", "at_k (the K it was measured at)") if at_k is None else ("at_k", "length")
        raise InputError(f"needs {other} beside it", file=scenario, field=f"acceptance.{lone}")
    if file is None and (method is not None or dataset is not None):
        raise InputError("method and dataset choose a set in a file; give file too", file=scenario, field="acceptance")
    base: AcceptanceProcess
    if per_position is not None:
        rates = checked_rates(per_position, field="acceptance.per_position", file=scenario)
        base = PerPosition(_some(rates.tolist(), "per_position", scenario))
    elif survival is not None:
        values = checked_survival(survival, field="acceptance.survival", file=scenario)
        base = Survival(_some(values.tolist(), "survival", scenario))
    elif rate is not None:
        base = Iid(float(checked_rates(rate, field="acceptance.rate", file=scenario)))
    elif length is not None and at_k is not None:
        if at_k < 1:
            raise InputError(f"{at_k} must be at least 1 drafted token", file=scenario, field="acceptance.at_k")
        base = LengthOnly(float(checked_length(length, at_k, field="acceptance.length", file=scenario)), at_k)
    else:
        base = read_evidence(Path(str(file)), method=method, dataset=dataset).process()
    if between_requests_sd is None and within_requests_sd is None and round_correlation is None:
        return base
    try:
        return Heterogeneous(base, between_requests_sd or 0.0, within_requests_sd or 0.0, round_correlation or 0.0)
    except InputError as wrong:
        raise InputError(f"acceptance.{wrong}", file=scenario) from None


def _some(values: list[float] | float, name: str, scenario: str | None) -> tuple[float, ...]:
    if not isinstance(values, list) or not values:
        raise InputError("needs a list of at least one number", file=scenario, field=f"acceptance.{name}")
    return tuple(values)
