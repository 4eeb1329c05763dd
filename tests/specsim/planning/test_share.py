"""One of several replicas gets its share, and a comparison drafts as far as a plan of the same load does."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from specsim.errors import InputError
from specsim.planning.comparison import run_one
from specsim.planning.deployment import deploy
from specsim.planning.operating import choose, curves_of, fewest_replicas
from specsim.planning.schedule import schedule
from specsim.planning.setting import Setting
from specsim.planning.share import beyond, load_in_words, of_one_replica
from specsim.planning.surface import surfaces
from specsim.scenario import Scenario
from specsim.scenario.sections import Simulation


def scenario(rate: float, *, replicas: int | None = None, kind: str = "poisson", **changes: Any) -> Scenario:
    arrivals = {"kind": kind, "rate_per_s": rate, **({"burstiness": 0.5} if kind == "gamma" else {})}
    return Scenario.from_dict(
        {
            "target": {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100_sxm"},
            "drafter": [
                {"method": "eagle3", "num_speculative_tokens": [1, 2, 3, 4, 6], "acceptance": {"rate": 0.7}},
                {"method": "ngram", "num_speculative_tokens": [2, 4], "acceptance": {"rate": 0.4}},
            ],
            "workload": {
                "arrivals": arrivals,
                "prompt_tokens": {"kind": "lognormal", "mean": 900, "cv": 1.0},
                "output_tokens": {"kind": "lognormal", "mean": 120, "cv": 0.5},
            },
            "slo": {"tpot_p95_ms": 50.0},
            "serving": {"max_num_seqs": 64},
            "simulation": {"requests": 40, **({"replicas": replicas} if replicas else {})},
            **changes,
        }
    )


@pytest.mark.parametrize("kind", ["poisson", "gamma"])
def test_one_of_three_replicas_at_thrice_the_rate_is_one_replica(kind: str) -> None:
    shared = run_one(scenario(12.0, replicas=3, kind=kind), "eagle3", (1,))
    alone = run_one(scenario(4.0, kind=kind), "eagle3", (1,))
    assert shared == alone
    assert shared != run_one(scenario(12.0, kind=kind), "eagle3", (1,))


def test_what_a_replica_gets_is_said() -> None:
    assert load_in_words(deploy(scenario(6.0))) == "One replica takes all 6 requests/s."
    assert load_in_words(deploy(scenario(6.0, replicas=4))) == "One of 4 replicas takes 1.5 of 6 requests/s."


def test_arrivals_all_at_once_have_no_rate_to_share(tmp_path: Any) -> None:
    trace = tmp_path / "t.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,10\n0.0,10,10\n")
    given = scenario(1.0, replicas=2, workload={"arrivals": {"kind": "trace", "file": str(trace)}})
    with pytest.raises(InputError, match=r"simulation.replicas: 2: there is no rate to share"):
        of_one_replica(deploy(given))


@pytest.mark.parametrize("rate", [0.5, 4.0, 10.0, 16.0, 24.0])
def test_a_comparison_and_a_plan_choose_the_same_drafter_and_length(rate: float) -> None:
    """At what a plan gives one replica: its share of the rate, among as few as the best configuration needs."""
    whole = deploy(scenario(rate))
    surface = surfaces(whole)
    curves = curves_of(whole, surface)
    needed = fewest_replicas(whole, curves)
    ranges = [r for c in whole.candidates for r in schedule(whole, surface, c)]
    here = [r for r in ranges if r.context_tokens == surface.contexts[surface.context]]
    planned = next(c for c in choose(whole, curves, here, replicas=needed) if c.candidate is not None)
    setting = Setting(of_one_replica(deploy(scenario(rate, replicas=needed))))
    found, k = setting.best(setting.drafters("eagle3", "ngram"))
    assert (found.label, k) == (planned.label, planned.k)


def test_limits_that_do_not_hold_are_named() -> None:
    slo = scenario(1.0, slo={"ttft_p95_ms": 1000.0, "tpot_p50_ms": 40.0, "tpot_p99_ms": 60.0}).slo
    seconds = {("ttft", 0.95): 2.5, ("tpot", 0.5): 0.04, ("tpot", 0.99): 0.0712}
    assert beyond(slo, lambda name, q: seconds[name, q]) == (
        "TTFT p95 is 2,500 ms (limit 1,000)",
        "TPOT p99 is 71.2 ms (limit 60)",
    )
    assert beyond(None, lambda _name, _q: 1e9) == ()


def test_a_loop_is_as_fast_as_the_point_of_the_chart_with_its_users() -> None:
    """Both leave out what all users send at once and what they send last, so more requests change neither."""
    loop = {"kind": "closed", "concurrency": 6}
    lengths = {"prompt_tokens": {"kind": "fixed", "tokens": 4000}, "output_tokens": {"kind": "fixed", "tokens": 60}}
    given = scenario(1.0, workload={"arrivals": loop, **lengths}, simulation={"requests": 32})
    row = run_one(given, "plain", (6,))
    assert not isinstance(row, str)
    (point,) = row.sweep
    found = (row.output_tokens_per_s, row.ttft_s, row.tpot_s)
    assert found == pytest.approx((point.output_tokens_per_s, point.ttft_s, point.tpot_s), rel=0.02)
    longer = run_one(replace(given, simulation=Simulation(requests=320)), "plain", (6,))
    assert not isinstance(longer, str)
    assert longer.ttft_p95_s == pytest.approx(row.ttft_p95_s, rel=0.02)
