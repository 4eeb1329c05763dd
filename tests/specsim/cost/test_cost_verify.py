from __future__ import annotations

import json
from dataclasses import replace
from importlib import resources
from typing import Any

import numpy as np
import pytest

from specsim.cost.engine import load_engine
from specsim.cost.measured_host import MeasuredHost
from specsim.cost.profile import load_profile, read_profile
from specsim.cost.shapes import Attention, ForwardShape, Linear, Segment, StepShape, Trust
from specsim.cost.step import StepCost
from specsim.cost.verify import NEAR, VerifyTable, never_falling, verify_work
from specsim.errors import InputError

QUERIES, BATCHES, LENGTHS = [1, 2, 4, 8, 16], [1, 4, 16], [64, 512, 4096]
HOST = {
    "round_s": 1e-4,
    "speculate_s": 3e-5,
    "draft_s": 2e-5,
    "sequence_s": 1e-6,
    "sequence_draft_s": 1e-6,
    "draw_s": 5e-5,
    "reject_s": 7e-5,
    "draw_draft_s": 1e-5,
    "entry_s": 1e-9,
    "draft_entry_s": 3e-9,
    "softmax_s": 1e-5,
    "softmax_entry_s": 2e-9,
    "pass_s": 5e-5,
    "pass_row_s": 1e-6,
    "score_s": 1e-9,
    "launch_s": 0.0,
}
HEAD: dict[str, Any] = {"heads": 32, "kv_heads": 8, "head_dim": 128, "kv_dtype": "bf16"}
LAW = {"constant_s": 5e-6, "bandwidth_bytes_per_s": 1.2e12, "flops_per_s": 2e14, "exponent": 2.0, "block_s": 0.0}


def document(*, slower: float = 1.0) -> dict[str, Any]:
    """A shipped profile as a measured one: hardware of its own, a verify surface, a host."""
    path = resources.files("specsim.cost").joinpath("profiles", "a100_sxm-vllm-bf16.json")
    data = json.loads(path.read_text(encoding="utf-8"))
    gpu = load_profile("a100_sxm", engine="vllm", dtype="bf16").hardware
    fields = {name: getattr(gpu, name) for name in gpu.__dataclass_fields__}
    fields |= {"name": "my-gpu", "peak_flops_per_s": dict(gpu.peak_flops_per_s), "sources": dict(gpu.sources)}
    moved, flops, _ = verify_work(*np.ix_(QUERIES, BATCHES, LENGTHS), **HEAD)
    seconds = slower * (5e-6 + np.hypot(moved / 1.2e12, flops / 2e14))
    group = {"head_dim": 128, "law": LAW, "layouts": [[32, 8]], "latency_us": [(seconds * 1e6).tolist()]}
    axes = {"queries": QUERIES, "batches": BATCHES, "lengths": LENGTHS}
    data |= {"schema": 2, "hardware": fields, "engine": "torch", "host": HOST}
    data["attention"]["verify"] = {"bf16": {**axes, "length": 2.0, "nugget": 0.1, "groups": [group]}}
    return data


def read(data: dict[str, Any]) -> Any:
    return read_profile(json.dumps(data).encode(), file="mine.json")


def table() -> VerifyTable:
    return read(document()).verify["bf16"]


def test_measured_points_of_the_surface_come_back_as_they_are() -> None:
    surface = table().surface(32, 8, 128)
    moved, flops, _ = verify_work(*np.ix_(QUERIES, BATCHES, LENGTHS), **HEAD)
    found = surface.at(*np.ix_(QUERIES, BATCHES, LENGTHS))
    np.testing.assert_allclose(found, 5e-6 + np.hypot(moved / 1.2e12, flops / 2e14), rtol=1e-9)
    assert surface.trust_at(3, 2, 100) == Trust.INTERPOLATED
    assert surface.trust_at(17, 2, 100) == Trust.PARAMETRIC


def test_a_cache_shorter_than_any_measured_follows_the_law() -> None:
    surface, shortest = table().surface(32, 8, 128), LENGTHS[0]
    for share in NEAR:
        moved, flops, _ = verify_work(QUERIES[1], BATCHES[1], share * shortest, **HEAD)
        expected = 5e-6 + np.hypot(moved / 1.2e12, flops / 2e14)
        assert float(surface.at(QUERIES[1], BATCHES[1], share * shortest)) == pytest.approx(float(expected), rel=1e-9)
    assert surface.trust_at(3, 4, 0.5 * shortest) == Trust.PARAMETRIC


def test_another_layout_is_borrowed_and_keeps_the_law() -> None:
    surface = table().surface(64, 8, 128)
    assert surface.trust is Trust.BORROWED
    work = verify_work(4, 4, 512, **{**HEAD, "heads": 64})
    expected = 5e-6 + np.hypot(work[0] / 1.2e12, work[1] / 2e14)
    assert float(surface.at(4, 4, 512)) == pytest.approx(float(expected), rel=1e-6)


