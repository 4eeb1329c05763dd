"""Combinations that no single table can judge: what a section asks of another, and of what ships."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from specsim.scenario.catalogue import drafter_problems, memory_problems, target_problems, workload_problems
from specsim.scenario.drafters import Drafter
from specsim.scenario.scenario import Scenario
from specsim.scenario.sections import Network, Price, Serving, Shown, Simulation, Slo, Target
from specsim.scenario.traffic import Workload

Path = tuple[str | int, ...]


@dataclass
class Sections:
    """The sections of a file that are right in themselves; None where absent or wrong."""

    target: Target | None = None
    drafters: tuple[Drafter | None, ...] = ()
    workload: Workload | None = None
    serving: Serving | None = None
    slo: Slo | None = None
    price: Price | None = None
    network: Network | None = None
    shown: Shown | None = None
    simulation: Simulation | None = None
    systems: dict[str, dict[str, float | str]] = field(default_factory=dict)

    def scenario(self) -> Scenario:
        """The whole, once nothing is wrong."""
        assert self.target is not None
        given: dict[str, Any] = {
            name: getattr(self, name)
            for name in ("workload", "serving", "slo", "price", "network", "shown", "simulation")
            if getattr(self, name) is not None
        }
        return Scenario(self.target, tuple(d for d in self.drafters if d is not None), systems=self.systems, **given)


Check = Callable[[Sections], Iterator[tuple[Path, str]]]


def drafted_tokens_fit_the_budget(given: Sections) -> Iterator[tuple[Path, str]]:
    """A drafting request takes K+1 tokens of every iteration."""
    if given.serving is None:
        return
    budget = given.serving.max_num_batched_tokens
    for index, drafter in enumerate(given.drafters):
        longest = max((drafter.num_speculative_tokens if drafter else None) or (0,))
        if longest + 1 > budget:
            problem = (
                f"{longest} drafted tokens and the bonus are more than serving.max_num_batched_tokens = {budget};"
                f" draft at most {budget - 1} or raise it"
            )
            yield ("drafter", index, "num_speculative_tokens"), problem


def drafters_have_names_of_their_own(given: Sections) -> Iterator[tuple[Path, str]]:
    """Reports name drafters by their labels."""
    seen: set[str] = set()
    for index, drafter in enumerate(given.drafters):
        if drafter is None:
            continue
        if drafter.label in seen:
            yield (
                ("drafter", index, "name"),
                f'"{drafter.label}" is taken by another drafter; give each a name of its own',
            )
        seen.add(drafter.label)


def what_is_named_exists(given: Sections) -> Iterator[tuple[Path, str]]:
    """Models, GPUs, profiles, acceptance files and traces."""
    if given.target is not None:
        yield from target_problems(given.target)
    for index, drafter in enumerate(given.drafters):
        if drafter is not None:
            yield from drafter_problems(drafter, given.target, ("drafter", index))
    if given.workload is not None:
        yield from workload_problems(given.workload)


def requests_fit_the_memory(given: Sections) -> Iterator[tuple[Path, str]]:
    """Weights and drafter leave a cache, and the cache holds one request."""
    if given.target is not None and given.serving is not None and None not in given.drafters:
        drafters = [drafter for drafter in given.drafters if drafter is not None]
        yield from memory_problems(given.target, drafters, given.serving, given.workload)


def replicas_share_a_rate(given: Sections) -> Iterator[tuple[Path, str]]:
    """A rate is shared by replicas; a closed loop's users are one replica's."""
    if given.simulation is None or given.workload is None or given.simulation.replicas is None:
        return
    if given.workload.arrivals.kind == "closed":
        problem = (
            f"{given.simulation.replicas} has no effect in a closed loop, whose users are at one replica; remove it"
        )
        yield ("simulation", "replicas"), problem


CHECKS: tuple[Check, ...] = (
    drafted_tokens_fit_the_budget,
    drafters_have_names_of_their_own,
    what_is_named_exists,
    requests_fit_the_memory,
    replicas_share_a_rate,
)
