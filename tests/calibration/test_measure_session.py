from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch")

import torch
from small_model import SMALL, written

from calibration.measure.command import calibrate
from calibration.measure.company import Company
from calibration.measure.device import Device, clocks, detect, free_bytes, pinned
from calibration.measure.fit import fit_profile
from calibration.measure.kernels import Workshop
from calibration.measure.points import TINY, Point, candidates
from calibration.measure.samples import Samples, medians, read_samples
from calibration.measure.session import Session, out_of_memory
from calibration.measure.timers import Prepared, Timing, spread
from specsim.cost.model_shape import ModelShape
from specsim.cost.profile import load_profile
from specsim.cost.shapes import Segment, StepShape, Trust
from specsim.cost.step import StepCost
from specsim.errors import InputError


@pytest.fixture(scope="module")
def device() -> Device:
    return detect("cpu", threads=1)


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("small"))


def session(device: Device, path: Path, make: object = None) -> Session:
    workshop = Workshop(device, torch.float32, lambda _: Company(1e6, 1e3))
    return Session(device, make or workshop.prepare, Samples.open(path, device.identity), 4, repeats=3)  # type: ignore[arg-type]


def test_the_device_says_what_it_is(device: Device) -> None:
    assert device.kind == "cpu"
    assert device.shipped is None
    assert device.cache_bytes >= 32 << 20
    assert 0 < free_bytes(device) <= device.memory_bytes
    assert all(isinstance(value, str) for value in clocks(device).values())
    assert json.loads(json.dumps(device.identity)) == device.identity
    with pinned(device):
        assert torch.get_num_threads() == 1


def test_gpus_are_known_by_their_drivers_names() -> None:
    def gpu(name: str) -> str | None:
        return Device("cuda", name, 1, 1, 1, 0).shipped

    assert gpu("NVIDIA H100 80GB HBM3") == "h100_sxm"
    assert gpu("NVIDIA H100 PCIe") is None
    assert gpu("NVIDIA A100-SXM4-80GB") == "a100_sxm"
    assert gpu("NVIDIA GeForce RTX 4090") is None


@pytest.mark.parametrize(
    ("wanted", "threads", "says"),
    [("tpu", None, "'tpu' is not a device"), ("cpu", 0, "this process may use 1 to"), ("cpu", 9999, "9999 threads")],
)
def test_a_device_that_is_not_there_is_one_line(wanted: str, threads: int | None, says: str) -> None:
    with pytest.raises(InputError, match=says):
        detect(wanted, threads=threads)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_no_cuda_says_what_to_do() -> None:
    with pytest.raises(InputError, match="no CUDA device here; give --device cpu"):
        detect("cuda")


def test_lack_of_memory_is_known_behind_another_error() -> None:
    error = RuntimeError("operation failed due to a previous error during capture")
    error.__context__ = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
    assert out_of_memory(error)
    assert not out_of_memory(RuntimeError("a bug"))


def test_a_session_measures_saves_and_resumes(device: Device, tmp_path: Path) -> None:
    path, points = tmp_path / "s.parquet", candidates([SMALL], dtype="fp32", grid=TINY)
    first = session(device, path).run(points, budget_s=0.3)
    assert first.measured > 0
    table, identity = read_samples(path)
    assert identity == json.loads(json.dumps(device.identity))
    assert (table["wall_s"].dropna() > 0).all()
    second = session(device, path).run(points, budget_s=0.3)
    assert second.resumed == first.measured
    more, _ = read_samples(path)
    assert len(more) > len(table)
    assert more.iloc[: len(table)].equals(table)


def test_samples_survive_an_interruption(device: Device, tmp_path: Path) -> None:
    path, points = tmp_path / "s.parquet", candidates([SMALL], dtype="fp32", grid=TINY)
    workshop, count = Workshop(device, torch.float32, lambda _: Company(1e6, 1e3)), iter(range(1000))

    def make(point: Point) -> dict[str, Prepared]:
        if next(count) > 6:
            raise KeyboardInterrupt
        return workshop.prepare(point)

    with pytest.raises(KeyboardInterrupt):
        session(device, path, make).run(points, budget_s=30.0)
    assert read_samples(path)[0]["point"].nunique() >= 4
    assert [p.name for p in tmp_path.iterdir()] == ["s.parquet"]


