"""Chains whose length follows a signal, on a scenario's replica: drafted while a rule is content, then verified."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from specsim.acceptance.signals import CopulaSignals
from specsim.cost.drafter import Method
from specsim.drafting.stopping import LengthPolicy
from specsim.simulation.round_rules import SignalRounds
from specsim.systems.composition import Composition, on_servers, with_prompts

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

COPULA = (
    "the score and acceptance follow a Gaussian copula, and scoring takes no time",
    "requests do not differ in their acceptance",
)
BATCHED = "a batch drafts as long as the longest of its requests"


def signal_chain(
    setting: Setting,
    *methods: Method,
    least: int,
    policy: Callable[[int], LengthPolicy],
    assumed: tuple[str, ...] = (),
) -> Composition:
    """Lengths of ``least`` to the system's ``most`` tokens, as the evidence covers them; ``policy`` is made for both.

    The score's correlation with acceptance is the system's ``correlation``; methods: of the drafters considered.
    """
    candidate, _ = setting.best(setting.drafters(*methods))
    most = setting.most(candidate, setting.count("most"))
    process = CopulaSignals(setting.conditional_rates(candidate, most), setting.number("correlation", most=0.999))
    rule, low = policy(most), min(least, most)
    return on_servers(
        setting,
        candidate,
        with_prompts({k: setting.deployment.program(candidate, k) for k in range(low, most + 1)}, low),
        lambda requests, rng: SignalRounds(process, rule, len(requests), rng),
        ran_with=f"{candidate.short}, K = {low}..{most} by confidence",
        assumed=(*COPULA, BATCHED, *assumed),
    )
