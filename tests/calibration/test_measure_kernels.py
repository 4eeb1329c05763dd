from __future__ import annotations

import time

import pytest

pytest.importorskip("torch")

import torch
from small_model import SMALL

from calibration.measure.company import Company, company
from calibration.measure.device import Device, detect
from calibration.measure.kernels import Workshop
from calibration.measure.points import TINY, Point, candidates
from calibration.measure.timers import Prepared, WrongOutputError, time_on_cpu
from specsim.cost.model_shape import ModelShape


@pytest.fixture(scope="module")
def device() -> Device:
    return detect("cpu", threads=1)


def test_samples_are_taken_in_turns_through_all_copies() -> None:
    order: list[tuple[str, int]] = []
    kernels = [Prepared(lambda i, name=name: order.append((name, i)), copies=3) for name in "ab"]
    timings = time_on_cpu(kernels, repeats=4)
    assert [t.wall_s.size for t in timings] == [4, 4]
    assert all((t.wall_s > 0).all() for t in timings)
    assert {i for name, i in order if name == "a"} == {0, 1, 2}
    turns = [name for i, (name, _) in enumerate(order) if i == 0 or order[i - 1][0] != name]
    assert turns[-8:] == ["a", "b"] * 4


def test_a_kernel_that_leaves_its_output_poisoned_is_found() -> None:
    with pytest.raises(WrongOutputError):
        time_on_cpu([Prepared(lambda _: torch.full((2,), float("nan")))], repeats=1)


def test_every_kind_of_point_becomes_a_kernel_that_runs(device: Device) -> None:
    workshop = Workshop(device, torch.float32, lambda _: Company(1e6, 1e3))
    seen = set()
    for point in candidates([SMALL], dtype="fp32", grid=TINY):
        if point.kind in seen:
            continue
        for kernel in workshop.prepare(point).values():
            kernel.run(0)
            kernel.run(kernel.copies - 1)
        seen.add(point.kind)
    assert {"gemm", "attention", "prefill", "host", "drawing", "softmax", "stack"} <= seen


def test_attention_is_causal_within_the_query_tokens(device: Device) -> None:
    """The first of three query tokens must not see the last two: hiding them changes nothing for it."""
    workshop = Workshop(device, torch.float32, lambda _: Company(1.0, 1e3))
    point = Point.of("attention", queries=3, batch=1, cached=13, heads=4, kv_heads=2, head_dim=32)
    kernel = workshop.prepare(point)["masked"]
    cells = dict(zip(kernel.run.__code__.co_freevars, (c.cell_contents for c in kernel.run.__closure__), strict=True))
    out = kernel.run(0).clone()
    keys, values = cells["caches"][0]
    values[:, :, 14:] += 5.0
    changed = (kernel.run(0) - out).abs().amax(dim=(0, 1, 3)).view(2, 3)  # group, query
    assert (changed[:, 0] == 0).all()
    assert (changed[:, 1:] > 0).all()
    assert keys.shape[2] == 16


def test_copies_rotate_through_more_than_the_cache_but_not_more_than_the_model(device: Device) -> None:
    workshop = Workshop(device, torch.float32, lambda _: Company(10e6, 1e3))
    assert workshop.prepare(Point.of("gemm", m=1, n=512, k=1024))["linear"].copies == 5
    assert workshop.prepare(Point.of("gemm", m=1, n=4096, k=4096))["linear"].copies == 1


def test_a_kernels_company_is_its_own_models_weights() -> None:
    big, small = (ModelShape("m", layers, 128, 4, 2, 32, 512, 256) for layers in (40, 1))
    other = ModelShape("o", 2, 64, 2, 1, 16, 96, 96)
    forwards = [model.forward(dtype="fp32", kv_dtype="fp32") for model in (big, small, other)]
    weights = [sum(x.n * x.k * x.count for x in forward.linears) * 4.0 for forward in forwards]
    of = company(forwards, most=20e6)
    assert weights[0] > 20e6 > weights[1]
    shared = of(Point.of("gemm", m=1, n=512, k=128))  # the larger one's
    assert (shared.pass_bytes, shared.product_bytes) == (20e6, weights[0] / 161)
    mine = [
        Point.of("gemm", m=1, n=128, k=64),
        Point.of("attention", queries=2, batch=1, cached=16, heads=2, kv_heads=1, head_dim=16),
        Point.of("around_pass", batch=1, queries=1, cached=16, hidden=64, group=2),
        Point.of("softmax", rows=1, vocab=96),
    ]
    assert {of(point).pass_bytes for point in mine} == {weights[2]}


def test_what_lies_beside_a_kernel_runs_before_every_call_and_is_not_timed() -> None:
    log: list[str] = []
    clock = iter(range(10_000))

    def beside() -> None:
        log.append("beside")
        for _ in range(1000):
            next(clock)

    kernel = Prepared(lambda i: log.append(f"call {i}"), copies=4, beside=beside)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("perf_counter_ns", "thread_time_ns"):
            patch.setattr(f"calibration.measure.timers.time.{name}", lambda: next(clock))
        patch.setattr("calibration.measure.timers.MOST_CALLS", 1)
        (timing,) = time_on_cpu([kernel], repeats=2)
    # The first two copies are warm from the first calls: samples begin at the third.
    assert log[-4:] == ["beside", "call 2", "beside", "call 3"]
    assert timing.wall_s.tolist() == [pytest.approx(3e-9)] * 2
    assert timing.busy_s.tolist() == [pytest.approx(1e-9)] * 2


def test_around_a_layer_is_less_than_the_layer(device: Device) -> None:
    workshop = Workshop(device, torch.float32, lambda _: Company(1e6, 1e5))
    heads = {"heads": 4, "kv_heads": 2, "head_dim": 32}
    point = Point.of("around_layer", batch=2, queries=3, hidden=256, intermediate=1024, qk_norm=1, **heads)
    kernel = workshop.prepare(point)["eager"]
    begin = time.perf_counter()
    wall, busy = kernel.run(0)
    assert 0.0 < wall < time.perf_counter() - begin
    assert busy > 0.0
