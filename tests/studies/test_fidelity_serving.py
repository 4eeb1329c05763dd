"""Targets that the serving study reaches on the measured servers."""

from __future__ import annotations

import pytest

from studies import fidelity_serving

pytestmark = [pytest.mark.data, pytest.mark.slow]


@pytest.fixture(scope="module")
def outcomes(shared_data):
    return fidelity_serving.evaluate(shared_data)


def test_every_target_is_reached(outcomes):
    missed = [
        (o.server.gpu, what, error)
        for o in outcomes
        for what, error, allowed in fidelity_serving.targets(o)
        if abs(error) > allowed
    ]
    assert missed == []


def test_measured_columns_match_the_data_s_own_summary(outcomes):
    """Same definitions of TTFT, TPOT and latency as the summary that came with the data."""
    for o in outcomes:
        for metric in fidelity_serving.METRICS:
            ours = fidelity_serving.statistics(o.server.measured[metric])
            for name, value in ours.items():
                assert value * 1e3 == pytest.approx(o.server.authors[f"{metric} {name}"][0], rel=0.01), (metric, name)
