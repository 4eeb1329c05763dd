"""What commands print for programs and write: requests, summaries, provenance, acceptance, lists and plans."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from called import GOOD, SMALL, run


def test_simulate_writes_requests_summary_scenario_and_provenance(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    from specsim.scenario import load_scenario

    (tmp_path / "my.toml").write_text(SMALL)
    status, out, err = run(capsys, "simulate", str(tmp_path / "my.toml"), "--out", str(tmp_path / "out"), "--json")
    assert (status, err) == (0, "")
    summary = json.loads(out)
    assert summary["runs"] == 5
    assert summary["ttft_s"]["p99"]["low"] <= summary["ttft_s"]["p99"]["value"] <= summary["ttft_s"]["p99"]["high"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    rows = pq.read_table(tmp_path / "out" / "requests.parquet")
    assert rows.num_rows == 100
    assert set(rows["output_tokens"].to_pylist()) == {16}
    resolved = load_scenario(tmp_path / "out" / "scenario.toml").scenario
    assert resolved == load_scenario(tmp_path / "my.toml").scenario
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["configuration"] == {"drafter": "eagle3", "num_speculative_tokens": 3}
    assert provenance["seed"] == 0
    assert len(provenance["profile_sha256"]) == 64


def test_simulating_a_resolved_scenario_again_gives_the_same_requests(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "my.toml").write_text(SMALL)
    assert run(capsys, "simulate", str(tmp_path / "my.toml"), "--out", str(tmp_path / "a"))[0] == 0
    assert run(capsys, "simulate", str(tmp_path / "a" / "scenario.toml"), "--out", str(tmp_path / "b"))[0] == 0
    first, second = (pq.read_table(tmp_path / name / "requests.parquet") for name in ("a", "b"))
    assert first.equals(second)


def test_what_ships_is_listed_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    from specsim.cost.hardware import hardware_names
    from specsim.cost.model import model_names

    status, out, _ = run(capsys, "models")
    assert status == 0
    assert all(name in out for name in model_names())
    models = json.loads(run(capsys, "models", "--json")[1])
    assert [row["model"] for row in models["models"]] == list(model_names())
    assert {row["method"] for row in models["acceptance"]} == {"eagle3", "ngram"}
    hardware = json.loads(run(capsys, "hardware", "--json")[1])["hardware"]
    assert [row["hardware"] for row in hardware] == list(hardware_names())
    assert all(name in run(capsys, "hardware")[1] for name in hardware_names())


SCRAPE = """# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 1000.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 2000.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 1100.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 700.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 400.0
"""


def test_acceptance_writes_what_a_scenario_can_point_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from specsim.scenario import load_scenario
    from specsim.scenario.resolve import acceptance_process

    (tmp_path / "metrics.txt").write_text(SCRAPE)
    status, out, err = run(capsys, "acceptance", str(tmp_path / "metrics.txt"), "--out", str(tmp_path / "acc.json"))
    assert (status, err) == (0, "")
    assert "2.1" in out
    (tmp_path / "my.toml").write_text(GOOD.replace("per_position = [0.70, 0.66, 0.64]", 'file = "acc.json"'))
    process = acceptance_process(load_scenario(tmp_path / "my.toml").scenario.drafters[0])
    assert process is not None
    assert process.survival(2).tolist() == pytest.approx([0.7, 0.4])
    document = json.loads(run(capsys, "acceptance", str(tmp_path / "metrics.txt"), "--json")[1])
    assert document == json.loads((tmp_path / "acc.json").read_text())


def estimates(table: object) -> Iterator[dict[str, float]]:
    if isinstance(table, dict):
        if "value" in table:
            yield table
        else:
            for inner in table.values():
                yield from estimates(inner)
    elif isinstance(table, list):
        for inner in table:
            yield from estimates(inner)


def test_a_plan_for_programs_has_its_keys_and_every_estimate_its_interval(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "my.toml").write_text(SMALL)
    status, out, err = run(capsys, "plan", str(tmp_path / "my.toml"), "--json")
    assert (status, err) == (0, "")
    plan = json.loads(out)
    tables = ["recommendation", "schedule", "grid", "break_even", "capacity", "provenance", "warnings"]
    assert list(plan) == tables
    found = list(estimates(plan))
    assert len(found) > 100
    assert all(set(one) == {"value", "low", "high"} and one["low"] <= one["value"] <= one["high"] for one in found)


def test_what_a_flag_took_away_is_among_the_warnings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(SMALL)
    status, out, err = run(capsys, "plan", str(tmp_path / "my.toml"), "--target", "Qwen/Qwen3-8B", "--json")
    assert (status, err) == (0, "")
    plan = json.loads(out)
    assert "declined" in plan["recommendation"]
    assert "was measured with meta-llama/Llama-3.1-8B" in plan["warnings"][0]
    assert {row["k"] for row in plan["capacity"]} == {0}
    assert plan["break_even"]
