"""Metamorphic levels: right samplers keep every relation, and each relation has a wrong sampler that only it sees."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.verification import check_sampler
from specsim.verification.batched import LOSSLESS, block, token
from specsim.verification.input_mutants import INPUT_MUTANTS
from specsim.verification.lookup import RuleSampler
from specsim.verification.mutants import MUTANTS

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
    assert verdict.levels == ("metamorphic", "interception", "statistical", "changed rows")
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
