"""The other end of a scenario's network: links, and a GPU that holds a draft model alone."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from specsim.cost.memory import Memory, cache_memory
from specsim.cost.profile import Profile, load_profile
from specsim.planning.deployment import Candidate, Deployment
from specsim.simulation.links import LinkLaw
from specsim.simulation.program import Pass, RoundProgram
from specsim.simulation.topology import LinkSpec
from specsim.systems.apart import TOKEN_BYTES, draft_passes
from specsim.systems.composition import Device, NotApplicable
from specsim.systems.draft_verify import draft_verify


@dataclass(frozen=True)
class OtherEnd:
    """Devices beside the replica of ``deployment``."""

    deployment: Deployment

    def links(self, a: str, b: str) -> tuple[LinkSpec, LinkSpec]:
        """The scenario's network in both directions. NotApplicable without one."""
        given = self.deployment.scenario.network
        if given is None:
            raise NotApplicable("runs on several devices: give [network] latency_s and bandwidth_bytes_per_s")
        law = LinkLaw(
            given.latency_s, given.bandwidth_bytes_per_s, jitter=given.jitter, loss=given.loss,
            retry_s=given.retry_s or 0.0,
        )  # fmt: skip
        return LinkSpec(a, b, law), LinkSpec(b, a, law)

    @cached_property
    def profile(self) -> Profile:
        """Of the GPU at the other end: ``network.draft_hardware``, or one like the target's."""
        given, network = self.deployment.scenario.target, self.deployment.scenario.network
        if network is None or network.draft_hardware is None:
            return self.deployment.profile
        return load_profile(network.draft_hardware, engine=given.engine, dtype=given.dtype)

    def passes(self, candidate: Candidate, k: int, *, device: str, profile: Profile | None = None) -> tuple[Pass, ...]:
        """``k`` passes of a draft model on one GPU: of ``profile``, or another."""
        given = self.deployment.scenario.target
        return draft_passes(
            candidate.drafter, k, device=device, profile=profile or self.profile, engine=self.deployment.engine,
            dtype=given.dtype, kv_dtype=given.kv_dtype,
        )  # fmt: skip

    def alone(self, candidate: Candidate) -> RoundProgram:
        """The draft model decoding plainly on an engine of its own, on one GPU of ``profile``."""
        given, model = self.deployment.scenario.target, candidate.drafter.model
        assert model is not None
        return draft_verify(
            model, k=0, profile=self.profile, engine=self.deployment.engine,
            dtype=candidate.drafter.weight_dtype(given.dtype), kv_dtype=given.kv_dtype,
        )  # fmt: skip

    def drafted_bytes(self, candidate: Candidate) -> float:
        """What a drafted token takes on a link: its number, and the 16-bit distribution that it was drawn from."""
        return TOKEN_BYTES + 2.0 * candidate.drafter.draft_vocab

    def memory(self, candidate: Candidate) -> Memory:
        """Where the memory of a GPU goes that holds the draft model alone, under the scenario's limits."""
        given, model = self.deployment.scenario.target, candidate.drafter.model
        assert model is not None
        return cache_memory(
            model, hardware=self.profile.hardware, dtype=candidate.drafter.weight_dtype(given.dtype),
            kv_dtype=given.kv_dtype, **self.deployment.scenario.serving.memory_limits,
        )  # fmt: skip

    def device(self, candidate: Candidate, gpus: int = 1) -> Device:
        """``gpus`` GPUs at the other end, each with the draft model alone."""
        memory = self.memory(candidate)
        name = self.profile.hardware.name
        return Device("drafter", name, gpus, memory.weight_bytes, memory.cache_bytes)
