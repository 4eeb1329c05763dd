"""What a scenario offers to a published system: its replica, its drafters, and numbers of the system's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from specsim.cost.drafting import load_draft_host
from specsim.cost.memory import Memory
from specsim.cost.shapes import StepTime
from specsim.cost.step import StepCost
from specsim.errors import InputError
from specsim.planning.deployment import Candidate, Deployment
from specsim.planning.operating import asked_rate
from specsim.planning.other_end import OtherEnd
from specsim.planning.surface import prefill_seconds
from specsim.simulation.links import LinkLaw
from specsim.simulation.program import Batch, Pass, RoundProgram
from specsim.simulation.serving import Serving
from specsim.simulation.topology import LinkSpec
from specsim.simulation.workload import ClosedLoop
from specsim.systems.apart import device_passes
from specsim.systems.composition import Device, NotApplicable
from specsim.systems.draft_tree import draft_tree
from specsim.systems.draft_verify import speculative_host, verify_pass
from specsim.theory.serving import steady_load, sustainable_rate


@dataclass(frozen=True)
class Setting:
    """One scenario, and the ``numbers`` and ``words`` that its ``[systems.key]`` and the system's defaults give."""

    deployment: Deployment
    key: str = "NAME"
    numbers: Mapping[str, float] = field(default_factory=dict)
    words: Mapping[str, str] = field(default_factory=dict)

    def drafters(self, *methods: str, evidence: bool = True) -> tuple[Candidate, ...]:
        """The scenario's drafters of these methods, those with acceptance evidence. NotApplicable without any.

        ``evidence`` False: any of them, for systems that verify no tokens.
        """
        known = [c for c in self.deployment.candidates if c.drafter.method in methods]
        if not known:
            wanted = " or ".join(f'"{method}"' for method in methods)
            raise NotApplicable(f"needs a drafter of method {wanted}: add a [[drafter]] with its acceptance")
        return self.with_evidence(known) if evidence else tuple(known)

    def with_evidence(self, candidates: Sequence[Candidate]) -> tuple[Candidate, ...]:
        """Those with acceptance evidence. NotApplicable where none has."""
        ready = tuple(c for c in candidates if c.process is not None)
        if not ready:
            names = " or ".join(c.label for c in candidates)
            raise NotApplicable(f"needs the acceptance of {names}: give its [[drafter]] an acceptance table")
        return ready

    def ranked(self, *methods: str) -> tuple[Candidate, tuple[float, ...]]:
        """A drafter of these methods whose evidence has acceptance by child rank, which trees need."""
        ready = self.drafters(*methods)
        for candidate in ready:
            if candidate.by_rank is not None:
                return candidate, candidate.by_rank
        names = " or ".join(c.label for c in ready)
        raise NotApplicable(f"drafts trees, which need acceptance by child rank: give acceptance.by_rank of {names}")

    def best(self, candidates: Sequence[Candidate], *, k: int | None = None) -> tuple[Candidate, int]:
        """The drafter and draft length that a plan puts first at the scenario's load, in closed form.

        ``k``: the length is fixed, only the drafter is chosen. Only lengths that the evidence covers count. Where no
        drafter names the length, seconds a token decide.
        """
        options = [(c, n) for c in candidates for n in ((k,) if k else c.lengths) if c.covers(n)]
        if not options:
            names = " or ".join(c.label for c in candidates)
            asked = f"{k} drafted tokens" if k else "its draft lengths"
            raise NotApplicable(f"the acceptance of {names} does not cover {asked}: give evidence that does")
        if len(options) == 1:
            return options[0]
        named = {(c.label, n): (c, n) for c, n in options}
        planned = [named[one.label, one.k] for one in self.deployment.ranked if (one.label, one.k) in named]
        return planned[0] if len(planned) == len(options) else min(options, key=lambda one: self._slowness(*one))

    def number(self, name: str, *, above: float | None = None, least: float = 0.0, most: float = np.inf) -> float:
        """One of the system's numbers. InputError unless ``least`` or more (``above``: more) and ``most`` at most."""
        value = self.numbers[name]
        low = value >= least if above is None else value > above
        if not low or value > most:
            wanted = f"{least:g} or more" if above is None else f"more than {above:g}"
            limit = "" if most == np.inf else f", at most {most:g}"
            raise InputError(f"{value:g}; give {wanted}{limit}", field=f"systems.{self.key}.{name}")
        return value

    def count(self, name: str, *, least: int = 1, most: int | None = None) -> int:
        """One of the system's numbers that counts something. InputError unless it is whole and in least..most."""
        value = self.numbers[name]
        if value < least or value != int(value) or (most is not None and value > most):
            limit = "" if most is None else f", at most {most}"
            raise InputError(
                f"{value:g}; give a whole number, at least {least}{limit}", field=f"systems.{self.key}.{name}"
            )
        return int(value)

    @property
    def mean_prompt_tokens(self) -> float:
        """Of the scenario's requests."""
        workload = self.deployment.workload
        assert workload is not None
        return workload.mean_prompt_tokens

    def most(self, candidate: Candidate, k: int) -> int:
        """``k``, or the longest draft that the drafter's evidence covers where that is less."""
        covered = candidate.process.max_k if candidate.process else None
        return k if covered is None else min(k, covered)

    def conditional_rates(self, candidate: Candidate, k: int) -> tuple[float, ...]:
        """P(accepted | all before it accepted) of ``k`` positions, long-run shares of rounds.

        NotApplicable where one is 0 or 1, which a law of signal and acceptance has no room for.
        """
        assert candidate.process is not None
        survival = np.concatenate([[1.0], candidate.process.survival(k)])
        rates = survival[1:] / np.maximum(survival[:-1], 1e-300)
        if not ((rates > 0) & (rates < 1)).all():
            raise NotApplicable(f"needs rates between 0 and 1, and {candidate.label} has a position that is certain")
        return tuple(rates.tolist())

    def tree_program(
        self, candidate: Candidate, *, steps: int, branches: int | Sequence[int], tokens: int
    ) -> RoundProgram:
        """A round that drafts a tree and verifies it on the replica; arguments as in ``draft_tree``."""
        given = self.deployment
        return draft_tree(
            given.target, candidate.drafter, steps=steps, branches=branches, tokens=tokens,
            profile=given.profile, engine=given.engine, **given.precision,
        )  # fmt: skip

    def _slowness(self, candidate: Candidate, k: int) -> tuple[int, float]:
        assert candidate.process is not None
        tokens = 1.0 + float(candidate.process.survival(k).sum())
        return self.slowness(self.deployment.program(candidate, k), tokens=tokens, candidate=candidate)

    def slowness(
        self, program: RoundProgram, *, tokens: float, candidate: Candidate | None = None
    ) -> tuple[int, float]:
        """Seconds a token where the load settles; loads that never settle last, by the rate that they sustain.

        tokens: of a round, on the mean. candidate: whose memory and prompts count beside the target's.
        """
        k = program.k if candidate else 0
        serving = self.deployment.serving(candidate, k)
        deployment = self.deployment
        workload = deployment.workload
        assert workload is not None
        context = deployment.decode_context_tokens
        most = max(1, min(serving.max_num_seqs, int(serving.usable_blocks * serving.block_size / context)))

        def round_s(batches: np.ndarray) -> np.ndarray:
            return program.seconds(Batch(batches, batches * context))

        rate = asked_rate(deployment)
        if rate is None:
            users = workload.arrivals.concurrency if isinstance(workload.arrivals, ClosedLoop) else most
            return 0, float(round_s(np.array([float(min(users, most))]))[0]) / tokens
        output = workload.mean_output_tokens
        prefill_s = float(prefill_seconds(deployment, candidate, k))
        law = {"tokens_per_round": tokens, "output_tokens": output, "prefill_s": prefill_s}
        load = steady_load(rate, round_s=round_s, max_batch=most, **law)
        if load.stable:
            return 0, load.seconds_per_token
        return 1, -sustainable_rate(round_s=round_s, max_batch=most, **law)

    @cached_property
    def other_end(self) -> OtherEnd:
        """What stands at the other end of the scenario's network."""
        return OtherEnd(self.deployment)

    def own_links(
        self, a: str, b: str, *, latency: str = "one_way_s", bandwidth: str = "bytes_per_s", jitter: str | None = None
    ) -> tuple[LinkSpec, LinkSpec]:
        """Links in both directions, from numbers of the system's own."""
        law = LinkLaw(
            self.number(latency), self.number(bandwidth, above=0), jitter=self.number(jitter, most=1) if jitter else 0.0
        )
        return LinkSpec(a, b, law), LinkSpec(b, a, law)

    def device_passes(self, candidate: Candidate, k: int, *, device: str) -> tuple[Pass, ...]:
        """``k`` passes of a draft model on a device whose ``draft_s`` and ``prompt_s`` the system's numbers give."""
        return device_passes(
            candidate.drafter, k, device=device, draft_s=self.number("draft_s"), prompt_s=self.number("prompt_s")
        )

    def verify_pass(self, drafted: int, *, device: str) -> Pass:
        """The target's pass over 1 + ``drafted`` tokens a sequence, on the replica alone."""
        given = self.deployment
        forward = given.target.forward(**given.precision)
        return verify_pass(given.target, StepCost(forward, given.profile, given.engine), drafted, device=device)

    def host(self, candidate: Candidate, drafted: int) -> Callable[[Batch], StepTime]:
        """The host's share of an iteration that verifies ``drafted`` tokens a sequence."""
        engine = self.deployment.engine
        return speculative_host(engine, load_draft_host(engine), candidate.drafter, drafted, self.deployment.profile)

    def seconds_alone(self, passes: Sequence[Pass]) -> float:
        """Seconds of these passes for one sequence at the traffic's mean context."""
        batch = Batch(1.0, self.deployment.decode_context_tokens)
        return float(sum(p.repeats * float(p.cost(p.shape(batch)).total_s) for p in passes))

    def draft_bytes(self, candidate: Candidate) -> tuple[float, float]:
        """Bytes of a draft model's weights on one GPU, and of a token in its cache."""
        given, drafter = self.deployment.scenario.target, candidate.drafter
        weights = drafter.weight_bytes(1, dtype=drafter.weight_dtype(given.dtype))
        return weights, drafter.kv_bytes_per_token(kv_dtype=given.kv_dtype)

    def shared_memory(self, share: float, beside: tuple[float, float]) -> Memory:
        """A GPU of the replica that holds a share of the target's layers; beside: other weights, and cache a token.

        InputError where nothing is left for the cache.
        """
        draft_bytes, draft_bytes_per_token = beside
        whole = self.deployment.memory(None, 0)
        block = whole.block_bytes * share + draft_bytes_per_token * whole.block_size
        weights = whole.weight_bytes * share
        left = whole.usable_bytes - weights - draft_bytes - whole.activation_bytes - whole.runtime_bytes
        if left < 2 * block:
            raise InputError(
                f"{(weights + draft_bytes) / 1e9:.1f} GB of weights leave nothing for the cache on"
                f" {self.deployment.profile.hardware.name}",
                field=f"systems.{self.key}",
            )
        return replace(
            whole,
            weight_bytes=weights,
            draft_weight_bytes=draft_bytes,
            block_bytes=block,
            num_gpu_blocks=int(left // block),
        )

    def replica(self, candidate: Candidate | None, k: int, memory: Memory | None = None) -> Device:
        """The scenario's replica, with a drafter beside the target or without; ``memory`` where it holds more."""
        memory = memory or self.deployment.memory(candidate, k)
        return Device(
            name="replica",
            hardware=self.deployment.profile.hardware.name,
            gpus=self.deployment.scenario.target.tensor_parallel,
            weight_bytes=memory.weight_bytes + memory.draft_weight_bytes,
            cache_bytes=memory.block_bytes * self.serving(candidate, k, memory).num_blocks,
        )

    def serving(self, candidate: Candidate | None, k: int, memory: Memory | None = None) -> Serving:
        """The replica's limits; ``memory`` where it holds more than the target and one drafter."""
        if memory is None:
            return self.deployment.serving(candidate, k)
        blocks = self.deployment.scenario.serving.num_gpu_blocks or memory.num_gpu_blocks
        return replace(self.deployment.serving(None, 0), num_blocks=blocks)
