"""Flags override the file, contradictions are refused, and what no longer applies is left out and said."""

from __future__ import annotations

from pathlib import Path

import pytest

from specsim.errors import InputError
from specsim.scenario import Overrides, Scenario, load_scenario
from specsim.scenario.overrides import numbers, whole_numbers

GOOD = (Path(__file__).parent / "good.toml").read_text()


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "my.toml"
    path.write_text(GOOD)
    return path


def under(file: Path, **flags: object) -> Scenario:
    return load_scenario(file, Overrides(**flags)).scenario  # type: ignore[arg-type]


def problem(file: Path | None, **flags: object) -> tuple[str, ...]:
    with pytest.raises(InputError) as caught:
        load_scenario(file, Overrides(**flags))  # type: ignore[arg-type]
    return caught.value.lines


def test_no_flag_changes_nothing(file: Path) -> None:
    assert under(file) == load_scenario(file).scenario


def test_flags_replace_the_fields_that_they_name(file: Path) -> None:
    scenario = under(
        file, hardware="h200_sxm", tensor_parallel=2, request_rate=9.5, price_gpu_hour=4.0, seed=7, context=(1024, 8192)
    )
    assert scenario.target.hardware == "h200_sxm"
    assert scenario.target.tensor_parallel == 2
    assert scenario.workload is not None
    assert scenario.workload.arrivals.rate_per_s == 9.5
    assert scenario.price is not None
    assert scenario.price.gpu_hour == 4.0
    assert scenario.simulation.seed == 7
    assert scenario.shown.context_tokens == (1024, 8192)
    assert scenario.drafters == load_scenario(file).scenario.drafters


def test_a_latency_flag_replaces_every_limit_of_its_quantity(file: Path) -> None:
    file.write_text(GOOD.replace("ttft_p95_ms = 2000", "ttft_p99_ms = 2000\nttft_p50_ms = 500"))
    slo = under(file, slo_ttft_ms=300.0).slo
    assert slo is not None
    assert slo.limits == (("ttft", 0.95, 0.3), ("tpot", 0.95, 0.05))


def test_a_rate_takes_the_place_of_a_closed_loop(file: Path) -> None:
    file.write_text(GOOD.replace('kind = "poisson", rate_per_s = 4.0', 'kind = "closed", concurrency = 8'))
    workload = under(file, request_rate=3.0).workload
    assert workload is not None
    assert workload.arrivals.table() == {"kind": "poisson", "rate_per_s": 3.0}


def test_acceptance_flags_replace_the_whole_table(file: Path) -> None:
    file.write_text(GOOD.replace("[0.70, 0.66, 0.64]", "[0.70, 0.66, 0.64]\nbetween_requests_sd = 0.35"))
    evidence = under(file, acceptance_rate=0.8).drafters[0].acceptance
    assert evidence is not None
    assert evidence.table() == {"rate": 0.8}


def test_an_acceptance_length_belongs_to_the_one_draft_length(file: Path) -> None:
    (drafter,) = under(file, acceptance_length=2.4, num_speculative_tokens=(3,)).drafters
    assert drafter.acceptance is not None
    assert drafter.acceptance.table() == {"length": 2.4, "at_k": 3}
    (line,) = problem(file, acceptance_length=2.4)
    assert line.startswith("--acceptance-length: belongs to one draft length, and the scenario considers 1, 2, 3;")


def test_two_kinds_of_acceptance_flags_are_refused(file: Path) -> None:
    (line,) = problem(file, acceptance_length=2.4, acceptance_rate=0.7)
    assert line == "--acceptance-rate: contradicts --acceptance-length; give one kind of acceptance"


def test_acceptance_flags_need_one_drafter() -> None:
    (line,) = problem(None, acceptance_rate=0.7)
    assert line.startswith("--acceptance-rate: is about one drafter, and there are 2 (eagle3, ngram); choose one")
    (drafter,) = load_scenario(None, Overrides(acceptance_rate=0.7, drafter=("ngram",))).scenario.drafters
    assert drafter.method == "ngram"
    assert drafter.acceptance is not None
    assert drafter.acceptance.table() == {"rate": 0.7}


