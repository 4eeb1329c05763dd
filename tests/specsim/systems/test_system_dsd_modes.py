"""Rounds that switch between the devices' drafts and the cloud's: what they cost, their dwell, and their limits."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.simulation.graph import Graph, batch_seconds
from specsim.simulation.servers import Job
from specsim.simulation.topology import ServerSpec
from specsim.systems import dsd_rounds, dsd_serving, dsd_windows
from specsim.systems.dsd_rounds import FUSED, PROMPTS, Costs
from specsim.systems.dsd_windows import SwitchedRounds, Wish
from studies.papers.dsd import ALONE, conversations

RNG = np.random.default_rng
LARGER = Costs(cloud_draft_s=8e-3)
QUIET = {"think_s": 0.0, "jitter": 0.0, "batch_window_s": 0.0}

WISHES = (Wish(3, 1, wants_fused=True), Wish(6, 3, wants_fused=True), Wish(8, 6, wants_fused=False), Wish(8, 8, False))
"""The oracle's at the released round trip, with a drafter of 8 ms a token beside the target."""


class Given:
    def __init__(self, wants):
        self.wants = iter(wants)

    def wish(self, stream):
        return Wish(4, 2, next(self.wants))

    def settle(self, stream, k):
        return k, k + 1


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 3))
def test_a_fused_decision_is_kept_for_its_dwell(wants, dwell):
    rounds = SwitchedRounds(Given(wants), 1, dwell=dwell)
    ran = [rounds.length(0) >= FUSED for _ in wants]
    assert ran == [any(wants[max(0, at - dwell) : at + 1]) for at in range(len(wants))]


@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), max_size=60))
def test_streams_dwell_apart(asked):
    """What one stream asks changes nothing of another's."""
    together = SwitchedRounds(Given([wants for _, wants in asked]), 3)
    made = [(stream, together.length(stream)) for stream, _ in asked]
    for stream in range(3):
        own = [wants for other, wants in asked if other == stream]
        lone = SwitchedRounds(Given(own), 1)
        assert [key for other, key in made if other == stream] == [lone.length(0) for _ in own]


def test_a_kind_settles_what_its_window_does():
    assert SwitchedRounds(Given([]), 1).settle(0, FUSED + 2) == (2, 3)


def lone(window, talks, **changes):
    case = {"drafters": 1, "targets": 1, "conversations": 8, "mean_output": 120.0, "costs": LARGER, **QUIET}
    return dsd_serving.simulate(RNG(4), window=window, mode="switched", process=talks, **(case | changes))


@pytest.mark.parametrize("window", ["learned", WISHES])
def test_a_drafter_alone_takes_the_sum_of_its_rounds_by_kind(window):
    """Round trip and messages for what its device drafts, neither for what is drafted beside the target."""
    made = lone(window, conversations())
    counts = {key: n for key, (n, _) in made.result.work.rounds.items()}
    assert any(key >= FUSED for key in counts)
    assert any(key < FUSED for key in counts)
    assert PROMPTS not in counts
    assert set(made.result.work.chunks) == {PROMPTS}
    apart = {k: n for k, n in counts.items() if k < FUSED}
    sent = {k: 2 * k + 128 + 256 for k in apart}
    expected = sum(n * (float(LARGER.round_s(np.array(k), 2 * 8.35e-3)) + sent[k] / 1.25e7) for k, n in apart.items())
    expected += sum(n * float(LARGER.fused_s(np.array(k - FUSED))) for k, n in counts.items() if k >= FUSED)
    assert (made.result.finish_s - made.result.first_token_s).sum() == pytest.approx(expected, rel=1e-6)
    prompts = made.result.prompt_tokens
    prompt_bytes = float((prompts * (2 + 512 / 70.0 + 256 / 70.0)).sum())
    rounds_bytes = sum(n * sent[k] for k, n in apart.items())
    assert sum(link.bytes_sent for link in made.links) == pytest.approx(prompt_bytes + rounds_bytes)


def test_prompts_are_computed_for_both_drafters():
    costs = LARGER
    made = lone("learned", conversations(), bytes_per_s=1e15)
    prompt_s = costs.draft_prefill_s_per_token + costs.prefill_s_per_token + costs.draft_prefill_s_per_token
    waited = made.result.first_token_s - made.result.scheduled_s
    np.testing.assert_allclose(waited, 2 * 8.35e-3 + prompt_s * made.result.prompt_tokens, rtol=1e-5)


