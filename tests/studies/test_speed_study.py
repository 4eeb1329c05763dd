"""The speed study runs; its seconds are printed, never asserted."""

from __future__ import annotations

from specsim.simulation.workload import Fixed, Poisson, Workload
from studies import speed


def test_a_timed_run_counts_what_it_simulated():
    run = speed.timed("short", speed.program(0), Workload(Poisson(4.0), Fixed(100), Fixed(20)), 30)
    assert run.requests == 30
    assert run.iterations >= 20
    assert 0 < run.mean_batch <= 30
    assert run.cpu_s > 0
    assert run.peak_rss_mb > 10
