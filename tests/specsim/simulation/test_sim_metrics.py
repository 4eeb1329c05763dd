"""Summaries against the definitions, intervals against their coverage, and files that are whole or absent."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pyarrow.parquet as pq
import pytest
from affine_engine import run

from specsim.errors import InputError
from specsim.simulation import metrics, record
from specsim.simulation.backlog import load_grows
from specsim.simulation.intervals import across, within
from specsim.simulation.metrics import Slo, summarise
from specsim.simulation.result import Result
from specsim.simulation.serving import Serving
from specsim.simulation.workload import ClosedLoop, Fixed, Lognormal, Poisson, Workload


def a_result(n=200, seed=0, rounds=10):
    rng = np.random.default_rng(seed)
    arrival = np.cumsum(rng.exponential(1.0, n))
    first = arrival + rng.exponential(0.5, n)
    output = rng.integers(1, 40, n)
    finish = first + np.where(output > 1, rng.exponential(2.0, n), 0.0)
    counts = np.where(output > 1, rounds, 0)
    return Result(
        arrival, arrival, first, finish, np.full(n, 100), output, counts, 3 * counts, 2 * counts, np.zeros(n, np.int64),
        rng.exponential(0.01, 500), rng.integers(1, 9, 500), 500, 200, 90.0, 180.0, 45.0, 0.7,
    )  # fmt: skip


def test_statistics_follow_their_definitions():
    r = a_result()
    s = summarise([r])
    assert s.ttft_s.mean.value == pytest.approx((r.first_token_s - r.arrival_s).mean())
    assert s.e2e_s.p95.value == pytest.approx(np.quantile(r.finish_s - r.arrival_s, 0.95))
    many = r.output_tokens > 1
    tpot = (r.finish_s - r.first_token_s)[many] / (r.output_tokens[many] - 1)
    assert s.tpot_s.p50.value == pytest.approx(np.median(tpot))
    gaps = np.repeat(r.itl_s, r.itl_count)
    assert s.itl_s.mean.value == pytest.approx(gaps.mean())
    assert s.itl_s.p90.value == pytest.approx(np.quantile(gaps, 0.9, method="inverted_cdf"))
    assert s.acceptance_length.value == pytest.approx(3.0)
    assert s.utilisation.value == pytest.approx(90.0 / r.duration_s)
    assert s.mean_batch.value == pytest.approx(2.0)
    assert s.cache_mean.value == pytest.approx(0.5)
    assert s.output_throughput_tokens_per_s.value == pytest.approx(r.output_tokens.sum() / r.duration_s)


def test_a_loop_counts_neither_a_users_first_request_nor_its_last():
    """What all users send at once waits for a prefill of all; no request after it does."""
    users = 40
    load = Workload(ClosedLoop(users), Fixed(2000), Lognormal(200, 0.5))
    runs = [run(load, n=20 * users, seed=s, per_new_s=1e-5) for s in range(5)]
    s, all_of_it = summarise(runs, users=users), summarise(runs)
    assert s.warm_up_requests == s.cool_down_requests == (users,) * 5
    later = [r.ttft_s[users:-users] for r in runs]
    assert s.ttft_s.p99.value == pytest.approx(np.mean([np.quantile(v, 0.99) for v in later]))
    assert s.ttft_s.p99.value < 0.5 * all_of_it.ttft_s.p99.value
    at_work = s.request_throughput_per_s.value * s.e2e_s.mean.value  # Little's law, all users being in the loop
    assert at_work == pytest.approx(users, rel=0.02)
    assert all_of_it.request_throughput_per_s.value < s.request_throughput_per_s.value
    assert not s.load_grows


@pytest.mark.parametrize(("requests", "counted"), [(30, (10, 20)), (29, (10, 29)), (10, (0, 10)), (5, (0, 5))])
def test_a_loop_too_short_to_settle_says_so(requests, counted):
    cut = metrics.counted_in_loop(requests, 10)
    assert (cut.start, cut.stop) == counted
    r = run(Workload(ClosedLoop(10), Fixed(10), Fixed(20)), n=requests)
    noted = any("fewer than three requests a user" in note for note in summarise([r], users=10).notes)
    assert noted == (requests < 30)


@pytest.mark.parametrize("runs", [1, 5])
@pytest.mark.parametrize(("load", "grows"), [(0.3, False), (0.8, False), (1.2, True), (3.0, True)])
def test_requests_pile_up_beyond_the_sustainable_rate_alone(runs, load, grows):
    """Eight seats of 51 iterations of 10 ms each: 8 / 0.51 requests a second at most."""
    most = 8 / 0.51
    work = Workload(Poisson(load * most), Fixed(10), Fixed(51))
    made = [run(work, n=2000, seed=s, serving=Serving(8, 4096, 100_000)) for s in range(runs)]
    assert load_grows(made) is grows
    assert summarise(made).load_grows is grows


def test_no_draft_no_acceptance_length():
    plain = dataclasses.replace(a_result(), drafted=np.zeros(200, np.int64))
    assert summarise([plain]).acceptance_length is None


def test_goodput_counts_requests_that_keep_every_limit():
    r = a_result()
    slo = Slo(ttft_s=0.5, tpot_s=0.1)
    kept = [
        t <= 0.5 and (o == 1 or (f - a) / (o - 1) <= 0.1)
        for t, o, f, a in zip(r.ttft_s, r.output_tokens, r.finish_s, r.first_token_s, strict=True)
    ]
    s = summarise([r], slo=slo)
    assert 0 < np.mean(kept) < 1
    assert s.goodput_share.value == pytest.approx(np.mean(kept))
    assert s.goodput_per_s.value == pytest.approx(np.sum(kept) / r.duration_s)
    assert summarise([r], slo=Slo()).goodput_share.value == 1.0


def test_replications_give_the_t_interval():
    runs = [a_result(seed=s) for s in range(6)]
    values = [r.ttft_s.mean() for r in runs]
    low, high = (summarise(runs).ttft_s.mean.low, summarise(runs).ttft_s.mean.high)
    half = 2.015048 * np.std(values, ddof=1) / np.sqrt(6)  # t, 5 degrees, 95 %
    assert (low, high) == pytest.approx((np.mean(values) - half, np.mean(values) + half), rel=1e-5)


@pytest.mark.parametrize("length", [2_000, 30_000])
def test_interval_of_a_correlated_run_covers(length):
    """AR(1) with known mean 10: of 60 intervals at 90 %, independent sampling would cover far fewer than these."""
    rng = np.random.default_rng(5)
    covered = 0
    for _ in range(60):
        noise = rng.standard_normal(length)
        from scipy.signal import lfilter

        run = 10 + lfilter([1.0], [1.0, -0.8], noise)
        mean = within([run], (0.5,))[0]
        covered += mean.low <= 10 <= mean.high
    assert covered >= 42  # binomial(60, .9): 54, four deviations of 2.3 below, and the bootstrap's known bias
    # Taken for independent, these values would give an interval a third as wide: 42 % coverage, 25 of 60.


def test_mser_leaves_out_a_ramp_and_nothing_of_noise():
    rng = np.random.default_rng(0)
    noise = rng.standard_normal(2000)
    ramp = np.concatenate([np.linspace(30, 0, 300), np.zeros(1700)])
    assert 200 <= metrics._mser5(noise + ramp) <= 500
    assert metrics._mser5(noise) < 500


def test_few_runs_say_that_engine_figures_have_no_interval():
    s = summarise([a_result()])
    assert any("fewer than five" in note for note in s.notes)
    assert s.utilisation.low == s.utilisation.value == s.utilisation.high
    assert across([1.0, 2.0, 3.0]).low == 2.0


def test_written_run_reads_back(tmp_path):
    runs = [a_result(seed=s) for s in range(5)]
    summary = summarise(runs, slo=Slo(ttft_s=1.0))
    out = tmp_path / "run"
    for _ in range(2):  # the second replaces the first
        record.write_run(out, runs, summary, scenario="[target]\n", provenance=record.provenance(seed=7))
    table = pq.read_table(out / "requests.parquet")
    assert table.num_rows == 1000
    assert table.column_names == ["run", "request", *record.COLUMNS]
    np.testing.assert_array_equal(table["finish_s"].to_numpy()[200:400], runs[1].finish_s)
    read = json.loads((out / "summary.json").read_text())
    assert set(read["ttft_s"]["p99"]) == {"value", "low", "high"}
    assert json.loads((out / "provenance.json").read_text())["seed"] == 7
    assert [p.name for p in tmp_path.iterdir()] == ["run"]


def test_interrupted_write_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(record, "_write_json", interrupted)
    runs = [a_result()]
    with pytest.raises(KeyboardInterrupt):
        record.write_run(tmp_path / "run", runs, summarise(runs), scenario="", provenance={})
    assert list(tmp_path.iterdir()) == []


def test_foreign_directory_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("x")
    runs = [a_result()]
    with pytest.raises(InputError, match=r"thesis\.tex"):
        record.write_run(tmp_path, runs, summarise(runs), scenario="", provenance={})
    assert (tmp_path / "thesis.tex").exists()
