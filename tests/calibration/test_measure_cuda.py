"""The CUDA side of measuring, with CUDA's calls replaced: order, poison and rotation; and its attention on a CPU."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from recorded_cuda import Recorder

from calibration.measure import attention
from calibration.measure.company import Company
from calibration.measure.device import Device
from calibration.measure.kernels import Workshop
from calibration.measure.points import Point
from calibration.measure.timers import Prepared, WrongOutputError, launched, time_on_cuda


def test_a_graph_holds_every_copy_and_its_time_is_shared_between_them(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, out = Recorder(), torch.zeros(3)
    recorder.install(monkeypatch)
    kernel = Prepared(recorder.kernel(lambda i: out.fill_(float(i))), copies=4, output=out)
    (timing,) = time_on_cuda([kernel], repeats=5)
    calls = len(recorder.graphs[0].calls)
    np.testing.assert_allclose(timing.busy_s, 2e-3 / calls)
    np.testing.assert_allclose(timing.wall_s, timing.busy_s)  # the device's time, not the launch's
    assert [i for _, i in recorder.graphs[0].calls] == [i % 4 for i in range(calls)]


def test_an_output_that_a_replay_leaves_poisoned_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, out = Recorder(replays=False), torch.zeros(3)
    recorder.install(monkeypatch)
    for kernel in (
        Prepared(recorder.kernel(lambda _: out.fill_(1.0)), copies=2, output=out),
        Prepared(recorder.kernel(lambda _: out.add_(0.0)), copies=2),  # its own result, in the graph's memory
    ):
        with pytest.raises(WrongOutputError):
            time_on_cuda([kernel], repeats=1)


def test_eager_kernels_and_reported_times_are_not_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    Recorder().install(monkeypatch)
    eager, reported = time_on_cuda(
        [
            Prepared(lambda _: torch.zeros(1), copies=2, eager=True),
            Prepared(lambda _: 3e-4, eager=True, reports=True),
        ],
        repeats=3,
    )
    assert (eager.busy_s == eager.wall_s).all()
    assert reported.wall_s.tolist() == [3e-4] * 3


def test_launching_is_told_from_the_devices_work_behind_a_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    recorder, awake = Recorder(), []
    recorder.install(monkeypatch)
    host_s, device_s = launched(lambda: awake.append(bool(recorder.slept)), calls=4)
    assert awake == [False, True, True, True, True]  # the first call loads what it needs
    assert device_s == pytest.approx(2e-3 / 4)
    assert host_s > 0.0


@pytest.mark.parametrize("choice", [0, 1, 2, 3, 99, None])
def test_what_pytorch_takes_by_itself_has_a_name_or_is_unknown(
    choice: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    query, caches = torch.zeros(2, 4, 3, 32), [(torch.zeros(2, 2, 48, 32),) * 2]

    def chose(*_: object, **__: object) -> int:
        if choice is None:
            raise RuntimeError("no")
        return choice

    monkeypatch.setattr(torch, "_fused_sdp_choice", chose)
    expected = {0: "math", 1: "flash", 2: "efficient", 3: "cudnn"}.get(choice, "unknown")
    assert attention.chosen(query, caches, 37) == expected
    monkeypatch.undo()
    assert attention.chosen(query, caches, 37) in {"flash", "math"}  # a processor's own two


@pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")
@pytest.mark.parametrize("queries", [1, 3])
def test_every_backend_computes_what_the_masked_kernel_computes(queries: int) -> None:
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 4, queries, 32, generator=generator)
    keys, values = torch.randn(2, 2, 2, 48, 32, generator=generator)
    length = 37
    masked = attention.masked(query, [(keys, values)], length)(None)(0)
    expected = torch.nn.functional.scaled_dot_product_attention(
        query, keys[:, :, :length], values[:, :, :length], enable_gqa=True,
        attn_mask=torch.ones(queries, length).tril(length - queries).bool(),
    )  # fmt: skip
    torch.testing.assert_close(masked.reshape(expected.shape), expected)
    with torch.inference_mode():
        flex = attention.flex(query, [(keys, values)], length, compiled=False)(0)
    torch.testing.assert_close(flex, expected)


def test_a_kernel_that_fails_is_no_variant_but_lack_of_memory_is_told() -> None:
    def broken(_: int) -> torch.Tensor:
        raise NotImplementedError("no such kernel")

    def full(_: int) -> torch.Tensor:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    assert not attention.runs(broken)
    with pytest.raises(torch.cuda.OutOfMemoryError):
        attention.runs(full)


def test_flex_attention_is_a_variant_while_its_compilation_is_affordable(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def flex(query: torch.Tensor, caches: Any, length: int) -> Any:
        made.append(length)
        return lambda _: query

    monkeypatch.setattr(attention, "flex", flex)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    clock = iter([0.0, 40.0, 50.0, 51.0])
    monkeypatch.setattr("calibration.measure.kernels.time.monotonic", lambda: next(clock))
    workshop = Workshop(
        Device("cuda", "gpu", 1 << 34, 1 << 20, 1, 1), torch.float32, lambda _: Company(1.0, 1.0), flex_s=30.0
    )
    monkeypatch.setattr(Workshop, "_on", lambda self: torch.device("cpu"))
    point = Point.of("attention", queries=2, batch=1, cached=30, heads=4, kv_heads=2, head_dim=32)
    assert "flex" in workshop.prepare(point)
    assert "flex" not in workshop.prepare(point)  # forty seconds of thirty are spent
    assert made == [32]
