"""What the scheduler puts into an iteration: reserved blocks, order, budget, seats; and what it refuses."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from affine_engine import program, requests, run

from specsim.errors import InputError
from specsim.simulation.program import Pass
from specsim.simulation.serving import Serving
from specsim.simulation.workload import ClosedLoop, Fixed, Poisson, Workload


@pytest.mark.parametrize("k", [0, 3, 7])
@pytest.mark.parametrize("executor", ["macro", "stepwise"])
def test_a_round_reserves_its_drafts(k, executor):
    """Blocks for the cached tokens and k + 1 more, whatever survives: here nothing does, so the last round has most."""
    prompt, output, usable = 100, 41, 99
    r = run(requests([0.0], [prompt], [output]), k=k, rate=0.0, serving=Serving(4, 512, usable + 1), executor=executor)
    last_round = prompt + output - 2
    assert r.cache_max == pytest.approx(-(-(last_round + k + 1) // 16) / usable)


def test_the_youngest_gives_way():
    """Two requests of 10 blocks each at their end, 15 usable: the first never loses its cache, the second does."""
    load = requests([0.0, 0.001], [96, 96], [65, 65])
    r = run(load, serving=Serving(4, 512, 16))
    assert r.preemptions[0] == 0
    assert r.preemptions[1] > 0
    assert r.finish_s[1] > r.finish_s[0]


@pytest.mark.parametrize("k", [0, 3])
def test_decodes_go_first_and_prompts_fill_the_rest(k):
    """A long prompt takes what the decoding request leaves of the budget, and that one never misses an iteration."""
    budget, prompt = 64, 1000
    load = requests([0.0, 0.1], [10, prompt], [400, 5])
    r = run(load, k=k, rate=0.0, serving=Serving(4, budget, 1000))
    chunks = -(-prompt // (budget - (k + 1)))
    assert r.mixed_iterations == 1 + chunks
    assert r.first_token_s[1] - r.scheduled_s[1] == pytest.approx(chunks * 0.01)
    assert r.itl_s.max() == pytest.approx(0.01)


def test_seats_bound_the_batch():
    r = run(Workload(ClosedLoop(50), Fixed(10), Fixed(30)), serving=Serving(8, 4096, 1000), n=50)
    assert r.itl_count.max() == 8


def test_a_prompt_waits_until_all_of_it_fits():
    """With 20 usable blocks and 12 of them held, a prompt of 10 is not started, though its first chunk would fit."""
    load = requests([0.0, 0.05], [176, 160], [20, 5])
    waits = run(load, serving=Serving(4, 64, 21))
    starts = run(load, serving=Serving(4, 64, 21, reserve_full_prompt=False))
    assert waits.scheduled_s[1] >= waits.finish_s[0]
    assert starts.scheduled_s[1] < starts.finish_s[0]


def test_budget_below_a_round_each_cuts_drafts():
    """20 requests of 9 tokens don't fit 64: the reference takes over, and late requests draft less or wait."""
    load = Workload(ClosedLoop(20), Fixed(10), Fixed(60))
    serving = Serving(20, 64, 4000)
    r = run(load, k=8, serving=serving, n=40)
    same = run(load, k=8, serving=serving, n=40, executor="stepwise")
    np.testing.assert_array_equal(r.finish_s, same.finish_s)
    assert r.drafted.sum() < 8 * r.rounds.sum()
    with pytest.raises(InputError, match="budget"):
        run(load, k=8, serving=serving, n=40, executor="macro")


# Refusals


def test_a_request_that_can_never_fit_is_refused():
    with pytest.raises(InputError, match=r"request 1: 900 prompt .* 63 are usable"):
        run(requests([0.0, 1.0], [50, 900], [10, 200]), serving=Serving(8, 512, 64))


@pytest.mark.parametrize("k", [0, 3])
def test_the_largest_request_that_fits_runs(k):
    """63 blocks of 16 hold 1,008 tokens: the prompt, all outputs but the last two, and the last round's k + 1."""
    output = 1008 - 900 + 2 - (k + 1)
    r = run(requests([0.0], [900], [output]), k=k, rate=0.0, serving=Serving(8, 512, 64))
    assert r.cache_max == 1.0
    with pytest.raises(InputError, match="64 blocks"):
        run(requests([0.0], [900], [output + 1]), k=k, rate=0.0, serving=Serving(8, 512, 64))


def test_impossible_inputs_are_refused():
    load = Workload(Poisson(1.0), Fixed(10), Fixed(10))
    cases = [
        ({"k": 3, "costs": program(3), "rate": 0.5, "serving": Serving(4, 3, 100)}, "budget of 3"),
        ({"costs": {0: program(0), 2: program(2)}, "k": 2}, "policy"),
        ({"costs": {3: program(2)}, "k": 2}, "listed under 3"),
        ({"costs": program(2)}, "need an acceptance process"),
        ({"costs": dataclasses.replace(program(0), passes=tuple(
            Pass(d, d, lambda b: None, lambda s: None, device=d) for d in ("gpu", "cpu")))}, "several devices"),
    ]  # fmt: skip
    for arguments, message in cases:
        with pytest.raises(InputError, match=message):
            run(load, n=5, **arguments)
    with pytest.raises(InputError, match="how many"):
        run(load)
    with pytest.raises(InputError, match="sorted"):
        requests([1.0, 0.0], [1, 1], [1, 1])
    with pytest.raises(InputError, match="0 tokens"):
        requests([0.0], [0], [1])
    with pytest.raises(InputError, match="no requests"):
        requests([], [], [])
