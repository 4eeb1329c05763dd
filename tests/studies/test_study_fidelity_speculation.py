"""Targets that the speculation study reaches, and what its harness does."""

from __future__ import annotations

import pytest

from studies import fidelity_speculation as study
from studies.speculation_harness import OFFLINE_BUDGET, prefill_steps, rows
from studies.speculation_signs import mixtures


@pytest.fixture(scope="module")
def results(shared_data):
    return study.scored(shared_data)


@pytest.mark.data
def test_speedups_are_within_the_target(results):
    assert len(results) == 28
    assert study.mean_error(results) <= study.TARGET
    assert study.mean_error(results, lambda row: row.by_token) <= study.TARGET


@pytest.mark.data
def test_the_textbook_formula_is_worse(results):
    assert study.mean_error(results, lambda row: row.textbook) > 1.5 * study.mean_error(results)


@pytest.mark.data
def test_mixtures_that_speculation_slowed_down_are_predicted_to(shared_data):
    signs = mixtures(rows(shared_data))
    assert len(signs) == 8
    assert all(sign.measured < 1 for sign in signs)
    assert [sign for sign in signs if sign.predicted >= 1] == []


@pytest.mark.data
def test_every_row_is_scored_a_sign_or_left_out_with_a_reason(shared_data):
    table = rows(shared_data)
    left = study.unscored(table)
    assert sum(count for _, _, count, _ in left) + 28 + 8 == len(table)
    assert all(why for *_, why in left)


@pytest.mark.data
def test_shares_add_up(shared_data):
    for method, batch, parts in study.shares(shared_data, rows(shared_data)):
        assert sum(ours for _, ours in parts.values()) == pytest.approx(100.0), (method, batch)


@pytest.mark.parametrize(("batch", "prompt"), [(1, 10), (128, 355), (3, OFFLINE_BUDGET), (2, OFFLINE_BUDGET + 7)])
def test_prefill_steps_cover_every_prompt_once(batch, prompt):
    steps = list(prefill_steps(batch, prompt))
    assert sum(chunk.tokens for step in steps for chunk in step) == batch * prompt
    assert sum(chunk.last for step in steps for chunk in step) == batch
    assert all(sum(chunk.tokens for chunk in step) <= OFFLINE_BUDGET for step in steps)
