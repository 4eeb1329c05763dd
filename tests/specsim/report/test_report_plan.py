"""A plan as text: the answer first, every estimate with its interval, 100 columns, nothing invented."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from specsim.report.layout import console
from specsim.report.numbers import digits, written
from specsim.report.terminal import print_plan
from specsim.scenario import load_scenario

BATCHES, LENGTHS, CONTEXTS = (1, 2, 4, 8, 16, 32, 48, 64, 96, 128, 256), (0, 1, 2, 3, 4, 5, 6, 8), (1024, 8192)


def est(value: float, spread: float = 0.05) -> dict[str, float]:
    return {"value": value, "low": value * (1 - spread), "high": value * (1 + spread)}


def made_plan(*, evidence: bool = True, price: bool = True) -> dict[str, Any]:
    grid, break_even = [], []
    for drafter in ("eagle3", "ngram"):
        for context in CONTEXTS:
            for batch in BATCHES:
                plain = 8.0 + batch * context / 40_000
                for k in LENGTHS:
                    step = plain * (1 + 0.06 * k + 0.0004 * batch * k)
                    tokens = 1 + sum(0.7**i for i in range(1, k + 1))
                    grid.append(
                        {
                            "drafter": drafter,
                            "k": k,
                            "batch": batch,
                            "context_tokens": context,
                            "tokens_per_round": est(tokens) if evidence else None,
                            "step_ms": est(step),
                            "speedup": est(tokens * plain / step) if evidence else None,
                            "trust": "TRANSFERRED",
                        }
                    )
                    if k:
                        length = step / plain + (4 if batch == 256 and k == 1 else 0)
                        break_even.append(
                            {
                                "drafter": drafter,
                                "k": k,
                                "batch": batch,
                                "context_tokens": context,
                                "acceptance_length": est(length),
                                "possible": length <= k + 1,
                            }
                        )
    gain = {"value": 1.41, "low": 1.38, "high": 1.45}
    why = "K=3 at batch 32: a round takes 9.44 ms against 8.00 ms for a plain step (1.18x), most of it in drafting."
    capacity = [
        {
            "configuration": name,
            "drafter": name,
            "k": k,
            "request_rate_per_s": est(rate),
            "replicas": 1,
            "gpu_hours_per_million_output_tokens": est(0.4),
            "binding_constraint": "TPOT p95",
        }
        | ({"rate_over_plain": gain} if k else {})
        | ({"cost_per_million_output_tokens": est(1.0)} if price else {})
        for name, k, rate in (("eagle3, K=3", 3, 21.5), ("plain decoding", 0, 15.2))
    ]
    schedule = [
        {
            "drafter": "eagle3",
            "batch_min": low,
            "batch_max": high,
            "context_tokens": 1024,
            "k": k,
            "speedup": est(1.5),
            "why": why,
        }
        for low, high, k in ((1, 64, 4), (65, 128, 3), (129, 256, 0))
    ]
    recommendation = {
        "drafter": "eagle3",
        "k": 3,
        "batch": 48.0,
        "context_tokens": 1024.0,
        "request_rate_per_s": 10.0,
        "replicas": 2,
        "prefill_share": 0.3,
        "speedup": est(1.62),
        "tokens_per_round": est(2.4),
        "faster_than_plain": 0.97,
        "replica_stable": True,
        "drafters": [
            {
                "drafter": name,
                "k": k,
                "batch": 48.0,
                "seconds_per_output_token": 0.0123,
                "speedup": est(speedup),
                "largest_rate_per_s": 20.0,
            }
            for name, k, speedup in (("eagle3", 3, 1.62), ("ngram", 2, 1.2), ("none", 0, 1.0))
        ],
        "speculation_off_above": {"batch": 129.0, "request_rate_per_s": 21.0, "context_tokens": None},
        "considered_up_to": {"batch": 256.0, "context_tokens": 8192.0},
        "reason": why,
    }
    declined = {"declined": "there is no acceptance evidence; measure it"}
    return {
        "recommendation": recommendation if evidence else declined,
        "schedule": schedule if evidence else [],
        "grid": grid,
        "break_even": break_even,
        "capacity": capacity if evidence else [],
        "provenance": {
            "profile": "h100_sxm-vllm-bf16",
            "error": {"gemm": 0.043, "attention": 0.08},
            "borrowed": ["verify attention from decode attention (modelled, not measured)"],
            "assumed": ["serving.block_size = 16"],
            "seed": 0,
        },
        "warnings": ["a warning"],
    }


def text_of(plan: dict[str, Any], capsys: pytest.CaptureFixture[str]) -> str:
    console.cache_clear()
    print_plan(plan, load_scenario())
    return capsys.readouterr().out


def flat(text: str) -> str:
    return re.sub(r"\s+", " ", text)


def test_the_answer_comes_first(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(made_plan(), capsys)
    head = flat(text[: text.index("how much faster")])
    assert "Yes: eagle3 with num_speculative_tokens = 3." in head
    assert (
        "Decoding is 1.62 (1.54-1.70) times as fast as without at this load: 10.0 requests/s on each of 2 replicas,"
        " batch 48, 1,024 tokens of context; faster in 97 % of the plausible outcomes." in head
    )
    assert "Prefill, which it does not shorten, takes 30 % of a replica's time there." in head
    assert "Turn it off from 129 requests that decode at once (from 21.0 requests/s a replica)." in head
    assert "It still pays at the largest considered: at 8,192 tokens of context with this batch." in head


def test_drafters_stand_side_by_side_where_there_are_several(capsys: pytest.CaptureFixture[str]) -> None:
    plan = made_plan()
    text = text_of(plan, capsys)
    rows = [line.split() for line in text[text.index("Which drafter?") :].splitlines()[2:5]]
    assert [row[0] for row in rows] == ["eagle3", "ngram", "no"]
    assert rows[1][1:4] == ["2", "48", "12.3"]
    plan["recommendation"]["drafters"] = plan["recommendation"]["drafters"][::2]
    assert "Which drafter?" not in text_of(plan, capsys)


def test_acceptance_without_counts_is_said_beside_the_odds(capsys: pytest.CaptureFixture[str]) -> None:
    plan = made_plan()
    plan["recommendation"]["tokens_per_round"] = {"value": 2.0, "low": 2.0, "high": 2.0}
    assert "plausible outcomes, acceptance taken as exact for want of counts." in flat(text_of(plan, capsys))


def test_limits_that_are_held_missed_or_out_of_reach_are_said(capsys: pytest.CaptureFixture[str]) -> None:
    plan = made_plan()
    held = {"name": "TTFT p95", "limit_ms": 1000.0, "value_ms": 542.0, "holds": True}
    missed = {"name": "TPOT p95", "limit_ms": 30.0, "value_ms": 31.5, "holds": False}
    plan["capacity"][0] |= {"limits": [held, missed]}
    text = flat(text_of(plan, capsys))
    assert "eagle3, K=3: TTFT p95 542 ms (limit 1,000), TPOT p95 31.5 ms (limit 30.0): MISSED." in text
    assert "No rate holds" not in text
    plan["capacity"][0] = {**made_plan()["capacity"][0], "alone": [held, missed]}
    text = flat(text_of(plan, capsys))
    assert "No rate holds the SLO, with or without: see the capacity below." in text
    assert "TPOT p95 31.5 ms (limit 30.0) even where requests come one at a time: no rate holds the SLO." in text
    assert "TTFT p95 542" not in text


def test_tables_at_another_context_than_the_loads_say_so(capsys: pytest.CaptureFixture[str]) -> None:
    plan = made_plan()
    assert "load's own" not in text_of(plan, capsys)
    plan["recommendation"]["context_tokens"] = 1000.0
    assert "are for the load's own 1,000 tokens of context; the other tables for the 1,024 asked for" in flat(
        text_of(plan, capsys)
    )
    plan["grid"] = [row for row in plan["grid"] if row["batch"] < 256 or row["context_tokens"] != 1024]
    assert "From batch 256 on, 1,024 tokens of context each do not fit the cache." in flat(text_of(plan, capsys))


def test_a_piped_report_is_plain_and_fits_100_columns(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(made_plan(), capsys)
    assert "\x1b" not in text
    assert max(map(len, text.splitlines())) <= 100
    assert not [line for line in text.splitlines() if line != line.rstrip()]


def test_the_table_shows_speedups_with_intervals_and_marks_the_length_to_use(
    capsys: pytest.CaptureFixture[str],
) -> None:
    text = text_of(made_plan(), capsys)
    table = text[text.index("eagle3: how much faster") : text.index("ngram: how much faster")]
    lines = table.splitlines()
    row = next(i for i, line in enumerate(lines) if line.startswith("batch 1 "))
    wanted = next(r["speedup"] for r in made_plan()["grid"] if (r["drafter"], r["batch"], r["k"]) == ("eagle3", 1, 4))
    assert f"{wanted['value']:.2f}*" in lines[row]
    assert f"{wanted['low']:.2f}-{wanted['high']:.2f}" in lines[row + 1]
    assert lines[row].count("*") == 1
    off = next(line for line in lines if line.startswith("batch 256"))
    assert "*" not in off
    assert "1,024 tokens of context" in table


def test_every_section_asks_a_question(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(made_plan(), capsys)
    for question in (
        "Should speculation be on, and how far should it draft?",
        "which draft length at which load?",
        "how long does a round take, in ms?",
        "from which acceptance length does it pay?",
        "How many GPUs does the load take?",
        "Where do the numbers come from?",
        "What should you know before you use this?",
    ):
        assert question in text
    assert "TPOT: time per output token after the first" in flat(text)
    assert "bonus token counted" in flat(text)


def test_without_evidence_there_is_break_even_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(made_plan(evidence=False), capsys)
    assert "No recommendation: there is no acceptance evidence; measure it." in text
    assert "from which acceptance length does it pay?" in text
    assert "how much faster" not in text
    assert "How many GPUs" not in text
    assert "Yes:" not in text


def test_the_gain_in_capacity_is_said_with_its_own_interval(capsys: pytest.CaptureFixture[str]) -> None:
    assert "eagle3, K=3 sustains 1.41 (1.38-1.45) times the rate of no speculation." in text_of(made_plan(), capsys)


def test_without_a_price_there_is_no_cost(capsys: pytest.CaptureFixture[str]) -> None:
    assert "cost/M tokens" in text_of(made_plan(), capsys)
    without = text_of(made_plan(price=False), capsys)
    assert "cost" not in without.lower()


def test_a_length_that_cannot_pay_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    text = text_of(made_plan(), capsys)
    assert "no drafter can make it pay there" in flat(text)
    assert re.search(r"batch 256 +\S+!", text)


def test_turning_it_off_is_an_answer_too(capsys: pytest.CaptureFixture[str]) -> None:
    plan = made_plan()
    plan["recommendation"] |= {"k": 0, "drafter": "none", "faster_than_plain": None}
    assert "No: leave speculation off at this load." in text_of(plan, capsys)


def test_the_row_of_the_load_is_shown_and_so_are_batches_that_were_asked_for(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert "batch 48 " in text_of(made_plan(), capsys)
    loaded = load_scenario()
    shown = loaded.scenario.shown.model_copy(update={"batch_sizes": (2, 96)})
    console.cache_clear()
    print_plan(made_plan(), replace(loaded, scenario=replace(loaded.scenario, shown=shown)))
    table = capsys.readouterr().out
    assert set(re.findall(r"^batch (\d+) ", table, re.MULTILINE)) == {"2", "96"}


def test_a_narrow_table_keeps_the_lengths_that_the_schedule_uses(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("specsim.report.layout.WIDTH", 70)
    text = text_of(made_plan(), capsys)
    table = text[text.index("eagle3: how much faster") : text.index("eagle3: which draft length")]
    assert max(map(len, text.splitlines())) <= 70
    assert {"K=3", "K=4", "K=8"} <= set(re.findall(r"K=\d", table)) < {f"K={k}" for k in LENGTHS}
    assert table.count("*") == len(re.findall(r"^batch ", table, re.MULTILINE)) - 1 + 1  # all but batch 256; the note


def test_numbers_have_three_digits() -> None:
    cases = {0.0: "0.00", 0.01234: "0.0123", 1.617: "1.62", 48.53: "48.5", 212.6: "213", 21_349.0: "21,300"}
    assert {value: digits(value) for value in cases} == cases
    assert written({"value": 2.0, "low": 2.0, "high": 2.0}, "ms") == "2.00 ms"
    assert written(None) == "-"
