from __future__ import annotations

import copy
import hashlib
import json
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from specsim.cost.engine import engine_names, load_engine
from specsim.cost.hardware import hardware_names, load_hardware
from specsim.cost.intervals import FAMILIES, draw_uniforms, residual_quantiles, sample_seconds
from specsim.cost.law import gemm_work
from specsim.cost.profile import load_profile, profile_names, read_profile
from specsim.cost.shapes import Attention, ForwardShape, Linear, Segment, StepShape, StepTime, Term, Trust
from specsim.cost.step import StepCost
from specsim.errors import InputError

FOLDER = resources.files("specsim.cost").joinpath("profiles")


def document(name: str = "a100_sxm-vllm-bf16") -> dict[str, Any]:
    return json.loads(FOLDER.joinpath(f"{name}.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_that_ships_loads_and_stays_within_physics_and_size(name: str) -> None:
    gpu, engine, dtype = name.split("-")
    profile = load_profile(gpu, engine=engine, dtype=dtype)
    content = FOLDER.joinpath(f"{name}.json").read_bytes()
    assert profile.name == name
    assert profile.sha256 == hashlib.sha256(content).hexdigest()
    assert len(content) < 400_000
    assert profile.provenance["licence"] == "Apache-2.0"
    assert {"gemm", "attention", "prefill", "verify", "collectives", "elementwise", "host"} <= set(profile.residuals)
    assert profile.low_trust == (gpu == "l40s" or name.startswith("a100_sxm-trtllm"))
    for law in [t.law for t in profile.gemm.values()]:
        assert law.bandwidth_bytes_per_s <= profile.hardware.memory_bandwidth_bytes_per_s * 1.001


def test_shipped_gpus_and_engines_are_all_profiled_in_16_bits() -> None:
    for gpu in hardware_names():
        for engine in engine_names():
            assert f"{gpu}-{engine}-bf16" in profile_names()


def test_measured_points_of_a_shipped_table_are_returned_as_they_are() -> None:
    stored = document()["gemm"]["bf16"]
    table = load_profile("a100_sxm", engine="vllm", dtype="bf16").gemm["bf16"]
    for i in range(0, len(stored["shapes"]), 40):
        seconds, trust = table.curve(*stored["shapes"][i])
        assert trust is Trust.MEASURED
        np.testing.assert_allclose(seconds * 1e6, np.array(stored["latency_us"][i], dtype=float), rtol=1e-9)


def test_precisions_that_share_a_file_are_found_in_it() -> None:
    assert load_profile("h100_sxm", engine="vllm", dtype="fp8_static").dtype == "fp8"
    assert load_profile("h100_sxm", engine="vllm", dtype="mxfp4").dtype == "bf16"


def test_static_scales_cost_less_than_dynamic_ones_and_no_less_than_physics() -> None:
    profile = load_profile("h100_sxm", engine="trtllm", dtype="fp8")
    dynamic, static = (profile.gemm[d].curve(8192, 8192)[0] for d in ("fp8", "fp8_static"))
    assert (static < dynamic).all()
    rows = profile.gemm["fp8"].rows
    moved, flops = gemm_work(rows, 8192, 8192, "fp8")
    assert (static >= np.maximum(moved / 3.35e12, flops / 1.978e15)).all()


def broken(change: str) -> bytes:
    data = document()
    gemm = data["gemm"]["bf16"]
    if change == "newer":
        data["schema"] = 99
    elif change == "older":
        data["schema"] = 0
    elif change == "no schema":
        del data["schema"]
    elif change == "milliseconds":
        gemm["latency_us"] = [[None if t is None else t / 1000 for t in row] for row in gemm["latency_us"]]
    elif change == "negative":
        gemm["latency_us"][0][0] = -1.0
    elif change == "no attention":
        del data["attention"]
    elif change == "ragged":
        gemm["latency_us"][3] = [1.0]
    elif change == "gpu":
        data["hardware"] = "h100"
    elif change == "law":
        gemm["law"]["speed"] = 1.0
    elif change == "probabilities":
        data["residuals"]["probabilities"].reverse()
    elif change == "corrupt":
        return b'{"schema": 1, "hardw'
    elif change == "list":
        return b"[1, 2]"
    return json.dumps(data).encode()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("newer", "profile schema 99, this version reads 1 and 2; upgrade llm-specsim"),
        ("older", "profile schema 0, this version reads 1 and 2; rebuild it"),
        ("no schema", "no field 'schema'"),
        ("milliseconds", "faster than a100_sxm allows .*latencies are in microseconds"),
        ("negative", "faster than a100_sxm allows"),
        ("no attention", "missing field 'attention'"),
        ("ragged", "not a complete profile"),
        ("gpu", "no GPU 'h100'; did you mean 'h100_sxm'"),
        ("law", "not a complete profile"),
        ("probabilities", "probabilities must increase"),
        ("corrupt", "not a profile"),
        ("list", "no field 'schema'"),
    ],
)
def test_a_wrong_file_is_one_line_that_names_it(change: str, says: str) -> None:
    with pytest.raises(InputError, match=says) as caught:
        read_profile(broken(change), file="mine.json")
    assert caught.value.lines[0].startswith("mine.json: ")
    assert "\n" not in caught.value.lines[0]


