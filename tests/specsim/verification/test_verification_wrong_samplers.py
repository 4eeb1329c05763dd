"""Wrong samplers are rejected with a witness, and the mistake is named where it is known."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.verification import (
    check_sampler,
    distortion,
    exact_law,
    expected_tokens,
    statistics,
    tv,
)
from specsim.verification.batch_mutants import BATCH_MUTANTS
from specsim.verification.batched import token
from specsim.verification.chains import chain_law
from specsim.verification.diagnosis import mixed_laws
from specsim.verification.engine import FAULTS
from specsim.verification.lookup import RuleSampler
from specsim.verification.mutants import MUTANTS
from specsim.verification.node_mutants import NODE_MUTANTS
from specsim.verification.suite import groups, small_cases, standard_cases

QUICK = {"detect_tv": 0.03, "budget_s": 60.0}
FLOATS = [case.floats() for case in standard_cases()]


def off_claim(mutant) -> float:
    return max(off_on(mutant, case) for case in FLOATS)


def off_on(mutant, case) -> float:
    return float(tv(chain_law(mutant.rule, case), exact_law(mutant.claims, case)))


def test_there_are_enough_wrong_samplers() -> None:
    assert len({m.name for m in MUTANTS}) == len(MUTANTS) >= 45
    assert len(MUTANTS) + len(BATCH_MUTANTS) + len(NODE_MUTANTS) + len(FAULTS) >= 90


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_interception_rejects_every_law_that_differs_at_all(mutant) -> None:
    shown = max(small_cases(), key=lambda case: off_on(mutant, case.floats()))
    worst = off_on(mutant, shown.floats())
    assert worst > 1e-5
    verdict = check_sampler(mutant.sampler(), mutant.claims, cases=[shown], level="interception")
    assert verdict.status == "rejected"
    assert verdict.details["interception_tv"] == pytest.approx(worst, abs=2e-6)


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda m: m.name)
def test_statistics_reject_every_law_at_the_declared_distance(mutant) -> None:
    verdict = check_sampler(mutant.sampler(), mutant.claims, level="statistical", detect_tv=0.03)
    if off_claim(mutant) >= 0.03:
        assert verdict.status == "rejected"
        assert verdict.witness is not None
    else:
        assert verdict.status in ("rejected", "consistent")


@pytest.mark.parametrize("mutant", BATCH_MUTANTS, ids=lambda m: m.name)
def test_mixed_batches_are_rejected(mutant) -> None:
    verdict = check_sampler(mutant, "token", level="statistical", detect_tv=0.03)
    assert verdict.status == "rejected"
    verdict = check_sampler(mutant, "token", level="metamorphic")
    assert {"row_order_matters", "batch_dependence"} & {finding.name for finding in verdict.findings}


def test_law_of_a_mixed_batch_is_the_one_that_is_seen() -> None:
    group = next(iter(groups(standard_cases()[:3])))
    mutant = BATCH_MUTANTS[0]
    case, batch = group.draw(np.full(3, 60_000), np.random.default_rng(0))
    tokens, _ = mutant(batch.target, batch.draft, batch.tokens, np.random.default_rng(1))
    for c, law in enumerate(mixed_laws(mutant, group.cases)):
        codes = np.bincount(group.codes(tokens[case == c]), minlength=group.code_space)
        counts = {group.string_of(int(code)): int(codes[code]) for code in np.flatnonzero(codes)}
        assert statistics.fit(counts, law).p_value > 1e-6


EXPLAINED = (
    "softmaxed residual",
    "target residual",
    "residual subtracts one element",
    "lenient by a tenth",
    "acceptance by the next row",
    "one coin for all positions",
    "sample and match",
    "bonus from the draft",
    "counts later acceptances",
)


@pytest.mark.parametrize("name", EXPLAINED)
def test_the_likeliest_explanation_is_the_true_one(name: str) -> None:
    mutant = next(m for m in MUTANTS if m.name == name)
    verdict = check_sampler(mutant.sampler(), "token", level="statistical", detect_tv=0.02)
    assert verdict.explanation is not None
    assert verdict.explanation.startswith(name)


def test_token_verification_sold_as_block_is_named() -> None:
    verdict = check_sampler(token, "block", **QUICK)
    assert verdict.status == "rejected"
    assert verdict.explanation is not None
    assert verdict.explanation.startswith(("block: ignored", "it runs the token rule"))


def test_an_unknown_mistake_is_not_given_a_name() -> None:
    def odd(p, q, d, coins):
        from specsim.verification.chains import Stop, greedy

        return Stop((0,), None) if coins.accept("odd").below(0.5) else greedy(p, q, d, coins)

    verdict = check_sampler(RuleSampler(odd), "token", level="statistical", detect_tv=0.03)
    assert verdict.status == "rejected"
    assert verdict.explanation is not None
    assert verdict.explanation.startswith("none of the known mistakes")


def test_mutants_that_are_lossless_are_so_exactly() -> None:
    harmless = {m.name for m in MUTANTS if all(distortion(chain_law(m.rule, case), case) < 1e-9 for case in FLOATS)}
    assert harmless == {
        "accepts nothing",
        "no bonus",
        "sample and match",
        "drafts taken as certain",
        "block: ignored",
        "coupled: fresh noise",
    }
    for mutant in MUTANTS:
        if mutant.name in harmless:
            slow, right = chain_law(mutant.rule, FLOATS[0]), exact_law(mutant.claims, FLOATS[0])
            assert expected_tokens(slow) < expected_tokens(right)