def speed(mode, window, one_way_s, cloud_draft_s=8e-3):
    case = {**ALONE, "jitter": 0.0, "bytes_per_s": 1e15, "one_way_s": one_way_s, "conversations": 24}
    made = dsd_serving.simulate(
        RNG(2), mode=mode, window=window, process=conversations(), mean_output=150.0,
        costs=Costs(cloud_draft_s=cloud_draft_s), **case,
    )  # fmt: skip
    return 1 / dsd_serving.token_s(made)


def of(wishes, mode):
    return {"distributed": [w.apart for w in wishes], "fused": [w.fused for w in wishes], "switched": wishes}[mode]


@pytest.mark.parametrize(("one_way_s", "mode", "wants"), [(0.0, "distributed", False), (0.5, "fused", True)])
def test_the_limits_of_the_round_trip_are_the_two_modes(one_way_s, mode, wants):
    wishes = [w._replace(wants_fused=wants) for w in WISHES]
    assert speed("switched", wishes, one_way_s) == pytest.approx(speed(mode, of(wishes, mode), one_way_s), rel=1e-6)
    assert speed("switched", "learned", one_way_s) == pytest.approx(speed(mode, "learned", one_way_s), rel=1e-6)


def test_the_oracle_wishes_what_the_limits_say():
    rates = (0.5, 0.95)
    case = {**ALONE, "conversations": 4, "seed": 1, "mean_output": 60.0, "costs": LARGER, "jitter": 0.0}
    fused_s = dsd_serving.replayed_seconds(rates, mode="fused", **case)
    for one_way_s, wants in ((0.0, False), (0.5, True)):
        apart_s = dsd_serving.replayed_seconds(rates, one_way_s=one_way_s, **case)
        wishes = dsd_windows.oracle_wishes(apart_s, fused_s)
        assert [w.wants_fused for w in wishes] == [wants] * len(rates)
        assert [w.fused for w in wishes] == sorted(w.fused for w in wishes)


@pytest.mark.slow
@pytest.mark.parametrize("one_way_s", [4e-3, 20e-3])
@pytest.mark.parametrize("cloud_draft_s", [8e-3, 12e-3])
@pytest.mark.parametrize("who", ["oracle", "learned"])
def test_where_nobody_queues_a_switch_is_between_the_modes_or_better(one_way_s, cloud_draft_s, who):
    wishes = [w._replace(wants_fused=w.fused * cloud_draft_s < w.apart * 5e-3 + 2 * one_way_s) for w in WISHES]
    each = {mode: speed(mode, of(wishes, mode) if who == "oracle" else who, one_way_s, cloud_draft_s)
            for mode in ("distributed", "fused", "switched")}  # fmt: skip
    assert each["switched"] >= min(each["distributed"], each["fused"]) * (1 - 1e-6)


def test_a_batch_of_both_kinds_takes_the_longer_of_them():
    place = dsd_rounds.place_of("switched", 1, ServerSpec("cloud"), dsd_serving.LinkLaw())
    programs = dsd_rounds.programs_of([1, 8], LARGER, "switched", mean_prompt=70.0)

    def job(key):
        graph = Graph(programs[key], place, 1000)
        leg = next(i for i, leg in enumerate(graph.legs) if leg.device == "cloud")
        return Job(None, (graph.prices[leg], 100, None, leg), lambda job: None)

    for fused, apart in ((1, 8), (8, 1)):
        seconds, decoding = batch_seconds([job(FUSED + fused), job(apart), job(apart)])
        drafted = fused * LARGER.cloud_draft_s + float(LARGER.verify_s(3, fused))
        assert seconds == pytest.approx(max(drafted, float(LARGER.verify_s(3, apart))))
        assert decoding == 3


def test_many_on_one_target_are_all_answered():
    made = dsd_serving.simulate(
        RNG(0), drafters=12, targets=1, conversations=30, mean_output=60.0, window="learned", mode="switched",
        process=conversations(), costs=LARGER, batching="length-aware", max_batch=4, think_s=0.0,
    )  # fmt: skip
    assert np.isfinite(made.result.finish_s).all()
    kinds = {key >= FUSED for key in made.result.work.rounds}
    assert kinds == {True, False}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"window": "static"}, "window: 'static'; rounds switch by the learned window"),
        ({"window": (1, 4, 8, 8), "process": conversations()}, "window: give a Wish for each state"),
        ({"window": WISHES, "process": conversations(), "mode": "fused"}, "window: give a Wish for each state"),
        ({"window": WISHES[:2], "process": conversations()}, "window: 2 windows for 4 states"),
    ],
)
def test_refuses(changes, message):
    with pytest.raises(InputError, match=message):
        dsd_serving.simulate(
            RNG(0), **({"mode": "switched", "drafters": 2, "targets": 1, "conversations": 3} | changes)
        )
