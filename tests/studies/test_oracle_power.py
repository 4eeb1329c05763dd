"""The power study at reduced counts: kills, false alarms, and the speed table's rows."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.verification.mutants import MUTANTS
from specsim.verification.suite import standard_cases
from studies.oracle_power import FIELD, LEVELS, LOSSLESS, Numbers, kill_table, killed_table, p_value


@pytest.mark.slow
@pytest.mark.parametrize("name", ["token", "block"])
def test_p_values_of_right_samplers_are_super_uniform(name: str) -> None:
    """400 seeds here; the study runs 1,000."""
    seeds = 400
    found = np.array([p_value(LOSSLESS[name], name, standard_cases()[:2], seed) for seed in range(seeds)])
    for level in LEVELS:
        error = np.sqrt(level * (1 - level) / seeds)
        assert (found <= level).mean() <= level + 3.5 * error


@pytest.mark.slow
def test_every_statistic_passes_the_right_sampler() -> None:
    for name, test in FIELD.items():
        assert not test(LOSSLESS["token"], np.random.default_rng(3)), name


@pytest.mark.slow
def test_the_table_marks_what_was_killed() -> None:
    numbers = Numbers()
    some = tuple(m for m in MUTANTS if m.name in ("accepts everything", "acceptance by the next row"))
    kill_table(numbers, some)
    assert numbers.kills["accepts everything"]["joint law"]
    assert numbers.kills["acceptance by the next row"]["joint law"]
    assert numbers.kills["acceptance by the next row"]["interception"]
    blind = [name for name in FIELD if not numbers.kills["acceptance by the next row"][name]]
    assert blind == list(FIELD)  # the same rows everywhere: a shift can't be seen
    assert "killed of 2" in killed_table(numbers)
