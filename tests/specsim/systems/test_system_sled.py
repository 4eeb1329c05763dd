"""Devices and one batched server: capacity by its law, deadlines that change its sign, replies lost and late."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.stopping import ConfidenceThreshold
from specsim.errors import InputError
from specsim.simulation.expanded import run_expanded
from specsim.simulation.graph import batch_seconds
from specsim.simulation.links import LinkLaw
from specsim.simulation.round_rules import SignalRounds
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology
from specsim.simulation.workload import Requests
from specsim.systems import sled


def run(seed=0, **changes):
    return sled.simulate(np.random.default_rng(seed), **{"duration_s": 20.0} | changes)


@pytest.mark.parametrize("mode", ["static", "eager"])
def test_saturated_capacity_is_its_law(mode):
    plain, made = run(devices=128, speculative=False), run(devices=128, mode=mode)
    law = made.tokens_a_round * plain.batch_s / made.batch_s
    assert made.tokens_per_s / plain.tokens_per_s == pytest.approx(law, rel=0.02)
    assert made.mean_batch == pytest.approx(16, rel=0.02)


def test_deadlines_turn_the_gain_over_and_batching_by_deadline_turns_it_back():
    case = {"devices": 24, "deadline_s": 0.07}
    central = run(speculative=False, mode="eager", **case).tokens_per_s
    assert run(mode="static", **case).tokens_per_s < 0.9 * central
    assert run(mode="deadline", **case).tokens_per_s > 1.1 * central


@settings(max_examples=8, deadline=None)
@given(
    loss=st.floats(0.01, 0.3), deadline_s=st.floats(0.03, 0.2), mode=st.sampled_from(["static", "eager", "deadline"])
)
def test_late_and_lost_replies_are_survived(loss, deadline_s, mode):
    made = run(devices=32, loss=loss, deadline_s=deadline_s, mode=mode, duration_s=10.0)
    assert made.lost > 0
    assert made.replies > 100
    assert 0 <= made.late_share <= 1


def test_a_looser_deadline_is_never_worse():
    late = [run(devices=24, mode="eager", deadline_s=d).late_share for d in (0.04, 0.06, 0.08, 0.2, np.inf)]
    assert np.all(np.diff(late) <= 0.01)
    assert late[-1] == 0


def test_one_device_alone_takes_the_sum_of_its_parts():
    law = sled.VerifyLaw()
    made = run(devices=1, mode="eager", speculative=False, duration_s=50.0)
    assert made.replies == pytest.approx(50.0 / (law.seconds(1, 0) + 2 * 5e-3 + sled.WINDOW_S), rel=0.01)


@pytest.mark.parametrize("changes", [{"devices": 0}, {"deadline_s": 0.0}, {"mode": "fast"}])
def test_refuses(changes):
    with pytest.raises(InputError, match="devices, mode"):
        run(**changes)


class Noted(SignalRounds):
    """Rounds in the order in which they are settled."""

    kept: list

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.settled = []
        Noted.kept.append(self.settled)

    def settle(self, stream, k):
        made = super().settle(stream, k)
        self.settled.append((stream, k, *made))
        return made


def on_servers(mode, devices, seed, *, deadline_s=np.inf, tokens=400, draft_s=20e-3, one_way_s=5e-3):
    """The reproduction's setting as ``specsim compare`` runs it: programs on servers, the composition's batches."""
    law, rng = sled.VerifyLaw(), np.random.default_rng(seed)
    rounds = Noted(CopulaSignals((0.7,), 0.8), ConfidenceThreshold(0.2, 8), devices, rng)
    starts = rng.uniform(0.0, draft_s * 8, devices)

    def program(k):
        def verify_s(n, kv):
            return law.base_s + law.sequence_s * np.asarray(n) + law.token_s * k + 0.0 * np.asarray(kv)

        draft = timed_pass("draft", draft_s, device="device", repeats=k)
        return timed_program(f"K = {k}", k, draft, timed_pass("verify", verify_s, device="server", after=("draft",)))

    batching = sled.batches(mode, sled.STATIC, sled.WINDOW_S, lambda jobs: batch_seconds(jobs)[0])
    way = LinkLaw(one_way_s)
    place = Topology(
        (ServerSpec("device", devices), ServerSpec("server", batching=batching)),
        (LinkSpec("device", "server", way), LinkSpec("server", "device", way)),
        home="device",
    )
    order = np.argsort(starts)
    rows = np.empty(devices, dtype=int)
    rows[order] = np.arange(devices)
    ones = np.ones(devices, dtype=int)
    requests = Requests(starts[order], ones, tokens * ones)
    made = run_expanded(
        {k: program(k) for k in range(1, 9)}, rounds, requests, place, rng, prompt_cached=True, deadline_s=deadline_s,
        priority=(lambda stream, stage, now: now + deadline_s - 2 * one_way_s) if mode == "deadline" else None,
    )  # fmt: skip
    return made, rounds.settled, order


@pytest.mark.parametrize("mode", ["static", "eager", "deadline"])
@pytest.mark.parametrize("devices", [24, 48])
def test_the_batches_of_a_comparison_are_the_reproductions(monkeypatch, mode, devices):
    """The same rounds of the same devices in the same order, until the first request of the comparison is answered."""
    Noted.kept = []
    deadline_s = 0.09 if mode == "deadline" else np.inf
    made, settled, order = on_servers(mode, devices, 3, deadline_s=deadline_s)
    first_s = float(made.result.finish_s.min())
    monkeypatch.setattr(sled, "SignalRounds", Noted)
    reproduced = run(3, devices=devices, mode=mode, deadline_s=deadline_s, duration_s=first_s - 1e-9)
    assert reproduced.replies > 20 * devices
    assert len(Noted.kept[-1]) == reproduced.replies
    ours = [(int(order[stream]), *rest) for stream, *rest in settled]
    assert ours[: reproduced.replies] == Noted.kept[-1]


def test_fewer_devices_than_a_static_batch_holds_wait_for_each_other():
    made = run(devices=5, mode="static", duration_s=20.0)
    assert made.mean_batch == 5
    assert made.tokens_per_s > 0
