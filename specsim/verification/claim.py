"""What is claimed of a sampler, on which cases, and what may be spent on judging it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

from specsim.verification import statistics
from specsim.verification.case import Case, String, complete, expected_tokens, target_law, tv
from specsim.verification.chains import ChainRule, rule_name
from specsim.verification.exact import CHAIN_RULES, exact_law
from specsim.verification.suite import Group, groups

Law = Mapping[String, Any]

LOOKS = 4
"""Looks at the counts of a statistical test: early, with the rows that the claimed law needs, and twice topped up."""

RELATIONS = 4
"""Small tests of a case with its rows changed (without drafts, in a wide vocabulary), and of the suite in small
batches (of one and two).
"""

_WITHOUT_COINS = ("greedy", "biased_argmax", "typical")


@dataclass(frozen=True)
class Claim:
    """What is claimed: the law of a rule (with its parameters), or only that the text has the target's law."""

    algorithm: str | ChainRule | None
    options: Mapping[str, Any]

    @property
    def line(self) -> str:
        """The claim in words."""
        if self.algorithm is None:
            return "the completed text has the target's law"
        bound = "".join(f", {name} = {value}" for name, value in self.options.items())
        return f"tokens and counts have the law of the {rule_name(self.algorithm)!r} rule{bound}"

    def at(self, level: str) -> str:
        """What one level judges, in words."""
        if level == "hostile":
            return "rows that are no laws are refused, or answered with tokens that exist (no law was judged)"
        if level == "metamorphic":
            return "answers are related as those of any right sampler (relations were judged, and no law closely)"
        if level == "ragged":
            return f"in rows with fewer drafts than their batch, {self.line} (coarsely judged)"
        return self.line

    @property
    def declares_drafts(self) -> bool:
        """Whether the sampler is handed the drafts' law."""
        return self.algorithm != "point_mass"

    @property
    def tosses_coins(self) -> bool:
        """Whether a right sampler's answers depend on chance."""
        return self.algorithm not in _WITHOUT_COINS

    def is_of(self, rule: ChainRule) -> bool:
        """Whether a rule is the declared one, whatever its parameters."""
        declared = CHAIN_RULES.get(self.algorithm, None) if isinstance(self.algorithm, str) else self.algorithm
        return declared is not None and declared in (rule, getattr(rule, "func", None))

    @property
    def event(self) -> Literal["emits exactly", "follows"]:
        """What a witness counts."""
        return "follows" if self.algorithm is None else "emits exactly"

    def law(self, case: Case) -> dict[String, Any]:
        """Law of the emitted strings on a case; for a lossless claim, that of token verification, for sizes only."""
        return exact_law(self.algorithm or "token", case, **self.options)

    def fit(self, counts: Mapping[String, int], law: Law, case: Case) -> statistics.Fit:
        """Test counts of emitted strings against the claim."""
        return statistics.fit(counts, law) if self.algorithm else statistics.fit_innovations(counts, case)

    def evidence(self, counts: Mapping[String, int], law: Law, case: Case) -> float:
        """Log e-value of counts of emitted strings against the claim."""
        if self.algorithm:
            return statistics.log_evidence(counts, law)
        return statistics.log_evidence_of_innovations(counts, case)

    def compared(self, law: Law, claimed: Law, case: Case) -> tuple[dict[String, float], dict[String, float]]:
        """Two laws of emitted strings as far as the claim goes: completed, where only the text is claimed."""
        if self.algorithm is None:
            case = case.floats()
            law, claimed = complete(law, case), target_law(case, case.gamma + 1)
        return {s: float(mass) for s, mass in law.items()}, {s: float(mass) for s, mass in claimed.items()}

    def distance(self, law: Law, claimed: Law, case: Case) -> float:
        """Total variation between a law and the claimed one, as far as the claim goes."""
        return float(tv(*self.compared(law, claimed, case)))


@dataclass(frozen=True)
class Trial:
    """One claim, one suite of cases, one budget."""

    claim: Claim
    suite: tuple[Case, ...]
    alpha: float
    detect_tv: float
    power: float
    max_rows: int
    budget_s: float
    seed: int
    started: float = field(default_factory=time.monotonic)

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The cases by shape."""
        return tuple(groups(self.suite))

    @cached_property
    def laws(self) -> dict[str, dict[String, Any]]:
        """The claimed law of each case, by its name."""
        return {case.name: self.claim.law(case) for case in self.suite}

    @property
    def alpha_each(self) -> float:
        """False alarm of one test: every case is looked at ``LOOKS`` times, and in each of ``RELATIONS``."""
        return self.alpha / ((LOOKS + RELATIONS) * len(self.suite))

    def rows_wanted(self, case: Case, *, anytime: bool) -> int:
        """Rows that detect ``detect_tv`` on a case."""
        masses, degrees, tokens = self.cells(case)
        if anytime:
            return statistics.evidence_rows(degrees + 1, self.alpha / len(self.suite), self.detect_tv)
        return statistics.rows_wanted(
            masses, max(degrees, 1), self.alpha_each, self.power, self.detect_tv, tokens=tokens
        )

    def cells(self, case: Case) -> tuple[Sequence[float], int, float]:
        """Expected share of the rows in each cell of the test on a case, its degrees of freedom, and the tokens a row
        that it spreads over.
        """
        law = self.laws[case.name]
        if self.claim.algorithm is not None:
            masses = [float(mass) for mass in law.values() if mass > 0]
            return masses, len(masses) - 1, 1.0
        reached: dict[String, float] = {}
        for string, mass in law.items():
            for j in range(len(string)):
                reached[string[:j]] = reached.get(string[:j], 0.0) + float(mass)
        masses = [r * float(x) for s, r in reached.items() if r > 0 for x in case.target[s] if x > 0]
        return masses, len(masses) - sum(r > 0 for r in reached.values()), float(expected_tokens(law))