def test_wrong_names_list_what_ships(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no profile 'h100_sxm-vllm-int4' ships; nearest: h100_sxm-vllm.*all: a100"):
        load_profile("h100_sxm", engine="vllm", dtype="int4")
    with pytest.raises(InputError, match="no GPU 'h100'; did you mean 'h100_sxm'"):
        load_hardware("h100")
    with pytest.raises(InputError, match="no engine 'vlm'; did you mean 'vllm'"):
        load_engine("vlm")
    with pytest.raises(InputError, match="cannot read a profile"):
        load_profile(tmp_path / "absent.json", engine="vllm", dtype="bf16")
    with pytest.raises(InputError, match="a100_sxm has no fp8 arithmetic; it has bf16"):
        load_hardware("a100_sxm").peak("fp8")
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document()))
    with pytest.raises(InputError, match=r"mine.json: the profile is for engine 'vllm', asked for 'sglang'"):
        load_profile(str(path), engine="sglang", dtype="bf16")
    assert load_profile(str(path), engine="vllm", dtype="bf16").hardware.name == "a100_sxm"


def test_hardware_names_a_source_for_every_field() -> None:
    for name in hardware_names():
        gpu = load_hardware(name)
        fields = set(copy.copy(gpu).__dataclass_fields__) - {"name", "sources"}
        assert set(gpu.sources) == fields
        assert gpu.peak_flops_per_s["bf16"] > 1e14


def test_engines_grow_with_sequences_and_drafts_and_say_where_their_figures_come_from() -> None:
    for name in engine_names():
        engine = load_engine(name)
        assert engine.schedule.source
        assert engine.sampling.source
        assert engine.schedule.low < 1.0 < engine.schedule.high
        n = np.array([1.0, 64.0, 512.0])
        time = engine.host_time(n, query_tokens=4 * n, drafted=3 * n)
        assert set(time.terms) == {"schedule", "sampling"}
        assert (np.diff(time.total_s) >= 0).all()
        assert list(engine.graph_sizes) == sorted(set(engine.graph_sizes))


# Intervals

FORWARD = ForwardShape(
    "toy",
    8,
    4096,
    32000,
    (Linear("a", 12288, 4096, 8), Linear("h", 32768, 4096, 1, "logits")),
    (Attention(32, 8, 128, 8),),
    elementwise_kernels=40,
)


def step(kind: str, n: float, q: float) -> StepTime:
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    cost = StepCost(FORWARD, profile, load_engine("vllm"))
    segment = Segment(kind, n, n * q, n * 2000.0, n * q)  # type: ignore[arg-type]
    return cost.cost(StepShape((segment,)))


def test_draws_cover_the_quantiles_that_they_are_made_of() -> None:
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    rng = np.random.default_rng(1)
    time = StepTime({"gemm": Term(np.array(2.0), "gemm", np.array(Trust.BORROWED, dtype=np.int8))})
    drawn = np.log(sample_seconds(time, profile, draw_uniforms(rng, 40_000)) / 2.0)
    values = profile.residuals["gemm"]["BORROWED"]
    for p, q in zip(profile.probabilities, values, strict=True):
        if 0.05 <= p <= 0.95:
            assert np.quantile(drawn, p) == pytest.approx(q, abs=0.004)


