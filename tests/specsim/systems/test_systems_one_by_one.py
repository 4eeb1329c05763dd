"""Systems that serve one request at a time on a scenario: what they take is summed from the prices of their parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.planning.comparison import compose
from specsim.planning.deployment import deploy
from specsim.planning.setting import Setting
from specsim.scenario import Scenario
from specsim.simulation.program import Batch, PrefillChunk
from specsim.simulation.workload import Requests
from specsim.systems import dsbd, rsd, speed, ssbd
from specsim.systems.catalogue import system
from specsim.systems.composition import NotApplicable
from specsim.theory.tokens import expected_tokens_iid

PROMPT = 200
OWN = {
    "speed": {"right": 0.9, "depth": 4},
    "rsd": {"kept": 0.7, "step_tokens": 30, "judge_billions": 1.5},
    "dsbd": {"acceptance": 0.8, "width": 2},
    "ssbd": {"drafted": 0.8, "reused": 0.6},
}


def scenario(**own):
    drafter = {"method": "draft_model", "model": "meta-llama/Llama-3.2-1B", "num_speculative_tokens": [3]}
    return Scenario.from_dict(
        {
            "target": {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100_sxm"},
            "drafter": [drafter],
            "workload": {
                "arrivals": {"kind": "closed", "concurrency": 4},
                "prompt_tokens": {"kind": "fixed", "tokens": PROMPT},
                "output_tokens": {"kind": "fixed", "tokens": 101},
            },
            "serving": {"max_num_seqs": 8},
            "systems": OWN | {name: OWN[name] | numbers for name, numbers in own.items()},
            "simulation": {"requests": 40},
        }
    )


DEPLOYED = deploy(scenario())
TARGET = DEPLOYED.program(None, 0)


def made(name, **numbers):
    return compose(system(name), deploy(scenario(**{name: numbers})))[0]


def load(requests=10, output=201, users=3):
    return Requests(np.zeros(requests), np.full(requests, PROMPT), np.full(requests, output), users)


def writes(program, tokens, past):
    return sum(float(program.seconds(Batch(1.0, past + float(i)))) for i in range(tokens))


def reads(program, tokens, past=0):
    return float(program.seconds(Batch(0.0, 0.0, prefill=(PrefillChunk(float(tokens), float(past)),))))


def seconds(result):
    """From the first token to the last, of the first request."""
    return float(result.finish_s[0] - result.first_token_s[0])


@pytest.mark.parametrize("name", OWN)
def test_requests_follow_each_other_and_runs_repeat(name):
    composition = made(name)
    assert composition.one_at_a_time
    one, two = (composition.run(load(), np.random.default_rng(4)).result for _ in range(2))
    assert one.finish_s.tolist() == two.finish_s.tolist()
    assert (one.scheduled_s[1:] >= one.finish_s[:-1] - 1e-9).all()
    np.testing.assert_allclose(one.arrival_s[3:], one.finish_s[:-3])
    assert (one.accepted <= one.drafted).all()
    assert one.finish_s.tolist() != composition.run(load(), np.random.default_rng(5)).result.finish_s.tolist()


@pytest.mark.parametrize("name", ["speed", "rsd", "ssbd"])
def test_a_prompt_is_read_before_its_first_token(name):
    composition = made(name)
    result = composition.run(load(2, 5, 1), np.random.default_rng(0)).result
    reader = composition.programs[rsd.DRAFTER] if name == "rsd" else TARGET
    assert result.ttft_s == pytest.approx(reads(reader, PROMPT))


# SPEED


def test_groups_and_logits_make_the_whole_pass():
    for depth in (1, 2, 4, 8):
        programs = made("speed", depth=depth).programs
        batch = Batch(1.0, 500.0)
        parts = depth * float(programs[1].seconds(batch)) + float(programs[speed.HEAD].seconds(Batch(1.0, 0.0)))
        plain = float(TARGET.seconds(batch) - TARGET.host(batch).total_s)
        assert parts == pytest.approx(plain, rel=0.01)
        flops = depth * programs[1].flops(batch) + programs[speed.HEAD].flops(Batch(1.0, 0.0))
        assert float(flops) == pytest.approx(float(TARGET.flops(batch)))


def test_no_right_guess_costs_all_ticks_and_the_guesses():
    """Tokens enter one a tick until the oldest ends and none is kept: 1, 2, 3 and 4 in flight, and a guess a tick."""
    composition = made("speed", right=0.0)
    result = composition.run(load(1, 41, 1), np.random.default_rng(0)).result
    programs, expected = composition.programs, 0.0
    one, two = (float(programs[speed.HEAD].seconds(Batch(rows, 0.0))) for rows in (1.0, 2.0))
    for i in range(40):
        batch = Batch(1.0, PROMPT + 1.0 + i)
        expected += sum(float(programs[n].seconds(batch)) for n in (1, 2, 3, 4))
        expected += 3 * one + two + float(TARGET.host(batch).total_s)
    assert result.rounds.tolist() == [40]
    assert seconds(result) == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("right", [0.0, 0.6, 0.95, 1.0])
def test_ticks_follow_the_formula(right):
    result = made("speed", right=right).run(load(10, 1001, 1), np.random.default_rng(1)).result
    ticks = sum(n for key, (n, _) in result.work.rounds.items() if key > 0)
    assert ticks / (10 * 1000) == pytest.approx(speed.ticks_per_token(right, 4, 1), rel=0.03)


def test_right_guesses_only_add_their_logits():
    composition = made("speed", right=1.0)
    outcome = composition.run(load(1, 1001, 1), np.random.default_rng(1))
    whole = TARGET.flops(Batch(1000.0, 1000 * (PROMPT + 501.0)))
    guesses = composition.programs[speed.HEAD].flops(Batch(1000.0, 0.0))
    assert composition.round_flops(outcome) == pytest.approx(float(whole + guesses), rel=0.01)


def test_a_shared_group_is_held_once():
    weights = [made("speed", depth=depth).devices[0].weight_bytes for depth in (1, 2, 4)]
    assert weights[0] == pytest.approx(DEPLOYED.target.weight_bytes())
    assert weights[0] - weights[1] == pytest.approx(2 * (weights[1] - weights[2]))


# RSD


def test_rsd_keeps_all_and_never_asks_the_target():
    composition = made("rsd", kept=1.0)
    outcome = composition.run(load(), np.random.default_rng(0))
    assert 0 not in outcome.result.work.rounds
    assert 0 not in outcome.result.work.chunks
    assert (outcome.result.accepted == outcome.result.drafted).all()


def test_rsd_takes_the_steps_of_three_engines():
    composition = made("rsd", kept=0.6)
    result = composition.run(load(20, 3001, 1), np.random.default_rng(1)).result
    drafted, anew = int(result.drafted.sum()), int((result.drafted - result.accepted).sum())
    assert anew / drafted == pytest.approx(0.4, abs=0.04)
    drafter, judge = (composition.programs[key] for key in (rsd.DRAFTER, rsd.JUDGE))
    context, step = PROMPT + 1500, drafted / int(result.rounds.sum())
    write_s, anew_s = (float(p.seconds(Batch(1.0, float(context)))) for p in (drafter, TARGET))
    share, steps = anew / drafted, int(result.rounds.sum())
    caught = reads(TARGET, step / share - step, context) + reads(drafter, step, context)
    judged = steps * reads(judge, (1 + share) * step, context)
    expected = drafted * write_s + anew * anew_s + share * steps * caught + judged
    assert float((result.finish_s - result.first_token_s).sum()) == pytest.approx(expected, rel=0.02)


def test_rsd_operations_follow_the_papers_law():
    """The judge reads a drafted step, and what the target wrote in its place with the next: the paper counts once."""
    composition = made("rsd", kept=0.6, judge_billions=8.03 * 2)
    outcome = composition.run(load(20, 2001, 1), np.random.default_rng(0))
    kept = float(outcome.result.accepted.sum() / outcome.result.drafted.sum())
    each = composition.round_flops(outcome) / (20 * 2000)
    plain = float(TARGET.flops(Batch(1.0, PROMPT + 1000.0)))
    drafter = float(composition.programs[rsd.DRAFTER].flops(Batch(1.0, PROMPT + 1000.0)))
    judge = float(composition.programs[rsd.JUDGE].flops(Batch(1.0, 0.0)))
    assert judge == pytest.approx(2 * 2 * (8.03e9 - DEPLOYED.target.embedding_parameters), rel=0.01)
    sizes = rsd.Sizes(plain, drafter, (2.0 - kept) * judge)
    assert plain / each == pytest.approx(rsd.flops_ratio(sizes, kept), rel=0.02)


def test_fewer_kept_steps_take_longer():
    times = [
        made("rsd", kept=kept).run(load(20, 1001, 1), np.random.default_rng(0)).result.e2e_s.mean()
        for kept in (0.0, 0.3, 0.6, 0.9, 1.0)
    ]
    assert times == sorted(times, reverse=True)


# DSBD


def test_beam_steps_follow_theorem_and_forest():
    composition = made("dsbd", gamma=3, drafts=5)
    ((tokens, program),) = composition.programs.items()
    assert tokens == 3 * 5 + 2 - 1
    outcome = composition.run(load(20, 2001, 1), np.random.default_rng(0))
    assert outcome.tokens_per_round == pytest.approx(1 / dsbd.target_calls_per_step(0.8, 3), rel=0.01)
    round_s = float(program.seconds(Batch(1.0, PROMPT + 1000.0)))
    assert float(outcome.result.tpot_s.mean()) == pytest.approx(round_s / outcome.tokens_per_round, rel=0.01)


def test_wider_beams_cost_more():
    batch = Batch(1.0, 500.0)
    passes = [float(next(iter(made("dsbd", drafts=d).programs.values())).flops(batch)) for d in (2, 4, 8)]
    assert passes == sorted(passes)


# SSBD


@given(st.floats(0.0, 1.0), st.integers(1, 400))
def test_the_rate_keeps_the_share(share, length):
    rate = ssbd.rate_that_keeps(share, length)
    assert float(expected_tokens_iid(rate, length)) - 1 == pytest.approx(share * length, abs=1e-6 * length)


def test_an_output_that_stays_costs_one_pass_and_the_rest():
    composition = made("ssbd", reused=1.0)
    result = composition.run(load(1, 101, 1), np.random.default_rng(0)).result
    check = composition.programs[81]
    expected = float(check.seconds(Batch(1.0, float(PROMPT)))) + writes(TARGET, 101 - 1 - 82, PROMPT + 83)
    assert result.accepted.tolist() == [81]
    assert result.rounds.tolist() == [1 + 101 - 1 - 82]
    assert seconds(result) == pytest.approx(expected, rel=1e-3)


def test_an_output_that_changes_costs_all_and_the_pass():
    composition = made("ssbd", reused=0.0)
    result = composition.run(load(1, 101, 1), np.random.default_rng(0)).result
    check = float(composition.programs[81].seconds(Batch(1.0, float(PROMPT))))
    assert seconds(result) == pytest.approx(check + writes(TARGET, 99, PROMPT + 2), rel=1e-3)


def test_the_share_that_stays_is_the_one_given():
    result = made("ssbd", reused=0.6).run(load(2000, 101, 1), np.random.default_rng(0)).result
    assert float(result.accepted.sum() / result.drafted.sum()) == pytest.approx(0.6, abs=0.03)


# What is said


@pytest.mark.parametrize(("name", "numbers", "said"), [
    ("speed", {"right": 1.5}, "systems.speed.right: 1.5; give 0 or more, at most 1"),
    ("speed", {"depth": 5}, "systems.speed.depth: 5; 32 layers don't make that many equal groups"),
    ("speed", {"guess_at": 5}, "systems.speed.guess_at: 5; give a whole number, at least 1, at most 4"),
    ("rsd", {"kept": -0.1}, "systems.rsd.kept: -0.1; give 0 or more, at most 1"),
    ("rsd", {"step_tokens": 0}, "systems.rsd.step_tokens: 0; give 1 or more"),
    ("dsbd", {"width": 7}, "systems.dsbd.width: 7; give a whole number, at least 1, at most 6"),
    ("ssbd", {"drafted": 0}, "systems.ssbd.drafted: 0; give more than 0"),
])  # fmt: skip
def test_wrong_numbers_are_one_line(name, numbers, said):
    with pytest.raises(InputError) as caught:
        made(name, **numbers)
    assert str(caught.value) == said


@pytest.mark.parametrize("name", OWN)
def test_all_that_is_missing_is_named_at_once(name):
    document = scenario().to_dict()
    document["systems"].pop(name)
    with pytest.raises(NotApplicable) as why:
        compose(system(name), deploy(Scenario.from_dict(document)))
    assert all(given in why.value.reason for given in OWN[name])


def test_a_draft_model_alone_decodes_like_a_target():
    bare = Scenario.from_dict({"target": {"model": "meta-llama/Llama-3.2-1B", "hardware": "h100_sxm"}})
    alone = Setting(DEPLOYED).other_end.alone(DEPLOYED.candidates[0])
    batch = Batch(4.0, 2000.0)
    assert float(alone.seconds(batch)) == float(deploy(bare).program(None, 0).seconds(batch))