def test_out_of_memory_backs_off_is_recorded_and_the_rest_goes_on(device: Device, tmp_path: Path) -> None:
    path, points = tmp_path / "s.parquet", [Point.of("gemm", m=m, n=64, k=64) for m in (1, 2, 4, 64)]
    workshop = Workshop(device, torch.float32, lambda _: Company(1e5, 1e3))

    def make(point: Point) -> dict[str, Prepared]:
        if point["m"] == 4:
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return workshop.prepare(point)

    outcome = session(device, path, make).run(points, budget_s=2.0)
    table, _ = read_samples(path)
    assert outcome.refused >= 1
    refused = table[table["status"] == "oom"]
    assert {json.loads(key)[1]["m"] for key in refused["point"]} == {4}
    assert {json.loads(key)[1]["m"] for key in table[table["status"] != "oom"]["point"]} == {1, 2, 64}
    again = session(device, path, make).run(points, budget_s=0.2)
    assert again.refused == 0  # what didn't fit isn't tried again


def test_a_point_larger_than_memory_is_refused_unmeasured(device: Device, tmp_path: Path) -> None:
    points = [Point.of("gemm", m=1, n=1 << 20, k=1 << 20)]
    outcome = session(device, tmp_path / "s.parquet").run(points, budget_s=1.0)
    assert (outcome.measured, outcome.refused) == (0, 1)


def test_an_error_that_is_no_lack_of_memory_is_not_hidden(device: Device, tmp_path: Path) -> None:
    def make(_: Point) -> dict[str, Prepared]:
        raise RuntimeError("a bug")

    with pytest.raises(RuntimeError, match="a bug"):
        session(device, tmp_path / "s.parquet", make).run([Point.of("gemm", m=1, n=64, k=64)], budget_s=1.0)


def test_a_slow_kernel_does_not_make_its_neighbours_look_slow(device: Device, tmp_path: Path) -> None:
    """What one kind takes longer than a roofline says must not cost another kind its points."""
    points = [Point.of("host", batch=b, k=0, vocab=64) for b in (1, 2, 4)]
    points += [Point.of("prefill", batch=1, tokens=n, heads=1, kv_heads=1, head_dim=8) for n in (8, 16, 32, 64)]

    def make(point: Point) -> dict[str, Prepared]:
        if point.kind == "prefill":
            return {"x": Prepared(lambda _: None)}

        def slow(_: int) -> float:
            time.sleep(0.03)
            return 1e-4

        return {"x": Prepared(slow, eager=True, reports=True)}

    outcome = session(device, tmp_path / "s.parquet", make).run(points, budget_s=5.0)
    table, _ = read_samples(tmp_path / "s.parquet")
    assert table[table["kind"] == "prefill"]["point"].nunique() == 4
    assert outcome.refused == 0


def test_unsteady_points_are_marked_and_call_the_measurement_disturbed(device: Device, tmp_path: Path) -> None:
    times = iter(1e-3 * np.exp(np.random.default_rng(0).normal(size=1000)))

    def make(_: Point) -> dict[str, Prepared]:
        return {"x": Prepared(lambda _: float(next(times)), eager=True, reports=True)}

    path = tmp_path / "s.parquet"
    outcome = session(device, path, make).run([Point.of("gemm", m=m, n=64, k=64) for m in (1, 2)], budget_s=1.0)
    assert outcome.disturbed
    assert set(read_samples(path)[0]["status"]) == {"unsteady"}


def test_damaged_samples_and_those_of_another_machine_are_one_line(device: Device, tmp_path: Path) -> None:
    path = tmp_path / "s.parquet"
    path.write_bytes(b"PAR1 but not really")
    with pytest.raises(InputError, match=r"s\.parquet: is no file of samples, or damaged"):
        Samples.open(path, device.identity)
    path.unlink()
    session(device, path).run([Point.of("gemm", m=1, n=64, k=64)], budget_s=0.2)
    with pytest.raises(InputError, match="holds samples of another threads"):
        Samples.open(path, {**device.identity, "threads": 64})
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="damaged"):
        Samples.open(path, device.identity)


