"""The plan of a scenario, end to end: what must hold between its tables, and between scenarios."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from specsim.errors import InputError
from specsim.planning import plan
from specsim.scenario import Scenario

BASE: dict[str, Any] = {
    "target": {"model": "meta-llama/Llama-3.1-8B-Instruct", "hardware": "h100_sxm"},
    "drafter": [
        {"method": "eagle3", "num_speculative_tokens": [1, 3], "acceptance": {"per_position": [0.7, 0.66, 0.64]}}
    ],
    "workload": {
        "arrivals": {"kind": "poisson", "rate_per_s": 4.0},
        "prompt_tokens": {"kind": "fixed", "tokens": 512},
        "output_tokens": {"kind": "fixed", "tokens": 64},
    },
    "serving": {"max_num_seqs": 64, "max_num_batched_tokens": 2048},
    "slo": {"ttft_p95_ms": 2000.0, "tpot_p95_ms": 50.0},
    "shown": {"context_tokens": [1024, 8192]},
    "simulation": {"requests": 60, "replications": 5},
}


def planned(**changes: Any) -> dict[str, Any]:
    document = {name: table for name, table in {**BASE, **changes}.items() if table is not None}
    return plan(Scenario.from_dict(document)).to_dict()


@pytest.fixture(scope="module")
def base() -> dict[str, Any]:
    return planned()


def estimates(value: Any) -> list[dict[str, float]]:
    if isinstance(value, dict):
        if set(value) == {"value", "low", "high"}:
            return [value]
        return [e for inner in value.values() for e in estimates(inner)]
    if isinstance(value, list):
        return [e for inner in value for e in estimates(inner)]
    return []


def test_every_estimate_lies_in_its_interval_and_all_is_json(base: dict[str, Any]) -> None:
    assert json.loads(json.dumps(base, allow_nan=False)) == json.loads(json.dumps(base))
    found = estimates(base)
    assert len(found) > 100
    assert all(e["low"] <= e["value"] <= e["high"] for e in found)


def test_speedup_is_tokens_over_break_even(base: dict[str, Any]) -> None:
    pays = {(r["k"], r["batch"], r["context_tokens"]): r["acceptance_length"] for r in base["break_even"]}
    for row in base["grid"]:
        if row["k"]:
            needed = pays[row["k"], row["batch"], row["context_tokens"]]["value"]
            assert row["speedup"]["value"] == pytest.approx(row["tokens_per_round"]["value"] / needed)


def test_a_speedup_is_better_known_than_the_times_it_divides(base: dict[str, Any]) -> None:
    def width(e: dict[str, float]) -> float:
        return math.log(e["high"] / e["low"])

    rows = [r for r in base["grid"] if r["k"] == 1 and r["batch"] <= 8]
    assert rows
    assert all(width(r["speedup"]) < width(r["step_ms"]) for r in rows)


def test_tokens_per_round_are_one_plus_the_survival_that_was_given(base: dict[str, Any]) -> None:
    by_k = {r["k"]: r["tokens_per_round"]["value"] for r in base["grid"]}
    assert by_k[1] == pytest.approx(1.70)
    assert by_k[3] == pytest.approx(1 + 0.7 + 0.7 * 0.66 + 0.7 * 0.66 * 0.64)


def test_the_schedule_covers_every_batch_once_and_names_the_grid_s_lengths(base: dict[str, Any]) -> None:
    for context in {r["context_tokens"] for r in base["schedule"]}:
        ranges = [r for r in base["schedule"] if r["context_tokens"] == context]
        assert ranges[0]["batch_min"] == 1
        for before, after in pairwise(ranges):
            assert after["batch_min"] == before["batch_max"] + 1
            assert after["k"] != before["k"]


def test_a_hopeless_drafter_is_left_off_and_break_even_stays(base: dict[str, Any]) -> None:
    drafter = {"method": "eagle3", "num_speculative_tokens": [1, 3], "acceptance": {"rate": 0.0}}
    hopeless = planned(drafter=[drafter])
    assert hopeless["recommendation"]["k"] == 0
    assert hopeless["recommendation"]["speculation_off_above"]["batch"] == 1
    assert {r["k"] for r in hopeless["schedule"]} == {0}
    assert hopeless["break_even"] == base["break_even"]


def test_without_evidence_break_even_is_all_and_nothing_is_recommended(base: dict[str, Any]) -> None:
    bare = planned(drafter=[{"method": "eagle3", "num_speculative_tokens": [1, 3]}])
    assert "declined" in bare["recommendation"]
    assert bare["schedule"] == []
    assert bare["break_even"] == base["break_even"]
    assert all(row["speedup"] is None for row in bare["grid"] if row["k"])
    assert any("no acceptance evidence" in line for line in bare["warnings"])


def test_no_price_no_cost_and_a_price_only_multiplies(base: dict[str, Any]) -> None:
    assert all("cost_per_million_output_tokens" not in row for row in base["capacity"])
    for row in planned(price={"gpu_hour": 2.5})["capacity"]:
        hours, cost = row["gpu_hours_per_million_output_tokens"], row["cost_per_million_output_tokens"]
        assert cost["value"] == pytest.approx(2.5 * hours["value"])


def test_no_slo_no_capacity_and_the_plan_says_so() -> None:
    loose = planned(slo=None)
    assert loose["capacity"] == []
    assert any("no SLO" in line for line in loose["warnings"])


def test_replicas_follow_the_asked_rate_and_capacity_does_not(base: dict[str, Any]) -> None:
    workload = {**BASE["workload"], "arrivals": {"kind": "poisson", "rate_per_s": 400.0}}
    busy = planned(workload=workload)
    for row in busy["capacity"]:
        assert row["replicas"] == math.ceil(400.0 / row["request_rate_per_s"]["value"])
    rates = [{r["k"]: r["request_rate_per_s"]["value"] for r in p["capacity"]} for p in (base, busy)]
    assert rates[0][0] == pytest.approx(rates[1][0])


@pytest.mark.parametrize("rate", [4.0, 60.0, 400.0])
def test_the_recommendation_is_for_the_load_of_one_of_the_replicas_that_are_bought(rate: float) -> None:
    """And its length is the one that the schedule has at that load, in a row that the reader finds."""
    workload = {**BASE["workload"], "arrivals": {"kind": "poisson", "rate_per_s": rate}}
    drafter = BASE["drafter"][0] | {"num_speculative_tokens": [1, 2, 3]}
    made = planned(workload=workload, drafter=[drafter], slo={"ttft_p95_ms": 400.0, "tpot_p95_ms": 12.0})
    advice, first = made["recommendation"], made["capacity"][0]
    assert (first["drafter"], first["k"]) == (advice["drafter"], advice["k"])
    assert advice["replicas"] == first["replicas"]
    assert advice["request_rate_per_s"] == pytest.approx(rate / first["replicas"])
    assert advice["request_rate_per_s"] <= first["request_rate_per_s"]["value"]
    (there,) = (
        row
        for row in made["schedule"]
        if row["context_tokens"] == advice["context_tokens"] and row["batch_min"] <= advice["batch"] <= row["batch_max"]
    )
    assert there["k"] == advice["k"]
    assert there["request_rate_min_per_s"] <= advice["request_rate_per_s"] * 1.2


def test_arrivals_in_the_schedule_only_rise_and_never_overlap(base: dict[str, Any]) -> None:
    own = base["recommendation"]["context_tokens"]
    rows = [r for r in base["schedule"] if r["context_tokens"] == own and "request_rate_min_per_s" in r]
    assert rows
    assert all(r["request_rate_min_per_s"] <= r["request_rate_max_per_s"] for r in rows)
    assert all(b["request_rate_min_per_s"] >= a["request_rate_max_per_s"] for a, b in pairwise(rows))


def test_the_answer_is_what_the_sentence_under_it_says(base: dict[str, Any]) -> None:
    advice = base["recommendation"]
    assert f"make it {advice['speedup']['value']:.2f}x" in advice["reason"]
    assert f"K={advice['k']} at batch {advice['batch']:.0f}:" in advice["reason"]


def test_every_drafter_has_a_row_and_the_recommended_one_is_the_first() -> None:
    ngram = {"method": "ngram", "num_speculative_tokens": [2], "acceptance": {"per_position": [0.3, 0.2]}}
    made = planned(drafter=[ngram, *BASE["drafter"]])
    rows, advice = made["recommendation"]["drafters"], made["recommendation"]
    assert {row["drafter"] for row in rows} == {"eagle3", "ngram", "none"}
    assert (rows[0]["drafter"], rows[0]["k"], rows[0]["speedup"]) == (advice["drafter"], advice["k"], advice["speedup"])
    assert rows[0]["seconds_per_output_token"] == min(row["seconds_per_output_token"] for row in rows)
    for row in rows:
        lengths = [
            r["k"]
            for r in made["schedule"]
            if (r["drafter"], r["context_tokens"]) == (row["drafter"], advice["context_tokens"])
            and r["batch_min"] <= row["batch"] <= r["batch_max"]
        ]
        assert lengths == ([] if row["k"] == 0 else [row["k"]])
    plain = next(row for row in rows if row["k"] == 0)
    assert plain["speedup"]["value"] == 1.0


def test_limits_that_no_rate_holds_are_shown_missed_by_requests_alone() -> None:
    made = planned(slo={"ttft_p95_ms": 1.0})
    for row in made["capacity"]:
        assert row["request_rate_per_s"]["value"] == 0.0
        (limit,) = row["alone"]
        assert (limit["name"], limit["limit_ms"], limit["holds"]) == ("TTFT p95", 1.0, False)
        assert limit["value_ms"] > 1.0


def test_a_context_that_cannot_be_is_one_line() -> None:
    with pytest.raises(InputError, match="ends at 131,072") as caught:
        planned(shown={"context_tokens": [200_000]})
    assert len(caught.value.lines) == 1
    with pytest.raises(InputError, match="no such request fits"):
        planned(shown={"context_tokens": [100_000]}, serving={**BASE["serving"], "num_gpu_blocks": 600})
    prompts = {**BASE["workload"], "prompt_tokens": {"kind": "fixed", "tokens": 150_000}}
    with pytest.raises(InputError, match=r"workload\.prompt_tokens: 150,0\d\d tokens of context"):
        planned(workload=prompts)


def test_one_note_for_all_lengths_of_which_the_same_is_to_be_said(base: dict[str, Any]) -> None:
    acceptance = {"length": 2.0, "at_k": 4}
    drafter = {"method": "eagle3", "num_speculative_tokens": [1, 2, 3, 4, 10], "acceptance": acceptance}
    notes = [line for line in planned(drafter=[drafter])["warnings"] if "i.i.d." in line]
    assert len(notes) == 2
    assert any(note.endswith("K = 1, 2, 3, 10 is extrapolated") for note in notes)


def test_the_gain_in_capacity_is_the_ratio_of_the_rates_and_errs_less_than_independent_rates(
    base: dict[str, Any],
) -> None:
    with_it, without = base["capacity"]
    gain, rates = with_it["rate_over_plain"], [row["request_rate_per_s"] for row in (with_it, without)]
    assert gain["value"] == pytest.approx(rates[0]["value"] / rates[1]["value"])
    assert "rate_over_plain" not in without
    widths = [math.log(e["high"] / e["low"]) for e in (gain, *rates)]
    assert widths[0] < math.hypot(*widths[1:])


def test_a_tighter_limit_never_sustains_more() -> None:
    rates = [
        planned(slo={"tpot_p95_ms": limit})["capacity"][-1]["request_rate_per_s"]["value"]
        for limit in (9.0, 12.0, 50.0)
    ]
    assert rates == sorted(rates)
    assert rates[0] < rates[-1]


def test_the_same_seed_gives_the_same_plan(base: dict[str, Any]) -> None:
    assert planned() == base


def test_a_closed_loop_is_planned_at_its_concurrency() -> None:
    workload = {**BASE["workload"], "arrivals": {"kind": "closed", "concurrency": 16}}
    loop = planned(workload=workload, slo=None)
    assert loop["recommendation"]["batch"] == 16
    assert {row["binding_constraint"] for row in loop["capacity"]} == {"the closed loop's concurrency"}
    assert not any("no SLO" in line for line in loop["warnings"])  # its users' rate needs none
    assert all("limits" not in row for row in loop["capacity"])


def test_a_closed_loop_gains_less_than_decoding_does_by_what_prefill_takes() -> None:
    """Users' rate: N / (rounds * round_s + N * prefill_s), so prefill dilutes the speedup; both are printed."""
    arrivals = {"kind": "closed", "concurrency": 16}
    workload = {**BASE["workload"], "arrivals": arrivals, "prompt_tokens": {"kind": "fixed", "tokens": 4096}}
    loop = planned(workload=workload)
    advice, row = loop["recommendation"], loop["capacity"][0]
    gain = row["rate_over_plain"]["value"]
    assert 1.0 < gain < advice["speedup"]["value"]
    assert advice["prefill_share"] > 0.2
    rates = [one["request_rate_per_s"]["value"] for one in loop["capacity"]]
    assert gain == pytest.approx(rates[0] / rates[1])
    longer = planned(workload=workload, simulation={"requests": 240, "replications": 5})["capacity"][0]
    assert rates[0] == pytest.approx(longer["request_rate_per_s"]["value"], rel=0.05)  # start and end are left out
    assert [limit["name"] for limit in row["limits"]] == ["TTFT p95", "TPOT p95"]


