from functools import cache

import numpy as np
import pytest

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.planning.deployment import deploy
from specsim.scenario.loading import load_scenario
from specsim.simulation.engine import simulate
from specsim.simulation.workload import Fixed, Poisson, Workload
from specsim.systems.smartspec import SmartSpec

RATES_PER_S = (4.0, 20.0, 45.0)


@cache
def _deployed():
    deployment = deploy(load_scenario().scenario)
    candidate = deployment.candidates[0]
    return {k: deployment.program(candidate, k) for k in range(6)}, deployment.serving(candidate, 5), {}


@cache
def _latency_s(acceptance, rate_per_s, k):
    """Mean end-to-end seconds at a fixed K, or under the controller, whose mean K comes along."""
    programs, serving, prices = _deployed()
    load, rng = Workload(Poisson(rate_per_s), Fixed(128), Fixed(192)), np.random.default_rng(1)
    if k is not None:
        ran = simulate(programs[k], Iid(acceptance), load, serving, rng, num_requests=250, pricers=prices)
        return float(ran.e2e_s.mean()), float(k)
    control = SmartSpec(programs, decay=0.99, prior=0.7, probe_every=50)
    process = control.watching(Iid(acceptance))
    ran = simulate(programs, process, load, serving, rng, num_requests=250, policy=control, pricers=prices)
    assert control.rate == pytest.approx(acceptance, abs=0.12)
    return float(ran.e2e_s.mean()), control.mean_k


@pytest.mark.parametrize("rate_per_s", RATES_PER_S)
@pytest.mark.parametrize("acceptance", [0.2, 0.5, 0.8])
def test_never_more_than_2_percent_worse_than_no_speculation(acceptance, rate_per_s):
    assert _latency_s(acceptance, rate_per_s, None)[0] <= 1.02 * _latency_s(acceptance, rate_per_s, 0)[0]


def test_mean_k_falls_with_load_and_rises_with_acceptance():
    chosen = np.array([[_latency_s(a, r, None)[1] for r in RATES_PER_S] for a in (0.2, 0.5, 0.8)])
    assert np.all(np.diff(chosen, axis=1) <= 0.05)
    assert np.all(np.diff(chosen, axis=0) >= -0.05)
    assert chosen[0, -1] < chosen[2, 0] - 1


def test_a_fixed_k_crosses_below_no_speculation_at_a_finite_rate():
    gains = [_latency_s(0.5, r, 0)[0] / _latency_s(0.5, r, 5)[0] for r in RATES_PER_S]
    assert gains[0] > 1.1
    assert gains[-1] < 1.0


def test_a_controller_without_plain_decoding_is_refused():
    programs = _deployed()[0]
    with pytest.raises(InputError, match="K = 0"):
        SmartSpec({1: programs[1], 2: programs[2]}, decay=0.9, prior=0.5)
