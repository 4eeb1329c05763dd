"""Batches of like length: the least padding that the first in the queue allows; nobody is lost or passed over."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import simpy
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.simulation.like_lengths import LikeLengths
from specsim.simulation.servers import Batching, Job, Server

LENGTHS = st.lists(st.integers(1, 8), min_size=1, max_size=9)


def padding(lengths):
    return max(lengths) * len(lengths) - sum(lengths)


def taken(lengths, most):
    jobs = [Job(place, length, lambda job: None) for place, length in enumerate(lengths)]
    return list(LikeLengths(most, lambda job: job.what)(jobs, 0.0))


@given(LENGTHS, st.integers(1, 5))
def test_no_batch_of_its_size_with_the_first_job_is_padded_less(lengths, most):
    places = taken(lengths, most)
    size = min(most, len(lengths))
    assert 0 in places
    assert len(set(places)) == len(places) == size
    others = combinations(range(1, len(lengths)), size - 1)
    least = min(padding([lengths[place] for place in (0, *rest)]) for rest in others)
    assert padding([lengths[place] for place in places]) == least
    assert least <= padding(lengths[:size])


@given(st.integers(1, 8), st.integers(1, 30), st.integers(1, 5))
def test_equal_lengths_are_first_come_first_served(length, waiting, most):
    assert taken([length] * waiting, most) == list(range(min(most, waiting)))


@given(LENGTHS, st.integers(1, 5))
def test_of_one_length_those_that_came_first_go(lengths, most):
    places = set(taken(lengths, most))
    for length in set(lengths):
        alike = [place for place, other in enumerate(lengths) if other == length and place]
        gone = [place in places for place in alike]
        assert gone == sorted(gone, reverse=True)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 60), st.integers(1, 5), st.sampled_from([0.0, 0.3]))
def test_everyone_is_served_once_and_no_later_than_the_bound(seed, n, most, window_s):
    """A job with so many ahead of it is in one of the next so many and one batches."""
    rng = np.random.default_rng(seed)
    arrivals, lengths = np.cumsum(rng.exponential(0.3, n)), rng.integers(1, 9, n).tolist()
    env, batches, allowed, done = simpy.Environment(), [], {}, []

    def seconds(jobs):
        batches.append([job.owner for job in jobs])
        return 0.5 + 0.1 * max(job.what for job in jobs)

    take = LikeLengths(most, lambda job: job.what)
    server = Server(env, "s", seconds, Batching(most, window_s=window_s, take=take))

    def source():
        for i in range(n):
            yield env.timeout(arrivals[i] - env.now)
            allowed[i] = len(batches) + len(server.waiting())
            server.submit(Job(i, lengths[i], lambda job: done.append(job.owner)))

    env.process(source())
    env.run()
    assert sorted(done) == list(range(n))
    started = {owner: number for number, batch in enumerate(batches) for owner in batch}
    assert all(started[i] <= allowed[i] for i in range(n))
    assert all(len(batch) <= most for batch in batches)


def test_like_windows_together_serve_a_full_queue_sooner():
    """Behind a batch of four short ones, short and long in turn: like lengths make four batches that pad nothing."""
    lengths, ends = [1] * 4 + [1, 3] * 8, {}
    for name, take in (("fifo", None), ("like", LikeLengths(4, lambda job: job.what))):
        env = simpy.Environment()
        batching = Batching(4, min_batch=4, take=take)
        server = Server(env, name, lambda jobs: 1.0 + max(job.what for job in jobs), batching)
        for length in lengths:
            server.submit(Job(None, length, lambda job: None))
        env.run()
        ends[name] = env.now
    assert ends == {"fifo": 2.0 + 4 * 4.0, "like": 2.0 + 2 * 2.0 + 2 * 4.0}