def test_a_ratio_of_two_steps_is_tighter_than_either() -> None:
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    uniforms = draw_uniforms(np.random.default_rng(2), 4000)
    one, two = (sample_seconds(step("decode", n, 1.0), profile, uniforms) for n in (8.0, 32.0))

    def width(x: np.ndarray[Any, Any]) -> float:
        low, high = np.quantile(x, [0.05, 0.95])
        return float(np.log(high / low))

    assert width(two / one) < 0.6 * min(width(one), width(two))


def test_verification_is_less_certain_than_decoding() -> None:
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    uniforms = draw_uniforms(np.random.default_rng(3), 4000)
    spread = [
        np.std(np.log(sample_seconds(step(k, 64.0, q), profile, uniforms))) for k, q in (("decode", 1), ("verify", 4))
    ]
    assert spread[1] > spread[0]


def test_prefill_errs_by_its_own_residuals() -> None:
    """In a pass with both kinds of sequences too; a file of before prefill had errors lends it those of attention."""
    data = document()
    residuals, count = data["residuals"], len(data["residuals"]["probabilities"])
    residuals["prefill"] = dict.fromkeys(residuals["prefill"], [float(np.log(2.0))] * count)
    residuals["attention"] = dict.fromkeys(residuals["attention"], [float(np.log(3.0))] * count)
    half = {family: np.array([0.5]) for family in FAMILIES}
    shape = StepShape((Segment("decode", 8, 8, 8000, 8), Segment("prefill", 1, 512, 256, 1)))

    def factor(name: str) -> float:
        profile = read_profile(json.dumps(data).encode(), file="mine.json")
        term = StepCost(FORWARD, profile, load_engine("vllm")).cost(shape).terms[name]
        return float(sample_seconds(StepTime({name: term}), profile, half)[0] / term.seconds)

    assert factor("prefill_attention") == pytest.approx(2.0)
    assert factor("attention") == pytest.approx(3.0)
    del residuals["prefill"]
    assert factor("prefill_attention") == pytest.approx(3.0)


@pytest.mark.parametrize("engine", ["vllm", "sglang", "trtllm"])
def test_the_middle_of_a_familys_errors_is_the_bias_of_its_kernels(engine: str) -> None:
    """On A100, whose tables have one cache precision; its prefill and its decode are off by different amounts."""
    profile = load_profile("a100_sxm", engine=engine, dtype="bf16")
    biases = set()
    for family, section in (("attention", "attention.decode.bf16"), ("prefill", "attention.prefill.bf16")):
        for layer, row in profile.provenance["errors"][section].items():
            middle = residual_quantiles(profile, family, Trust[layer], np.array([0.5]))[0]
            assert 100.0 * np.expm1(-middle) == pytest.approx(row["bias_pct"], abs=0.011)
            biases.add((layer, row["bias_pct"]))
    assert len(biases) == 6


def test_samples_follow_the_shape_of_the_step_and_miss_no_term() -> None:
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    half = {family: np.array([0.5]) for family in FAMILIES}
    time = step("decode", 8.0, 1.0) + step("verify", 8.0, 3.0)
    middle = sample_seconds(time, profile, half)
    assert middle.shape == (1,)
    biases = [
        float(residual_quantiles(profile, t.family, Trust(int(t.trust)), np.array([0.5]))[0])
        for t in time.terms.values()
    ]
    expected = sum(float(t.seconds) * np.exp(b) for t, b in zip(time.terms.values(), biases, strict=True))
    assert float(middle[0]) == pytest.approx(expected)
    array = StepTime({"gemm": Term(np.ones((2, 3)), "gemm", np.array([[0, 1, 2], [3, 1, 4]], dtype=np.int8))})
    assert sample_seconds(array, profile, draw_uniforms(np.random.default_rng(0), 5)).shape == (2, 3, 5)