def test_a_trace_that_comes_all_at_once_is_planned_as_it_is(tmp_path: Path) -> None:
    trace = tmp_path / "burst.csv"
    trace.write_text("arrived_at,num_prefill_tokens,num_decode_tokens\n" + "0,512,64\n" * 8)
    burst = planned(workload={"arrivals": {"kind": "trace", "file": str(trace)}})
    assert {row["binding_constraint"] for row in burst["capacity"]} == {"all arrive at once"}
    assert all(row["request_rate_per_s"]["value"] > 0 for row in burst["capacity"])
    assert all(row["replicas"] is None for row in burst["capacity"])


def test_a_model_that_does_not_fit_is_one_line_with_the_arithmetic() -> None:
    target = {"model": "meta-llama/Llama-3.1-70B-Instruct", "hardware": "h100_sxm"}
    with pytest.raises(InputError, match="doesn't fit") as caught:
        planned(target=target, drafter=[{"method": "ngram", "num_speculative_tokens": 3}])
    assert len(caught.value.lines) == 1


def test_a_drafter_that_may_only_draft_nothing_is_refused() -> None:
    with pytest.raises(InputError, match="at least 1"):
        planned(drafter=[{"method": "eagle3", "num_speculative_tokens": [0]}])


def test_one_token_answers_have_no_tpot_to_limit() -> None:
    workload = {**BASE["workload"], "output_tokens": {"kind": "fixed", "tokens": 1}}
    rows = planned(workload=workload)["capacity"]
    assert all(row["request_rate_per_s"]["value"] > 0 for row in rows)
    assert all(row["binding_constraint"] in ("TTFT p95", "the engine's own throughput") for row in rows)


def test_plain_decoding_has_the_same_capacity_and_interval_whatever_it_is_compared_with(base: dict[str, Any]) -> None:
    alone = planned(drafter=None)
    assert "declined" in alone["recommendation"]
    assert alone["capacity"] == [row for row in base["capacity"] if row["k"] == 0]
