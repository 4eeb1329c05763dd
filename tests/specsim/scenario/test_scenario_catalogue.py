"""What the schema allows is what the rooms offer, so that nothing valid is refused and nothing accepted is unused."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from specsim.cost.drafter import METHODS
from specsim.cost.engine import engine_names
from specsim.cost.law import ARITHMETIC
from specsim.cost.memory import cache_memory
from specsim.cost.profile import FILES, profile_names
from specsim.errors import InputError
from specsim.scenario import Overrides, Scenario, load_scenario
from specsim.scenario.drafters import Method
from specsim.scenario.resolve import acceptance_process, acceptance_source, shipped_acceptance, traffic_of
from specsim.scenario.sections import Engine, Target

GOOD = (Path(__file__).parent / "good.toml").read_text()


def test_the_schema_offers_what_the_rooms_have() -> None:
    assert set(get_args(Engine)) == set(engine_names())
    assert set(get_args(Method)) == set(METHODS)
    dtypes = get_args(Target.model_fields["dtype"].annotation)
    measured_only = {"fp32"}  # of processors: no such profile ships
    shipped = {FILES.get(dtype, dtype) for dtype in dtypes} - measured_only
    assert {name.split("-")[2] for name in profile_names()} == shipped
    assert set(dtypes) <= set(ARITHMETIC)


@pytest.mark.parametrize(
    "evidence",
    [
        "rate = 0.7",
        "per_position = [0.7, 0.6]",
        "survival = [0.7, 0.4]",
        "length = 2.3\nat_k = 3",
        'shipped = "llama31_8b"\nmethod = "eagle3"\ndataset = "cnn"',
        "rate = 0.7\nbetween_requests_sd = 0.4\nwithin_requests_sd = 0.3\nround_correlation = 0.5",
    ],
)
def test_every_kind_of_evidence_makes_a_process(tmp_path: Path, evidence: str) -> None:
    (tmp_path / "my.toml").write_text(GOOD.replace("per_position = [0.70, 0.66, 0.64]", evidence))
    (drafter,) = load_scenario(tmp_path / "my.toml").scenario.drafters
    process = acceptance_process(drafter)
    assert process is not None
    survival = process.survival(2)
    assert 0 < survival[1] <= survival[0] < 1
    if "length" in evidence:
        assert 1 + process.survival(3).sum() == pytest.approx(2.3)
    assert acceptance_source(drafter)


def test_the_example_uses_evidence_that_ships_with_its_source() -> None:
    for drafter in load_scenario().scenario.drafters:
        assert drafter.acceptance is not None
        assert drafter.acceptance.shipped in shipped_acceptance()
        assert "arXiv 2601.11580" in str(acceptance_source(drafter))


def test_a_trace_brings_its_own_lengths_unless_others_are_given(tmp_path: Path) -> None:
    (tmp_path / "trace.csv").write_text(
        "arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,100,10\n1.0,300,30\n3.0,200,20\n"
    )
    head, tail = GOOD.split("[workload]")
    rest = tail.split("[serving]")[1]
    text = head + '[workload]\narrivals = { kind = "trace", file = "trace.csv" }\n\n[serving]' + rest
    (tmp_path / "my.toml").write_text(text)
    workload = load_scenario(tmp_path / "my.toml").scenario.workload
    assert workload is not None
    assert traffic_of(workload).mean_prompt_tokens == 200
    assert traffic_of(workload).mean_output_tokens == 20
    (tmp_path / "my.toml").write_text(text.replace("gpu_memory_utilization = 0.9", "num_gpu_blocks = 21"))
    with pytest.raises(InputError, match="a request of 300 prompt and 30 output tokens needs more"):
        load_scenario(tmp_path / "my.toml")
    given = text.replace('"trace.csv" }', '"trace.csv" }\noutput_tokens = { kind = "fixed", tokens = 7 }')
    (tmp_path / "my.toml").write_text(given)
    replaced = load_scenario(tmp_path / "my.toml", Overrides(request_rate=2.0)).scenario.workload
    assert replaced is not None
    assert replaced.arrivals.rate_per_s == 2.0
    assert traffic_of(replaced).mean_output_tokens == 7


def test_the_longest_drafter_decides_whether_a_request_fits() -> None:
    """A cache that just holds the longest request without drafting is too small with it."""
    scenario = load_scenario().scenario.to_dict()
    scenario["workload"]["prompt_tokens"] = {"kind": "fixed", "tokens": 150}
    scenario["workload"]["output_tokens"] = {"kind": "fixed", "tokens": 10}
    scenario["serving"] = {"num_gpu_blocks": 11}
    scenario["drafter"] = []
    Scenario.from_dict(scenario)
    scenario["drafter"] = [{"method": "eagle3", "num_speculative_tokens": [1, 3]}]
    with pytest.raises(InputError, match=r"serving: the cache holds 160 tokens \(11 blocks of 16, one kept free\)"):
        Scenario.from_dict(scenario)


def test_the_example_fits_its_memory() -> None:
    from specsim.cost.hardware import load_hardware
    from specsim.cost.model import load_model

    target = load_scenario().scenario.target
    memory = cache_memory(load_model(target.model), hardware=load_hardware(target.hardware), dtype=target.dtype)
    assert memory.cache_tokens > 100_000