def test_a_points_time_is_of_its_fastest_variant_and_quietest_visits(tmp_path: Path) -> None:
    samples, point = Samples(tmp_path / "s.parquet", {}), Point.of("gemm", m=1, n=64, k=64)
    for at, level in ((1.0, 1e-3), (2.0, 3e-3)):
        samples.add(point, "a", Timing(np.full(3, level), np.full(3, level)), status="ok", at_s=at)
    samples.add(point, "b", Timing(np.full(3, 9e-3), np.full(3, 9e-4)), status="ok", at_s=1.0)
    (row,) = medians(samples.table()).to_dict("records")
    assert row["variant"] == "a"
    assert row["seconds"] == pytest.approx(1.5e-3)  # lower quartile of 1 and 3
    assert medians(samples.table(), clock="processor")["variant"].tolist() == ["b"]
    assert spread(np.array([1.0, 1.0, 1.0])) == 0.0


@pytest.mark.slow
def test_a_calibration_is_a_profile_that_prices_and_says_who_answered(config: str, tmp_path: Path) -> None:
    out = tmp_path / "my.json"
    done = calibrate(out, minutes=0.5, device="cpu", models=[config], threads=1, clock="processor", grid=TINY)
    assert {p.name for p in tmp_path.iterdir()} == {"my.json", "my.samples.parquet"}
    profile = load_profile(out, engine="vllm", dtype="fp32")
    assert profile.sha256 == done.profile.sha256
    assert profile.host is not None
    origin = profile.provenance
    assert origin["measured_on"]["kind"] == "cpu"
    assert origin["samples"] == "my.samples.parquet"
    assert {"date", "clock", "clocks_seen", "models", "errors"} <= set(origin)
    forward = ModelShape(**{**SMALL.__dict__, "name": "x"}).forward(dtype="fp32", kv_dtype="fp32")
    cost = StepCost(forward, profile, profile.host.engine())
    q = np.array([2.0, 3.0, 4.0])
    verify = cost.cost(StepShape((Segment("verify", 2.0, 2.0 * q, 100.0, 2.0 * q),)))
    assert (np.diff(verify.total_s) >= 0.0).all()
    assert (verify.total_s > 0.0).all()
    assert (verify.terms["verify_attention"].trust <= Trust.PARAMETRIC).all()
    assert set(np.unique(verify.terms["gemm"].trust)) <= {Trust.MEASURED, Trust.INTERPOLATED}
    assert profile.residuals["verify"]["TRANSFERRED"].size == profile.probabilities.size


def test_too_little_time_keeps_the_samples_and_says_so(config: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"run again with more --minutes"):
        calibrate(tmp_path / "my.json", minutes=0.001, device="cpu", models=[config], threads=1, grid=TINY)
    assert not (tmp_path / "my.json").exists()
    assert (tmp_path / "my.samples.parquet").exists()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"out": Path("my.txt")}, "ends in .json"),
        ({"out": Path("/dev/null/at/all/my.json")}, "'/dev/null' is a file"),
        ({"minutes": 0.0}, "not a time in minutes"),
        ({"clock": "sun"}, "is not a clock"),
        ({"dtype": "fp8"}, "cannot be measured here"),
        ({"models": ["mistralai/Mixtral-8x7B-v0.1"]}, "has experts"),
        ({"models": ["gpt-9"]}, "no model 'gpt-9'"),
    ],
)
def test_what_cannot_be_calibrated_is_one_line(change: dict[str, object], says: str, tmp_path: Path) -> None:
    asked = {"out": tmp_path / "my.json", "minutes": 0.01, "device": "cpu", "threads": 1, **change}
    out = asked.pop("out")
    with pytest.raises(InputError, match=says) as caught:
        calibrate(out, **asked)  # type: ignore[arg-type]
    assert len(caught.value.lines) == 1


def test_nothing_measured_is_no_profile(device: Device) -> None:
    with pytest.raises(InputError, match="0 points of gemm were measured"):
        fit_profile(medians(Samples(Path("x"), {}).table()), device, [SMALL], dtype="fp32", provenance={})