def test_time_never_falls_with_queries_or_length() -> None:
    surface = table().surface(32, 8, 128)
    q, x = np.linspace(1, 40, 60), np.geomspace(16, 20_000, 60)
    assert (np.diff(surface.at(q, 4, 512)) >= 0.0).all()
    assert (np.diff(surface.at(3, 4, x)) >= 0.0).all()


def test_smoothing_keeps_what_never_falls_along_another_axis() -> None:
    rng = np.random.default_rng(0)
    noisy = np.cumsum(rng.random((6, 8)), axis=0)
    smooth = never_falling(noisy, 1)
    assert (np.diff(smooth, axis=1) >= 0.0).all()
    assert (np.diff(smooth, axis=0) >= 0.0).all()
    np.testing.assert_allclose(never_falling(np.sort(noisy, axis=1), 1), np.sort(noisy, axis=1), rtol=1e-12)


FORWARD = ForwardShape("toy", 2, 4096, 32000, (Linear("a", 4096, 4096, 2),), (Attention(32, 8, 128, 2),))


def verified(profile: Any, kind: Any = "verify") -> Any:
    step = StepCost(FORWARD, profile, load_engine("vllm"))
    return step.cost(StepShape((Segment(kind, 4, 16, 4 * 508, 16),))).terms["verify_attention"]


def test_a_step_takes_the_measured_surface_where_there_is_one() -> None:
    fast, slow = verified(read(document())), verified(read(document(slower=3.0)))
    assert float(slow.seconds) == pytest.approx(3.0 * float(fast.seconds))
    assert int(fast.trust) == Trust.INTERPOLATED
    assert int(verified(read(document()), "tree").trust) == Trust.TRANSFERRED
    modelled = verified(load_profile("a100_sxm", engine="vllm", dtype="bf16"))
    assert int(modelled.trust) == Trust.TRANSFERRED


def test_several_query_tokens_cost_a_layer_what_bringing_heads_together_does() -> None:
    data = document()
    plain, reordered = (
        StepCost(FORWARD, read({**data, "elementwise": {**data["elementwise"], "reorder_us": us}}), load_engine("vllm"))
        for us in (0.0, 7.0)
    )
    tokens = np.array([3.0, 6.0, 12.0])
    forward = replace(FORWARD, elementwise_kernels=1)
    shape = StepShape((Segment("verify", 3, tokens, 300, tokens),), mode="eager")
    more = [
        StepCost(forward, step.profile, step.engine).cost(shape).terms["elementwise"].seconds
        for step in (plain, reordered)
    ]
    np.testing.assert_allclose(more[1] - more[0], [0.0, 2 * 7e-6, 2 * 7e-6], atol=1e-12)


def test_a_measured_profile_serves_any_engine_and_describes_its_own_hardware(tmp_path: Any) -> None:
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(document()))
    for engine in ("vllm", "sglang", "trtllm"):
        profile = load_profile(path, engine=engine, dtype="bf16")
        assert profile.hardware.name == "my-gpu"
        assert profile.host is not None
    with pytest.raises(InputError, match="the profile is for dtype 'bf16', asked for 'fp8'; give --dtype bf16"):
        load_profile(path, engine="vllm", dtype="fp8")


def test_the_host_is_linear_and_its_engine_captures_nothing() -> None:
    host = MeasuredHost(**HOST)
    assert float(host.host_s(4, 3)) == pytest.approx(1e-4 + 3e-5 + 6e-5 + 4 * (1e-6 + 3e-6))
    assert float(host.host_s(4, 0)) == pytest.approx(1e-4 + 4e-6)
    assert float(host.drawing_s(2, 0, 1000)) == pytest.approx(5e-5 + 2e-6)
    assert float(host.drawing_s(2, 4, 1000)) == pytest.approx(5e-5 + 7e-5 + 4e-5 + 2e-6 + 2 * 4 * 3e-6)
    assert float(host.around_pass_s(8, 1000)) == pytest.approx(5e-5 + 8e-6 + 1e-6)
    assert float(host.softmax_of_s(8, 1000)) == pytest.approx(1e-5 + 8 * 2e-6)
    tokens, graph = host.engine().padded(np.array([3.0]), np.array([1.0]))
    assert tokens.tolist() == [3.0]
    assert not graph.any()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("gap", "a gap or isn't"),
        ("too fast", "less time than my-gpu's arithmetic needs"),
        ("hardware", "not a complete profile"),
        ("host", "not a complete profile"),
    ],
)
def test_a_damaged_surface_is_one_line(change: str, says: str) -> None:
    data = document()
    group = data["attention"]["verify"]["bf16"]["groups"][0]
    if change == "gap":
        group["latency_us"][0][0][0][0] = None
    elif change == "too fast":
        group["latency_us"] = (np.array(group["latency_us"]) * 1e-3).tolist()
    elif change == "hardware":
        del data["hardware"]["memory_bytes"]
    else:
        data["host"]["wait_s"] = 1.0
    with pytest.raises(InputError, match=says) as caught:
        read(data)
    assert len(caught.value.lines) == 1