def test_a_mistake_in_a_flag_names_the_flag_and_not_the_file(file: Path) -> None:
    for flags, start in (
        ({"acceptance_rate": 70.0}, "--acceptance-rate: 70.0 must be a share between 0 and 1; did you mean 0.7?"),
        ({"tensor_parallel": 0}, "--tensor-parallel: 0 must be at least 1"),
        ({"hardware": "h100"}, "--hardware: no GPU 'h100'; did you mean"),
        ({"target": "llama-9"}, "--target: no model 'llama-9' ships"),
        ({"drafter": ("egle3",)}, '--drafter: "egle3" must be one of'),
        ({"dtype": "fp4"}, '--dtype: "fp4" must be one of bf16, fp8'),
        ({"request_rate": float("nan")}, "--request-rate: nan must be a finite number"),
        ({"num_speculative_tokens": (-1,)}, "--num-speculative-tokens: -1 must be at least 0"),
        ({"slo_tpot_ms": 0.05}, "--slo-tpot-ms: 0.05 must be at least 0.1"),
        ({"acceptance_per_position": (0.7, 1.7)}, "--acceptance-per-position: 1.7 must be"),
    ):
        (line,) = problem(file, **flags)
        assert line.startswith(start), line


def test_choosing_a_drafter_of_the_file_keeps_its_evidence() -> None:
    (drafter,) = load_scenario(None, Overrides(drafter=("eagle3",))).scenario.drafters
    assert drafter == load_scenario().scenario.drafters[0]


def test_another_drafter_takes_lengths_but_no_evidence(file: Path) -> None:
    (drafter,) = under(file, drafter=("ngram",)).drafters
    assert drafter.method == "ngram"
    assert drafter.acceptance is None
    assert drafter.num_speculative_tokens == (0, 1, 2, 3)
    (model,) = under(file, drafter=("meta-llama/Llama-3.2-1B",)).drafters
    assert (model.method, model.model) == ("draft_model", "meta-llama/Llama-3.2-1B")
    (again,) = under(file, drafter=("draft_model:meta-llama/Llama-3.2-1B",)).drafters
    assert again == model


def test_another_target_drops_the_evidence_and_says_so(file: Path) -> None:
    loaded = load_scenario(file, Overrides(target="Qwen/Qwen3-8B"))
    assert loaded.scenario.drafters[0].acceptance is None
    assert len(loaded.notes) == 1
    assert "was measured with meta-llama/Llama-3.1-8B and is left out" in loaded.notes[0]
    kept = load_scenario(file, Overrides(target="Qwen/Qwen3-8B", acceptance_rate=0.6))
    assert kept.scenario.drafters[0].acceptance is not None


def test_lists_are_read_as_people_write_them() -> None:
    assert whole_numbers("3", "context") == (3,)
    assert whole_numbers("0,1, 4-6", "context") == (0, 1, 4, 5, 6)
    assert numbers("0.7, .66,1", "acceptance_per_position") == (0.7, 0.66, 1.0)
    for wrong in ("", "a", "3-1", "1-2-3", "1..3", "1-5000", "1,"):
        with pytest.raises(InputError, match="--num-speculative-tokens"):
            whole_numbers(wrong, "num_speculative_tokens")
    with pytest.raises(InputError, match="--acceptance-per-position"):
        numbers("0.7;0.6", "acceptance_per_position")


def test_paths_in_flags_count_from_where_the_command_runs(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from specsim.acceptance.acceptance_file import shipped_evidence, write_evidence

    elsewhere = file.parent / "elsewhere"
    elsewhere.mkdir()
    write_evidence(elsewhere / "mine.json", shipped_evidence(method="eagle3"))
    monkeypatch.chdir(elsewhere)
    evidence = under(file, acceptance_file="mine.json").drafters[0].acceptance
    assert evidence is not None
    assert evidence.table() == {"file": str((elsewhere / "mine.json").resolve())}
