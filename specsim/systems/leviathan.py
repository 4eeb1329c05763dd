"""Leviathan et al. 2023: a small model drafts a fixed number of tokens, the target verifies them in one pass."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specsim.acceptance.chains import Iid
from specsim.simulation.expanded import run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import RoundProgram
from specsim.simulation.round_rules import ChainRounds
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import on_one
from specsim.systems.composition import Composition, fixed_chain
from specsim.systems.descriptor import Parameter, System

if TYPE_CHECKING:
    from specsim.planning.setting import Setting


def serial_round(k: int, *, draft_s: float, verify_s: float, device: str = "gpu") -> RoundProgram:
    """``k`` drafting steps, then one pass of the target over k + 1 positions, on one device; k = 0: plain decoding."""
    verify = timed_pass("verify", verify_s, device=device, after=("draft",) if k else ())
    draft = (timed_pass("draft", draft_s, device=device, repeats=k),) if k else ()
    return timed_program(f"draft {k}, verify", k, *draft, verify)


def simulate(
    rng: np.random.Generator,
    *,
    alpha: float = 0.75,
    gamma: int = 7,
    draft_s: float = 0.02,
    target_s: float = 1.0,
    tokens: int = 20_000,
    requests: int = 1,
) -> Outcome:
    """Streams one after the other; every position is accepted with probability ``alpha`` once it is reached."""
    rule = ChainRounds(Iid(alpha), gamma, requests, rng)
    program = serial_round(gamma, draft_s=draft_s, verify_s=target_s)
    return run_expanded(program, rule, streams(requests, tokens), on_one("gpu"), rng, seats=1, prompt_cached=True)


def _compose(setting: Setting) -> Composition:
    return fixed_chain(setting, "draft_model")


SYSTEM = System(
    name="leviathan",
    title="Fast Inference from Transformers via Speculative Decoding",
    paper="2211.17192",
    year=2023,
    lossless="yes",
    topology="drafter and target on one device",
    pipeline="draft x gamma -> verify (gamma + 1 positions) -> commit",
    rule="token i is kept with probability min(1, p/q), else redrawn from norm(max(0, p - q)); a bonus if all are kept",
    parameters=(
        Parameter("alpha", 0.75, "acceptance per position", "Table 4, En-De, T5-small, T = 0"),
        Parameter("gamma", 7, "drafted tokens a round", "Table 2, same row"),
        Parameter("draft_s", 0.02, "seconds of a drafting step, in target steps", "c of Table 4, same row"),
        Parameter("target_s", 1.0, "seconds of a target pass", "unit"),
    ),
    assumptions=("verifying gamma + 1 positions takes as long as one step", "acceptance is i.i.d."),
    batches="batch 1 in the paper; draft_verify batches the same round under load",
    simulate=simulate,
    compose=_compose,
    study="leviathan",
)
