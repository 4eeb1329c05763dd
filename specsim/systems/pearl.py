"""PEARL: drafter and target work at the same time on two devices; pre-verification and post-verification."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.chains import Iid
from specsim.acceptance.process import AcceptanceProcess
from specsim.simulation.expanded import run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import RoundProgram
from specsim.simulation.round_rules import DrawnRounds
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import ServerSpec, Topology, on_one
from specsim.systems.apart import TOKEN_BYTES
from specsim.systems.composition import Composition, on_servers
from specsim.systems.descriptor import Parameter, System

if TYPE_CHECKING:
    from specsim.planning.setting import Setting


class PearlRule:
    """Two modes a stream, as in the authors' code.

    Pre-verify tests the first token of the block being drafted: rejected, one corrected token comes out; accepted, the
    block stands and post-verify follows. Post-verify tests the rest of that block and the first token of the next: all
    accepted, it goes on; else the accepted ones and a correction come out, and pre-verify follows.
    """

    def __init__(self, process: AcceptanceProcess, gamma: int, streams: int, rng: np.random.Generator) -> None:
        self._gamma, self._drawn = gamma, DrawnRounds(process, streams, rng)
        self._post = [False] * streams

    def length(self, stream: int) -> int:  # noqa: ARG002 - always the same
        """The window."""
        return self._gamma

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """One step."""
        tested = k if self._post[stream] else 1
        accepted = self._drawn.accepted(stream, tested)
        self._post[stream] = accepted == tested
        return accepted, accepted if accepted == tested else accepted + 1


def tokens_per_step(alpha: ArrayLike, gamma: ArrayLike) -> NDArray[np.float64]:
    """(1/a + 1/(1-a)) / (1/a + 1/(1-a^gamma)): tokens and steps of a cycle through both modes, by renewal-reward.

    A cycle is 1/a pre-verify steps of one token each, then 1/(1 - a^gamma) post-verify steps that yield 1/(1-a) tokens.
    """
    a, g = np.asarray(alpha, dtype=np.float64), np.asarray(gamma, dtype=np.float64)
    return np.asarray((1 / a + 1 / (1 - a)) / (1 / a + 1 / (1 - a**g)))


def simulate(
    rng: np.random.Generator,
    *,
    alpha: float = 0.8,
    gamma: int = 5,
    draft_s: float = 0.2,
    target_s: float = 1.0,
    gather_s: float = 0.0,
    tokens: int = 20_000,
    requests: int = 1,
) -> Outcome:
    """Streams one after the other; a step lasts as long as the slower of gamma drafts and one target pass."""
    program = timed_program(
        f"draft {gamma} beside verify",
        gamma,
        timed_pass("draft", draft_s + gather_s / gamma, device="draft GPU", repeats=gamma),
        timed_pass("verify", target_s + gather_s, device="target GPU"),
    )
    rule = PearlRule(Iid(alpha), gamma, requests, rng)
    place = on_one("draft GPU", "target GPU")
    return run_expanded(program, rule, streams(requests, tokens), place, rng, seats=1, prompt_cached=True)


def _compose(setting: Setting) -> Composition:
    candidate, _ = setting.best(setting.drafters("draft_model"))
    links = setting.other_end.links("target", "drafter")
    process = candidate.process
    assert process is not None
    step_s = setting.seconds_alone(setting.other_end.passes(candidate, 2, device="drafter")[1:])
    target_s = setting.seconds_alone((setting.verify_pass(0, device="target"),))
    gamma = setting.most(candidate, max(1, round(target_s / step_s)))
    drafting = setting.other_end.passes(candidate, gamma, device="drafter")
    first = replace(drafting[0], bytes_in=TOKEN_BYTES * (gamma + 1), prompt_bytes_in=TOKEN_BYTES)
    program = RoundProgram(
        f"draft {gamma} beside verify",
        gamma,
        (setting.verify_pass(gamma - 1, device="target"), first, *drafting[1:]),
        setting.host(candidate, gamma - 1),
    )
    cache, apart = setting.deployment.serving(None, 0), setting.other_end.memory(candidate)
    place = Topology(
        (
            ServerSpec("target", num_blocks=cache.num_blocks, block_size=cache.block_size),
            ServerSpec("drafter", num_blocks=apart.num_gpu_blocks, block_size=apart.block_size),
        ),
        links,
        home="target",
        reply_bytes=gamma * setting.other_end.drafted_bytes(candidate),
    )
    return on_servers(
        setting,
        candidate,
        {gamma: program},
        lambda requests, rng: PearlRule(process, gamma, len(requests), rng),
        ran_with=f"{candidate.short}, window {gamma}",
        assumed=(
            "the window is the ratio of both speeds, the paper's best",
            "a drafted token travels with its 16-bit distribution",
            "every step is priced as verifying the whole window",
        ),
        devices=(setting.replica(None, 0), setting.other_end.device(candidate)),
        topology=place,
        one_at_a_time=True,
    )


SYSTEM = System(
    name="pearl",
    title="PEARL: Parallel Speculative Decoding with Adaptive Draft Length",
    paper="2408.11850",
    year=2025,
    lossless="yes",
    topology="drafter and target on two devices, in step",
    pipeline="[draft x gamma | verify] -> barrier -> commit",
    rule="min(1, p/q) on the first new token (pre-verify) or on the pending block (post-verify)",
    parameters=(
        Parameter("alpha", 0.8, "acceptance per position", "assumed"),
        Parameter("gamma", 5, "drafted tokens a step", "the authors' choice for Llama-2 7B -> 70B"),
        Parameter("draft_s", 0.2, "seconds of a drafting step", "a speed ratio of gamma, the paper's best window"),
        Parameter("target_s", 1.0, "seconds of a target pass", "unit"),
        Parameter("gather_s", 0.0, "seconds of the exchange at the barrier", "assumed"),
    ),
    assumptions=("verification of gamma tokens takes one target step", "acceptance is i.i.d."),
    batches="batch 1 here; the authors' batched version steps all requests together",
    simulate=simulate,
    compose=_compose,
    study="pearl",
)
