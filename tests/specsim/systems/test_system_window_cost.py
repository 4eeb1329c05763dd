"""Verification whose cost is linear in positions: the best window, and what a controller loses that takes it flat.

Costs of a live edge deployment, reported by an implementer of a distributed speculative system: 230 ms and 95 ms a
position to verify, 20 ms a drafted token.
"""

from __future__ import annotations

import numpy as np
import pytest

from specsim.acceptance.chains import Iid
from specsim.simulation.expanded import run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.round_rules import ChainRounds
from specsim.simulation.topology import on_one
from specsim.systems.leviathan import serial_round
from specsim.theory.speedup import best_k
from specsim.theory.tokens import expected_tokens_iid

LENGTHS = np.arange(1, 17)
ROUND_S = 0.020 * LENGTHS + 0.230 + 0.095 * (LENGTHS + 1)
FLAT_S = 0.020 * LENGTHS + 0.230 + 0.095 * (4 + 1)  # fitted at K = 4
CASES = [(0.7, 2, 7, 0.30), (0.8, 3, 10, 0.30), (0.9, 4, 16, 0.26), (0.95, 7, 16, 0.10)]


@pytest.mark.parametrize(("alpha", "best", "flat", "loss"), CASES)
def test_best_window_and_the_loss_of_taking_the_cost_as_flat(alpha, best, flat, loss):
    tokens = expected_tokens_iid(alpha, LENGTHS)
    chosen, fooled = LENGTHS[best_k(tokens, ROUND_S)], LENGTHS[best_k(tokens, FLAT_S)]
    assert (chosen, fooled) == (best, flat)
    speed = tokens / ROUND_S
    assert 1 - speed[fooled - 1] / speed[chosen - 1] == pytest.approx(loss, abs=0.01)


@pytest.mark.parametrize(("alpha", "best"), [(0.7, 2), (0.9, 4)])
def test_the_simulation_agrees_on_the_neighbours(alpha, best):
    """Common coins would hide a wrong cost; the rates of K - 2, K and K + 3 differ by more than their error."""

    def rate(k):
        program = serial_round(k, draft_s=0.020, verify_s=0.230 + 0.095 * (k + 1))
        rule = ChainRounds(Iid(alpha), k, 1, np.random.default_rng(k))
        requests = streams(1, 40_000)
        return run_expanded(
            program, rule, requests, on_one("gpu"), np.random.default_rng(0), prompt_cached=True
        ).tokens_per_s

    assert rate(best) == pytest.approx(float(expected_tokens_iid(alpha, best) / ROUND_S[best - 1]), rel=0.02)
    assert rate(best) > rate(max(best - 2, 1)) if best > 2 else rate(best) > rate(best + 3)
    assert rate(best) > rate(best + 3)
