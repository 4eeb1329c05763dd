"""The power study: its committed tables reach their targets, and a small measurement gives the same marks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.verification.batch_mutants import BATCH_MUTANTS
from specsim.verification.batched import LOSSLESS
from specsim.verification.engine import FAULTS
from specsim.verification.input_mutants import INPUT_MUTANTS
from specsim.verification.lookup import RuleSampler
from specsim.verification.mutants import MUTANTS
from specsim.verification.node_mutants import NODE_MUTANTS
from specsim.verification.oracle import check_sampler
from specsim.verification.pipeline import controls
from studies.diagnoses import HOW, UNLISTED, named_rightly, summary
from studies.false_alarms import LEVELS, chain_p_values, node_p_values, too_often, traversal_p_values
from studies.field_statistics import FIELD
from studies.oracle_power import OURS, TINY, kills, main, read, report


def test_the_committed_tables_are_of_every_mutant_and_reach_the_targets(capsys: pytest.CaptureFixture[str]) -> None:
    power = read()
    assert list(power.kills["mutant"]) == [m.name for m in MUTANTS]
    others = [*(2 * [m.name for m in BATCH_MUTANTS]), *(m.name for m in INPUT_MUTANTS), *(m.name for m in NODE_MUTANTS)]
    faults = [name for name, *_ in controls()]
    assert set(faults) <= set(FAULTS)
    assert sorted(power.others["mutant"]) == sorted([*others, *faults])
    seeds = power.alarms.groupby("sampler")["seeds"].min()
    assert seeds["token"] == seeds["block"] == 1_000
    assert (seeds >= 50).all()
    assert all(power.reached.values()), power.reached
    main([])
    printed = capsys.readouterr().out
    assert "MISSED" not in printed
    assert f"killed of {len(MUTANTS)}" in printed


@pytest.mark.parametrize("how", HOW)
@pytest.mark.parametrize("name", UNLISTED)
def test_an_unknown_mistake_is_not_given_a_name(name: str, how: str) -> None:
    verdict = check_sampler(RuleSampler(UNLISTED[name]), "token", level=HOW[how], detect_tv=0.02)
    assert verdict.status == "rejected"
    assert verdict.causes == ()
    assert verdict.explanation == "none of the known mistakes"


def test_the_committed_diagnoses_are_of_every_mistake() -> None:
    table = read().diagnoses
    assert list(table["sampler"]) == [*(m.name for m in MUTANTS), *UNLISTED]
    wrong = table.assign(**{"by counts": "another"})
    assert not named_rightly(wrong)
    assert "another" in summary(wrong)


def test_our_levels_kill_more_than_any_statistic_in_use() -> None:
    table = read().kills
    assert table["interception"].sum() == len(MUTANTS)
    assert table["joint law"].sum() > max(table[name].sum() for name in FIELD) + 10


def test_a_target_that_is_missed_is_said() -> None:
    power = read()
    blind = power.kills.assign(interception=False)
    assert not replace(power, kills=blind).reached["interception kills every law that differs"]
    assert "MISSED: interception" in report(replace(power, kills=blind))
    alarmed = power.alarms.assign(**{"p<=0.01": 0.2})
    assert not replace(power, alarms=alarmed).reached["right samplers' p-values are super-uniform"]
    slow = power.speed.assign(value=np.where(power.speed["at_least"], 0.0, 100.0))
    assert not replace(power, speed=slow).reached["speed"]


def test_missing_tables_are_said(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="kills"):
        read(tmp_path)


@pytest.mark.parametrize("name", ["token", "block"])
def test_p_values_of_right_samplers_are_super_uniform(name: str) -> None:
    """300 seeds here; the study runs 1,000."""
    for text in (False, True):
        found = chain_p_values(LOSSLESS[name], name, 300, text=text)
        for level in LEVELS:
            assert not too_often(float((found <= level).mean()), len(found), level)


def test_what_is_too_often() -> None:
    assert not too_often(0.0, 50, 0.001)
    assert not too_often(1 / 50, 50, 0.001)
    assert too_often(3 / 50, 50, 0.001)
    assert not too_often(0.11, 1_000, 0.1)
    assert too_often(0.14, 1_000, 0.1)


def test_p_values_of_trees_are_not_small() -> None:
    for found in (node_p_values("recursive", 30), node_p_values("certain", 30), traversal_p_values(10)):
        assert found.min() > 1e-4
        assert found.min() < 0.5  # they vary


def test_every_statistic_passes_the_right_sampler() -> None:
    for name, test in FIELD.items():
        assert not test(LOSSLESS["token"], np.random.default_rng(3)), name


@pytest.mark.slow
def test_a_small_measurement_marks_what_the_committed_table_does() -> None:
    committed = read().kills.set_index("mutant")
    for row in kills(TINY):
        for name in (*FIELD, *OURS):
            assert committed.loc[row["mutant"], name] == row[name], name
    blind = [name for name in FIELD if not committed.loc["acceptance by the next row", name]]
    assert len(blind) >= len(FIELD) - 1
    # with the same rows everywhere a shift can't be seen; transformers' rows differ
    assert set(blind) == set(FIELD) - {"transformers"}
