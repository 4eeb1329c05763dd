"""A scenario as things that can be priced and run: programs by draft length, acceptance, traffic, cache."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from specsim.acceptance.process import AcceptanceProcess
from specsim.cost.drafter import Drafter, load_drafter, lookup_proposal_rate
from specsim.cost.engine import Engine, load_engine
from specsim.cost.memory import Memory, cache_memory
from specsim.cost.model import ModelShape, load_model
from specsim.cost.profile import Profile, load_profile
from specsim.errors import InputError
from specsim.scenario import Scenario
from specsim.scenario.drafters import Drafter as DrafterSection
from specsim.scenario.resolve import acceptance_process, acceptance_source, traffic_of
from specsim.simulation.program import RoundProgram
from specsim.simulation.serving import Serving
from specsim.simulation.workload import Workload
from specsim.systems.draft_verify import draft_verify

if TYPE_CHECKING:
    from specsim.planning.operating import Choice

DEFAULT_LENGTHS = (1, 2, 3, 4, 5, 6, 8)
"""Draft lengths that are considered where a drafter names none."""


@dataclass(frozen=True)
class Candidate:
    """One way to draft. ``process`` is None without acceptance evidence, ``source`` says where that comes from.

    by_rank: acceptance by child rank, where the evidence has it.
    """

    label: str
    drafter: Drafter
    lengths: tuple[int, ...]
    process: AcceptanceProcess | None
    source: str | None
    by_rank: tuple[float, ...] | None = None

    def covers(self, k: int) -> bool:
        """Whether the evidence says what survives of ``k`` tokens."""
        most = self.process.max_k if self.process else None
        return most is None or k <= most

    @property
    def short(self) -> str:
        """The label without the method before a model and the model's organisation."""
        return self.label.rsplit("/", 1)[-1].removeprefix(f"{self.drafter.method}:")


@dataclass(frozen=True)
class Deployment:
    """One replica of a target, its candidates, and its traffic (None where the scenario has none)."""

    scenario: Scenario
    target: ModelShape
    profile: Profile
    engine: Engine
    candidates: tuple[Candidate, ...]
    workload: Workload | None
    _programs: dict[tuple[str | None, int], RoundProgram] = field(default_factory=dict, compare=False, repr=False)

    def program(self, candidate: Candidate | None, k: int) -> RoundProgram:
        """The round program that drafts ``k`` tokens; None or 0: plain decoding without a drafter."""
        key = (candidate.label if candidate and k else None, k)
        if key not in self._programs:
            self._programs[key] = draft_verify(
                self.target, candidate.drafter if candidate and k else None, k=k, profile=self.profile,
                engine=self.engine, **self.precision,
            )  # fmt: skip
        return self._programs[key]

    def memory(self, candidate: Candidate | None, k: int) -> Memory:
        """Where a GPU's memory goes; a drafter's weights and cache take their share."""
        return cache_memory(
            self.target, candidate.drafter if candidate and k else None, k=k, hardware=self.profile.hardware,
            **self.scenario.serving.memory_limits, **self.precision,
        )  # fmt: skip

    def serving(self, candidate: Candidate | None, k: int) -> Serving:
        """Limits of the replica, with as many cache blocks as the scenario gives or the memory leaves."""
        limits = self.scenario.serving
        return Serving(
            max_num_seqs=limits.max_num_seqs,
            max_num_batched_tokens=limits.max_num_batched_tokens,
            num_blocks=limits.num_gpu_blocks or self.memory(candidate, k).num_gpu_blocks,
            block_size=limits.block_size,
        )

    @cached_property
    def decode_context_tokens(self) -> float:
        """Mean cached tokens of a decoding request, over the decode rounds of the traffic: E[(p + o/2) o] / E[o]."""
        if self.workload is None:
            raise InputError("is missing; the context of the traffic follows from it", field="workload")
        requests = self.workload.sample(20_000, np.random.default_rng(self.scenario.simulation.seed))
        prompt, output = requests.prompt_tokens.astype(float), requests.output_tokens.astype(float)
        return float(((prompt + output / 2) * output).sum() / output.sum())

    @cached_property
    def ranked(self) -> tuple[Choice, ...]:
        """Drafters and lengths that their evidence covers, the one that a plan recommends for one replica first."""
        from specsim.planning.operating import choose, curves_of  # these rank deployments
        from specsim.planning.schedule import schedule
        from specsim.planning.surface import surfaces

        known = [replace(c, lengths=tuple(filter(c.covers, c.lengths))) for c in self.candidates if c.process]
        one = replace(self, candidates=tuple(c for c in known if c.lengths))
        surface = surfaces(one)
        context = surface.contexts[surface.context]
        ranges = [r for c in one.candidates for r in schedule(one, surface, c) if r.context_tokens == context]
        return choose(one, curves_of(one, surface), ranges, replicas=1)

    def drafting_assumed(self, candidate: Candidate) -> tuple[str, ...]:
        """Precision and cut of a drafting model, which no scenario gives: as the target's."""
        drafter, given = candidate.drafter, self.scenario.target
        if drafter.method not in ("draft_model", "mtp"):
            return ()
        cut = f"cut over the target's {given.tensor_parallel} GPUs" if given.tensor_parallel > 1 else "on its GPU"
        return (f"{candidate.label}: weights in {drafter.weight_dtype(given.dtype)} as the target's, {cut}",)

    @property
    def precision(self) -> dict[str, Any]:
        """How the target is cut and stored, as the programs and the memory take it."""
        given = self.scenario.target
        return {"tensor_parallel": given.tensor_parallel, "dtype": given.dtype, "kv_dtype": given.kv_dtype}


def deploy(scenario: Scenario) -> Deployment:
    """Resolve every name of the scenario and price plain decoding once, so that what cannot be priced fails here."""
    given = scenario.target
    target = load_model(given.model)
    target.check_parallel(given.tensor_parallel)
    candidates = tuple(_candidate(drafter, target) for drafter in scenario.drafters if drafter.method != "none")
    deployment = Deployment(
        scenario=scenario,
        target=target,
        profile=load_profile(given.hardware, engine=given.engine, dtype=given.dtype),
        engine=load_engine(given.engine),
        candidates=candidates,
        workload=None if scenario.workload is None else traffic_of(scenario.workload),
    )
    deployment.program(None, 0)
    deployment.serving(None, 0)
    return deployment


def _candidate(given: DrafterSection, target: ModelShape) -> Candidate:
    lengths = tuple(k for k in (given.num_speculative_tokens or DEFAULT_LENGTHS) if k > 0)
    if not lengths:
        raise InputError(
            f"{given.label} considers 0 drafted tokens only; give a length of at least 1, or method none",
            field="drafter.num_speculative_tokens",
        )
    process = acceptance_process(given)
    rate = 1.0
    if given.method == "ngram" and process is not None:  # rounds in which it proposes nothing verify one token
        rate = lookup_proposal_rate(process.survival(min(2, process.max_k or 2)))
    return Candidate(
        label=given.label,
        drafter=load_drafter(given.method, target=target, model=given.model, proposal_rate=rate),
        lengths=lengths,
        process=process,
        source=acceptance_source(given),
        by_rank=None if given.acceptance is None else given.acceptance.by_rank,
    )
