"""Metamorphic levels: right samplers keep every relation, and each relation has a wrong sampler that only it sees."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from specsim.verification import check_sampler, small_batches
from specsim.verification.batched import LOSSLESS, block, token
from specsim.verification.claim import Claim, Trial
from specsim.verification.guarded import Guarded
from specsim.verification.input_mutants import INPUT_MUTANTS
from specsim.verification.lookup import RuleSampler
from specsim.verification.mutants import MUTANTS
from specsim.verification.suite import standard_cases

RELATIONS = ("metamorphic", "ragged", "hostile")


@pytest.mark.parametrize("level", RELATIONS)
@pytest.mark.parametrize("name", LOSSLESS)
def test_right_samplers_keep_every_relation(name: str, level: str) -> None:
    for seed in range(3):
        verdict = check_sampler(LOSSLESS[name], name, level=level, seed=seed)
        assert verdict.passed
        assert not verdict.findings
        assert verdict.levels[0] == level


@pytest.mark.parametrize("mutant", INPUT_MUTANTS, ids=lambda m: m.name)
def test_each_relation_finds_what_is_wrong(mutant) -> None:
    verdict = check_sampler(mutant, "token", level=mutant.level, takes=mutant.takes)
    assert not verdict.passed
    assert mutant.finding in {finding.name for finding in verdict.findings}
    assert {finding.name for finding in verdict.findings} <= {mutant.finding, "batch_dependence"}


@pytest.mark.parametrize("mutant", [m for m in INPUT_MUTANTS if m.finding != "mutates_inputs"], ids=lambda m: m.name)
def test_no_law_shows_what_a_relation_finds(mutant) -> None:
    """The joint law of a whole suite is right: without the relation it would pass (every call finds changed inputs)."""
    assert check_sampler(mutant, "token", level="statistical", takes=mutant.takes, detect_tv=0.05).passed
    others = [level for level in RELATIONS if level != mutant.level]
    if mutant.finding != "row_order_matters":  # coins of another row are missed in a padded batch too
        assert all(check_sampler(mutant, "token", level=level, takes=mutant.takes).passed for level in others)


def test_every_relation_has_a_wrong_sampler() -> None:
    assert {m.finding for m in INPUT_MUTANTS} >= {
        "seed_ignored",
        "mutates_inputs",
        "fails_on_equal_rows",
        "greedy_limit_missed",
        "vocabulary_labels_matter",
        "no_drafts_matter",
        "shifted_logits_matter",
        "vocabulary_padding_matters",
        "row_order_matters",
        "batch_dependence",
        "small_batches_matter",
        "padded_drafts_matter",
        "unsafe_on_nan_rows",
    }


def test_samplers_of_logits_are_judged_at_every_level() -> None:
    class OfLogits:
        def __call__(self, target, draft, drafts, rng):
            return block(softmax(target), softmax(draft), drafts, rng)

        def inject(self, target, draft, drafts, uniforms, final):
            return block.inject(softmax(target), softmax(draft), drafts, uniforms, final)

    def softmax(x):
        e = np.exp(x - x.max(axis=-1, keepdims=True, initial=-1e300))
        return e / e.sum(axis=-1, keepdims=True)

    verdict = check_sampler(OfLogits(), "block", takes="logits", detect_tv=0.05)
    assert verdict.passed
    assert verdict.levels == ("metamorphic", "interception", "statistical", "changed rows", "small batches")
    assert check_sampler(OfLogits(), "token", takes="logits", detect_tv=0.05).status == "rejected"


def test_a_sampler_that_refuses_is_safe_but_noted() -> None:
    def strict(target, draft, drafts, rng):
        if not np.allclose(target.sum(axis=2), 1.0) or (target < 0).any() or not drafts.shape[1]:
            raise ValueError("rows are no laws, or there are no drafts")
        return token(target, draft, drafts, rng)

    assert check_sampler(strict, "token", level="hostile").passed
    verdict = check_sampler(strict, "token", level="metamorphic")
    assert verdict.passed
    assert [(finding.name, finding.weight) for finding in verdict.findings] == [("fails_without_drafts", "note")]


def test_wrong_laws_show_where_rows_were_changed() -> None:
    """Small as they are, the tests of changed rows see gross mistakes that the suite's laws show too."""
    wrong = RuleSampler(next(m.rule for m in MUTANTS if m.name == "accepts everything"))
    found = {f.name for f in check_sampler(wrong, "token", level="metamorphic").findings}
    assert "vocabulary_labels_matter" in found
    assert {f.name for f in check_sampler(wrong, "token", level="ragged").findings} == {"padded_drafts_matter"}


@pytest.mark.parametrize("claim", ["token", None])
@pytest.mark.parametrize("name", ["one row replaced from the target", "two rows share the first's target"])
def test_small_batches_have_a_law_that_is_judged_without_injection(name: str, claim: str | None) -> None:
    mutant = next(m for m in INPUT_MUTANTS if m.name == name)
    for seed in range(3):
        verdict = check_sampler(mutant, claim, level="metamorphic", seed=seed)
        assert [f.name for f in verdict.findings] == ["small_batches_matter"]


def test_small_batches_of_a_right_sampler_give_no_small_p_values() -> None:
    """The p-values of the tests of rows one by one and two by two, together, are super-uniform."""
    found = []
    for seed in range(25):
        p_values = []
        trial = Trial(Claim("token", {}), standard_cases()[:4], 1e-9, 0.05, 0.99, 10**6, 60.0, seed)
        sampler = Guarded(token, budget_s=60.0)
        for size in (1, 2):
            counts = small_batches.called(
                trial.suite[0], 200, size, math.inf, trial, sampler, np.random.default_rng([seed, size])
            )
            p_values.append(trial.claim.fit(counts, trial.laws["dense"], trial.suite[0]).p_value)
            assert sum(counts.values()) == 200 * size
        sampler.close()
        found.append(small_batches.fisher(p_values))
    for level in (0.1, 0.01):
        assert sum(p <= level for p in found) <= 25 * level + 4 * math.sqrt(25 * level)


def test_a_slow_sampler_is_called_alone_for_a_share_of_the_budget_only() -> None:
    def slow(target, draft, drafts, rng):
        if len(drafts) <= 2:
            time.sleep(0.01)
        return token(target, draft, drafts, rng)

    verdict = check_sampler(slow, "token", cases=standard_cases()[:1], level="metamorphic", budget_s=2.0)
    assert verdict.passed
    assert "small batches" in verdict.levels
