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


def simulated(capsys: pytest.CaptureFixture[str], tmp_path: Path, *more: str) -> tuple[str, dict[str, object]]:
    status, out, err = run(capsys, "simulate", str(tmp_path / "my.toml"), "--out", str(tmp_path / "out"), *more)
    assert (status, err) == (0, "")
    return out, json.loads((tmp_path / "out" / "summary.json").read_text())


def test_a_load_that_one_replica_cannot_serve_is_said_first(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(SMALL.replace("requests = 20", "requests = 400"))
    flags = ("--request-rate", "4000", "--slo-ttft-ms", "100")
    out, summary = simulated(capsys, tmp_path, *flags)
    first = " ".join(out.split("What do users feel?")[0].split())
    assert "One replica takes all 4000 requests/s. Requests pile up until the runs end" in first
    assert "The SLO does not hold: TTFT p95 is" in first
    assert "`specsim plan` says how many replicas the load takes; --replicas N" in first
    assert summary["load_grows"]
    assert len(summary["warnings"]) == 3  # type: ignore[arg-type]
    out, summary = simulated(capsys, tmp_path, *flags, "--replicas", "1000")
    assert out.splitlines()[1:3] == [
        "One of 1000 replicas takes 4 of 4000 requests/s.",
        "Every limit of the SLO holds.",
    ]
    assert not summary["warnings"]
    assert not summary["load_grows"]


def test_a_loops_first_requests_are_not_its_steady_state(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    text = SMALL.replace('kind = "poisson", rate_per_s = 4.0', 'kind = "closed", concurrency = 6')
    (tmp_path / "my.toml").write_text(text.replace("requests = 20", "requests = 60"))
    out, summary = simulated(capsys, tmp_path)
    assert "One replica serves 6 users in a closed loop." in out
    assert summary["warm_up_requests"] == summary["cool_down_requests"] == [6] * 5
    assert "30 left out as warm-up (users' first, which arrive at once) and 30 at the end" in " ".join(out.split())


def test_what_a_draft_model_is_stored_in_and_cut_over_is_among_what_was_assumed(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "my.toml").write_text(SMALL)
    flags = ("--drafter", "meta-llama/Llama-3.2-1B", "--acceptance-rate", "0.7", "--dtype", "fp8")
    out, _ = simulated(capsys, tmp_path, *flags, "--tensor-parallel", "2")
    line = "draft_model:meta-llama/Llama-3.2-1B: weights in fp8 as the target's, cut over the target's 2 GPUs"
    assert line in " ".join(out.split())
    assert line in json.loads((tmp_path / "out" / "provenance.json").read_text())["assumed"]


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


WRITERS = {
    "acceptance": ["acceptance", "metrics.txt"],
    "compare": ["compare", "my.toml", "--systems", "eagle3", "--concurrency", "1"],
    "simulate": ["simulate", "my.toml"],
    "reproduce": ["reproduce", "chen"],
    "calibrate": ["calibrate", "--device", "cpu"],
}


REFUSED = [(name, place) for name in WRITERS for place in ("taken/a.json", "/proc/a.json")]
REFUSED.remove(("calibrate", "/proc/a.json"))  # a root user is refused only when the samples are written


@pytest.mark.parametrize(("command", "place"), REFUSED)
def test_a_place_that_cannot_be_written_is_the_users_mistake(
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: str,
    place: str,
) -> None:
    (tmp_path / "my.toml").write_text(SMALL)
    (tmp_path / "metrics.txt").write_text(SCRAPE)
    (tmp_path / "taken").write_text("x")
    monkeypatch.chdir(tmp_path)
    status, out, err = run(capsys, *WRITERS[command], "--out", place)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("error: ")
    assert place in err


def test_acceptance_makes_the_folders_on_the_way(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "metrics.txt").write_text(SCRAPE)
    place = tmp_path / "new" / "er" / "acc.json"
    assert run(capsys, "acceptance", str(tmp_path / "metrics.txt"), "--out", str(place))[0] == 0
    assert place.is_file()


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
