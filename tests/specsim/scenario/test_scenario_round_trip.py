"""A resolved scenario is a scenario: writing it and reading it gives the same one."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.scenario import Scenario, load_scenario
from specsim.scenario.resolve import traffic_of

GOOD = (Path(__file__).parent / "good.toml").read_text()


def test_the_example_round_trips_through_toml_json_and_plain_values(tmp_path: Path) -> None:
    scenario = load_scenario().scenario
    assert Scenario.from_dict(scenario.to_dict()) == scenario
    (tmp_path / "resolved.toml").write_text(scenario.to_toml())
    assert load_scenario(tmp_path / "resolved.toml").scenario == scenario
    (tmp_path / "resolved.json").write_text(json.dumps(scenario.to_dict()))
    assert load_scenario(tmp_path / "resolved.json").scenario == scenario


shares = st.floats(0, 1)
spread = st.one_of(st.none(), st.floats(0, 4))


@given(
    rates=st.lists(shares, min_size=1, max_size=8),
    sd=spread,
    lengths=st.lists(st.integers(0, 16), min_size=1, max_size=6),
    mean=st.floats(1, 1e5),
    cv=st.floats(0, 20),
    rate=st.floats(1e-6, 1e6),
    name=st.text(min_size=1, max_size=20),
)
def test_any_scenario_round_trips(
    rates: list[float], sd: float | None, lengths: list[int], mean: float, cv: float, rate: float, name: str
) -> None:
    document = tomllib.loads(GOOD)
    document["acceptance"] = {"per_position": rates} | ({} if sd is None else {"between_requests_sd": sd})
    document["drafter"] |= {"num_speculative_tokens": lengths, "name": name}
    document["workload"]["prompt_tokens"] |= {"mean": mean, "cv": cv}
    document["workload"]["arrivals"]["rate_per_s"] = rate
    scenario = Scenario.from_dict(document)
    text = scenario.to_toml()
    assert Scenario.from_dict(tomllib.loads(text)) == scenario


def test_resolving_twice_changes_nothing() -> None:
    scenario = load_scenario().scenario
    assert Scenario.from_dict(tomllib.loads(scenario.to_toml())).to_toml() == scenario.to_toml()


def test_relative_paths_count_from_the_file(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "config.json").write_text(
        json.dumps(
            {
                "model_type": "llama",
                "architectures": ["LlamaForCausalLM"],
                "hidden_size": 2048,
                "num_hidden_layers": 16,
                "num_attention_heads": 32,
                "num_key_value_heads": 8,
                "intermediate_size": 8192,
                "vocab_size": 128256,
            }
        )
    )
    file = tmp_path / "deep" / "my.toml"
    file.write_text(GOOD.replace("meta-llama/Llama-3.1-8B", "../config.json"))
    assert load_scenario(file).scenario.target.model == str((tmp_path / "config.json").resolve())


def test_what_was_left_to_a_default_is_listed() -> None:
    document = tomllib.loads(GOOD)
    del document["serving"]["gpu_memory_utilization"]
    del document["target"]["dtype"]
    assumed = Scenario.from_dict(document).assumed
    assert "serving.gpu_memory_utilization = 0.9" in assumed
    assert 'target.dtype = "bf16"' in assumed
    assert not any("max_num_seqs" in line for line in assumed)
    assert Scenario.from_dict(tomllib.loads(GOOD) | {"simulation": {"seed": 1}}).assumed == (
        'target.kv_dtype = "bf16"',
        "serving.block_size = 16",
        "simulation.requests = 2000",
        "simulation.replications = 5",
    )


@pytest.mark.data
def test_the_lengths_of_the_example_are_those_of_the_trace(shared_data: Path) -> None:
    workload = load_scenario().scenario.workload
    assert workload is not None
    trace = np.loadtxt(shared_data / "traces" / "splitwise_conv.csv", delimiter=",", skiprows=1)
    assert len(trace) == 19_366
    made = traffic_of(workload)
    for column, law, mean in (
        (1, workload.prompt_tokens, made.mean_prompt_tokens),
        (2, workload.output_tokens, made.mean_output_tokens),
    ):
        assert law is not None
        assert law.kind == "quantiles"
        assert tuple(np.quantile(trace[:, column], law.levels, method="inverted_cdf").astype(int)) == law.tokens
        assert mean == pytest.approx(trace[:, column].mean(), rel=0.01)
