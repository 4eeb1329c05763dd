"""From what a scenario says to the objects that planning and simulation run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from specsim.scenario.drafters import Acceptance, Drafter
from specsim.scenario.traffic import (
    ClosedArrivals,
    FixedTokens,
    GammaArrivals,
    LognormalTokens,
    PoissonArrivals,
    Tokens,
    Workload,
)

if TYPE_CHECKING:
    from specsim.acceptance.process import AcceptanceProcess
    from specsim.simulation import workload as traffic


def acceptance_process(drafter: Drafter) -> AcceptanceProcess | None:
    """What survives of the drafter's tokens, or None without evidence. Raises InputError for a file that is wrong."""
    return None if drafter.acceptance is None else process_of(drafter.acceptance)


def process_of(evidence: Acceptance) -> AcceptanceProcess:
    """The acceptance process of a scenario's table. Raises InputError for a file that is missing or wrong."""
    from specsim.acceptance.scenario import from_evidence

    fields = evidence.model_dump(exclude_none=True, exclude={"shipped", "by_rank"})
    if evidence.shipped is not None:
        fields["file"] = shipped_file(evidence.shipped)
    return from_evidence(**fields)


def acceptance_source(drafter: Drafter) -> str | None:
    """One line that says where the acceptance evidence comes from; None without evidence."""
    evidence = drafter.acceptance
    if evidence is None:
        return None
    if evidence.file is None and evidence.shipped is None:
        return "given in the scenario"
    from specsim.acceptance.acceptance_file import read_evidence

    path = Path(evidence.file) if evidence.file is not None else shipped_file(str(evidence.shipped))
    return read_evidence(path, method=evidence.method, dataset=evidence.dataset).source


def shipped_acceptance() -> tuple[str, ...]:
    """Names of the measured acceptance that ships."""
    return tuple(sorted(path.stem for path in _shipped_folder().glob("*.json")))


def shipped_file(name: str) -> Path:
    """The file of measured acceptance that ships; InputError naming what ships otherwise."""
    from specsim.errors import InputError

    if name not in shipped_acceptance():
        raise InputError(f"no acceptance {name!r} ships; there is {', '.join(shipped_acceptance())}", field="shipped")
    return _shipped_folder() / f"{name}.json"


def _shipped_folder() -> Path:
    import specsim.acceptance

    return Path(specsim.acceptance.__path__[0])


def traffic_of(workload: Workload) -> traffic.Workload:
    """The workload that is sampled and simulated. Raises InputError for a trace that is missing or wrong."""
    from specsim.simulation import workload as traffic

    given = workload.arrivals
    arrivals: traffic.Arrivals
    if isinstance(given, PoissonArrivals):
        arrivals = traffic.Poisson(given.rate_per_s)
    elif isinstance(given, GammaArrivals):
        arrivals = traffic.Gamma(given.rate_per_s, given.burstiness)
    elif isinstance(given, ClosedArrivals):
        arrivals = traffic.ClosedLoop(given.concurrency)
    else:
        from specsim.interop.traces import read_trace

        arrivals = read_trace(Path(given.file), rate_per_s=given.rate_per_s)
    lengths = [None if law is None else _law(law) for law in (workload.prompt_tokens, workload.output_tokens)]
    return traffic.Workload(arrivals, *lengths)


def _law(given: Tokens) -> traffic.Distribution:
    from specsim.simulation import workload as traffic

    if isinstance(given, FixedTokens):
        return traffic.Fixed(given.tokens)
    if isinstance(given, LognormalTokens):
        return traffic.Lognormal(given.mean, given.cv)
    return traffic.Empirical(tuple(map(float, given.tokens)), given.levels)
