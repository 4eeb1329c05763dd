"""Chen et al. 2023: speculative sampling of Chinchilla 70B with a wide, shallow 4B drafter on 16 chips."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from specsim.simulation.outcome import Outcome
from specsim.systems import leviathan
from specsim.systems.composition import Composition, fixed_chain
from specsim.systems.descriptor import Parameter, System

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

DRAFT_S, TARGET_S = 1.8e-3, 14.1e-3
"""A token of the 4B and of the 70B model on 16 TPU v4 (section on models of arXiv 2302.01318)."""


def simulate(
    rng: np.random.Generator, *, alpha: float = 0.711, k: int = 4, tokens: int = 128, requests: int = 2000
) -> Outcome:
    """Sequences of ``tokens``, one after the other, with the printed times of both models."""
    return leviathan.simulate(
        rng, alpha=alpha, gamma=k, draft_s=DRAFT_S, target_s=TARGET_S, tokens=tokens, requests=requests
    )


def _compose(setting: Setting) -> Composition:
    return fixed_chain(setting, "draft_model", k=setting.count("k"))


SYSTEM = System(
    name="chen",
    title="Accelerating Large Language Model Decoding with Speculative Sampling",
    paper="2302.01318",
    year=2023,
    lossless="yes",
    topology="drafter and target sharded over the same 16 chips",
    pipeline="draft x K -> verify (K + 1 positions) -> commit",
    rule="as leviathan: min(1, p/q), residual on rejection, a bonus if all are kept",
    parameters=(
        Parameter("alpha", 0.711, "acceptance per position", "not published; solved from XSum's 7.52 ms a token"),
        Parameter("k", 4, "drafted tokens a round", "section on setup"),
        Parameter("tokens", 128, "tokens of a sequence", "XSum's limit"),
    ),
    assumptions=("acceptance is i.i.d., its rate solved from printed times", "verification takes one target step"),
    batches="batch 1 in the paper; draft_verify batches the same round under load",
    simulate=simulate,
    compose=_compose,
    inputs=(Parameter("k", 4, "drafted tokens a round", "section on setup"),),
    study="chen",
)
