"""Engines over several rounds: the right ones pass, every fault is found by the finding that fits it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification import SamplerRejected, batched, check_sampler, random_case, target_law
from specsim.verification.engine import FAULTS, PenalisedEngine, ReferenceEngine, Rollout, penalised_case
from specsim.verification.pipeline import assert_pipeline, check_pipeline, controls, pipeline_case


@pytest.mark.parametrize("rule", ["token", "block"])
def test_right_engines_pass(rule: str) -> None:
    engine = ReferenceEngine(4, sampler=batched.LOSSLESS[rule])
    verdict = assert_pipeline(engine, algorithm=rule)
    assert verdict.min_detectable_tv is not None
    assert verdict.min_detectable_tv <= 0.021
    assert assert_pipeline(ReferenceEngine(4), pipeline_case(eos=2)).passed
    assert assert_pipeline(PenalisedEngine(4), penalised_case(2, 4)).passed


@pytest.mark.parametrize(("name", "engine", "case"), list(controls()), ids=[name for name, _, _ in controls()])
def test_every_fault_is_found(name: str, engine, case) -> None:
    assert name in FAULTS
    with pytest.raises(SamplerRejected) as rejected:
        assert_pipeline(engine, case)
    found = {finding.name for finding in rejected.value.verdict.findings}
    expected = {
        "neighbours share coins": "rows_depend_on_each_other",
        "drafts by argmax": "drafts_not_as_declared",
        "draft at another temperature": "drafts_not_as_declared",
        "goes on after the end": "continues_after_end",
        "counts rejected": "counts_do_not_add_up",
    }
    assert expected.get(name, "wrong_text_law") in found


@pytest.mark.parametrize("fault", ["shared noise", "stale context", "lost bonus", "coins by position"])
def test_faults_between_rounds_leave_the_verifier_right(fault: str) -> None:
    """What makes the pipeline test necessary: the same engine's verifier passes every test of one round."""
    engine = ReferenceEngine(4, sampler=batched.block if fault == "coins by position" else batched.token, fault=fault)
    rule = "block" if fault == "coins by position" else "token"
    assert check_sampler(engine.sampler, rule, detect_tv=0.05).passed
    assert check_pipeline(engine).status == "rejected"


def test_the_declared_rule_of_the_first_round_is_tested() -> None:
    engine = ReferenceEngine(4, sampler=batched.token)
    found = check_pipeline(engine, algorithm="block").findings
    assert [finding.name for finding in found] == ["wrong_round_law"]


def test_an_engine_may_return_tokens_alone_or_break() -> None:
    case = pipeline_case()
    assert check_pipeline(lambda case, n, rng: ReferenceEngine(4)(case, n, rng).tokens, case, detect_tv=0.05).passed

    def raises(case, n, rng):
        raise OSError("no device")

    assert check_pipeline(raises).findings[0].name == "raises"
    short = check_pipeline(lambda case, n, rng: np.zeros((n, 2), dtype=np.int64))
    assert short.findings[0].name == "wrong_shape"
    ended = check_pipeline(lambda case, n, rng: np.full((n, 4), -1))
    assert ended.findings[0].name == "too_short"
    odd = check_pipeline(lambda case, n, rng: Rollout(np.full((n, 4), 9)))
    assert odd.findings[0].name == "out_of_vocabulary"


@pytest.mark.parametrize(
    ("part", "spoil", "finding"),
    [
        ("draft_probs", lambda q: q * np.nan, "declared_law_is_no_law"),
        ("draft_probs", lambda q: -q, "declared_law_is_no_law"),
        ("draft_probs", lambda q: q * 0.5, "declared_law_is_no_law"),
        ("draft_probs", lambda q: q[:, :, :, :2], "wrong_shape"),
        ("drafts", lambda d: d[:, :, 0], "wrong_shape"),
        ("drafts", lambda d: d + 7, "drafts_out_of_vocabulary"),
        ("drafts", lambda d: d + 0.5, "wrong_dtype"),
        ("counts", lambda c: c[:5], "wrong_shape"),
        ("counts", lambda c: -c, "counts_do_not_add_up"),
        ("counts", lambda c: c * np.nan, "wrong_dtype"),
        ("counts", lambda c: "four", "wrong_answer"),
        ("tokens", lambda t: t + 0.5, "wrong_dtype"),
        ("tokens", lambda t: t * np.nan, "wrong_dtype"),
        ("tokens", lambda t: None, "wrong_answer"),
    ],
)
def test_an_impossible_rollout_is_a_named_finding(part: str, spoil, finding: str) -> None:
    def engine(case, n, rng):
        told = ReferenceEngine(4)(case, n, rng)
        return replace(told, **{part: spoil(getattr(told, part))})

    verdict = check_pipeline(engine, detect_tv=0.1, algorithm="token")
    assert not verdict.passed
    assert [found.name for found in verdict.findings] == [finding]


def test_a_case_that_is_too_shallow_is_refused() -> None:
    with pytest.raises(InputError, match="4 are needed"):
        check_pipeline(ReferenceEngine(4), random_case(np.random.default_rng(0), vocab=3, gamma=2))


def test_the_penalised_case_is_a_law_of_counts() -> None:
    case = penalised_case(2, 4)
    assert case.target[(0, 1)] == case.target[(1, 0)]
    assert case.target[(0,)] != case.target[()]
    assert sum(target_law(case, 4).values()) == 1
