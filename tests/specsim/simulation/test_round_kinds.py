"""Rounds of one draft length that differ in their passes: kinds, which a rule asks for by number."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation.expanded import run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.links import LinkLaw
from specsim.simulation.round_rules import DrawnRounds
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology, on_one
from specsim.theory.structures import overlapped_tokens_per_s


class Turns:
    """The kinds in turn; each drafts as its program does."""

    def __init__(self, kinds, lengths, rng):
        self.kinds, self.lengths, self.at = kinds, lengths, 0
        self.drawn = DrawnRounds(Iid(0.6), 1, rng)

    def length(self, stream):
        self.at += 1
        return self.kinds[self.at % len(self.kinds)]

    def settle(self, stream, k):
        accepted = self.drawn.accepted(stream, self.lengths[k])
        return accepted, accepted + 1


def program(k, seconds):
    return timed_program(f"{k} in {seconds} s", k, timed_pass("all", seconds))


def go(programs, kinds, seed=0):
    rng = np.random.default_rng(seed)
    rule = Turns(kinds, {key: one.k for key, one in programs.items()}, rng)
    return run_expanded(programs, rule, streams(1, 600), on_one("gpu"), rng, prompt_cached=True)


@given(st.integers(0, 50))
def test_names_of_kinds_change_nothing(offset):
    plain = {2: program(2, 1.0), 3: program(3, 1.5)}
    named = {k + offset + 4: replace(one, kind=k + offset + 4) for k, one in plain.items()}
    one, other = go(plain, [2, 3]), go(named, [offset + 6, offset + 7])
    assert one.result.finish_s.tolist() == other.result.finish_s.tolist()
    assert one.result.drafted.tolist() == other.result.drafted.tolist()


def test_kinds_of_one_length_are_priced_and_counted_apart():
    made = go({0: replace(program(3, 1.0), kind=0), 1: replace(program(3, 10.0), kind=1)}, [0, 1])
    counts = {k: n for k, (n, _) in made.result.work.rounds.items()}
    assert abs(counts[0] - counts[1]) <= 1
    assert made.servers[0].busy_s == pytest.approx(counts[0] + 10.0 * counts[1])
    assert made.result.drafted.sum() == 3 * sum(counts.values())


class Ahead:
    """Kind 1 verifies what was drafted beside the round before, which kept all of its own; kind 0 drafts first."""

    def __init__(self, k, rate, rng):
        self.k, self.warm, self.voids = k, False, 0
        self.drawn = DrawnRounds(Iid(rate), 1, rng)

    def length(self, stream):
        return int(self.warm)

    def settle(self, stream, kind):
        accepted = self.drawn.accepted(stream, self.k)
        self.warm = accepted == self.k
        self.voids += not self.warm
        return (accepted, accepted, 0) if self.warm else (accepted, accepted + 1, self.k)


@pytest.mark.parametrize(("k", "rate"), [(2, 0.7), (5, 0.7), (8, 0.9)])
def test_drafting_ahead_is_as_fast_as_in_closed_form(k, rate):
    draft_s, verify_s = 6e-3, 30e-3
    programs = {}
    for kind, before in enumerate((("draft",), ())):
        verify = timed_pass("verify", verify_s, device="gpu", after=before)
        beside = timed_pass("next", draft_s, device="cpu", repeats=k, after=before)
        first = (timed_pass("draft", draft_s, device="cpu", repeats=k),) if before else ()
        programs[kind] = timed_program("ahead", k, *first, verify, beside, kind=kind)
    free = LinkLaw()
    place = Topology(
        (ServerSpec("cpu"), ServerSpec("gpu")), (LinkSpec("cpu", "gpu", free), LinkSpec("gpu", "cpu", free)), home="gpu"
    )
    rng = np.random.default_rng(1)
    rule = Ahead(k, rate, rng)
    made = run_expanded(programs, rule, streams(1, 60_000), place, rng, prompt_cached=True)
    assert made.tokens_per_s == pytest.approx(
        overlapped_tokens_per_s(rate, k, draft_s=draft_s, target_s=verify_s), rel=0.02
    )
    drafted, cold = made.servers[0], made.result.work.rounds[0][0]
    assert drafted.busy_s == pytest.approx(draft_s * (k * made.result.rounds[0] + k * cold))
    assert made.wasted_tokens == made.result.rounds[0] * k - made.result.accepted[0] + k * rule.voids


class Drops(Turns):
    """The same, and two tokens drafted ahead in vain after a rejection."""

    def settle(self, stream, k):
        accepted, emitted = super().settle(stream, k)
        return np.int64(accepted), np.int64(emitted), 2 if accepted < self.lengths[k] else 0


def test_what_was_drafted_ahead_in_vain_is_wasted_and_takes_no_time():
    one = go({3: program(3, 1.0)}, [3])
    rng = np.random.default_rng(0)
    rule = Drops([3], {3: 3}, rng)
    other = run_expanded({3: program(3, 1.0)}, rule, streams(1, 600), on_one("gpu"), rng, prompt_cached=True)
    assert other.result.finish_s.tolist() == one.result.finish_s.tolist()
    rounds = one.result.rounds[0]
    rng = np.random.default_rng(0)
    again = Turns([3], {3: 3}, rng)
    rejected = sum(again.settle(0, 3)[0] < 3 for _ in range(rounds))
    assert 0 < rejected < rounds
    assert other.wasted_tokens == one.wasted_tokens + 2 * rejected


def test_a_timed_program_has_its_kind_and_its_bonus():
    made = timed_program("jump", 2, timed_pass("all", 1.0), kind=9, bonus=4)
    assert (made.key, made.k, made.bonus) == (9, 2, 4)

    class Jump(Turns):
        def settle(self, stream, k):
            return 2, 6

    rng = np.random.default_rng(0)
    ran = run_expanded({9: made}, Jump([9], {9: 2}, rng), streams(1, 600), on_one("gpu"), rng, prompt_cached=True)
    assert ran.result.rounds[0] == 100


def test_a_kind_is_listed_under_its_number():
    with pytest.raises(InputError, match="is of kind 5, listed under 3"):
        go({3: replace(program(3, 1.0), kind=5)}, [3])
