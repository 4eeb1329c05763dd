"""The script for one GPU: its small form runs anywhere, and what goes wrong in a part stays there."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

import numpy as np  # noqa: E402
from recorded_cuda import Recorder  # noqa: E402

from calibration.gpu import __main__ as gpu  # noqa: E402
from calibration.gpu.models import LiveGrid  # noqa: E402
from calibration.gpu.plan import LAYOUTS, Layout, Surface, prefills  # noqa: E402
from calibration.gpu.session import Session  # noqa: E402
from calibration.gpu.tables import read_tables, refused, rows_of, table_of  # noqa: E402
from calibration.imports import import_measurements  # noqa: E402
from calibration.measure import timers  # noqa: E402
from calibration.measure.company import Company  # noqa: E402
from calibration.measure.device import Device, detect  # noqa: E402
from calibration.measure.kernels import Workshop  # noqa: E402
from calibration.measure.points import MOST_CACHED, QUERIES, TINY, Point, candidates  # noqa: E402
from calibration.measure.timers import Prepared, Timing, _Made  # noqa: E402
from specsim.cost.model_shape import ModelShape  # noqa: E402
from specsim.cost.profile import load_profile  # noqa: E402
from specsim.errors import InputError  # noqa: E402
from studies.verify_surface import read, report  # noqa: E402

ROOT = Path(__file__).parents[2]
SMALL = ModelShape("tiny", 2, 64, heads=4, kv_heads=2, head_dim=16, vocab=256, intermediate=96)


def session(out: Path) -> Session:
    found = detect("cpu", threads=1)
    return Session(found, Workshop(found, torch.float32, lambda _: Company(1.0, 1.0)), out, repeats=2)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.slow
def test_the_script_measures_every_part_in_its_small_form(tmp_path: Path) -> None:
    environment = os.environ | {"OUT": str(tmp_path), "PYTHON": sys.executable, "OMP_NUM_THREADS": "1"}
    script = [str(ROOT / "calibration" / "run_gpu.sh"), "--device", "cpu", "--tiny"]
    done = subprocess.run(script, env=environment, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert "FAILED" not in done.stdout
    files = list(tmp_path.iterdir())
    assert len(files) <= 8
    assert all(file.stat().st_size < 16 << 20 for file in files)
    tables = {file.stem: rows(file) for file in files if file.suffix == ".csv"}
    assert set(tables) == {"attention", "gemm", "around", "steps", "live", "parts"}
    assert all(table for table in tables.values())
    assert all(row["status"] == "ok" for name in ("attention", "gemm", "around") for row in tables[name])
    asked = "op dtype heads kv_heads head_dim batch query_tokens kv_tokens kernel mode repeat latency_us"
    assert set(asked.split()) <= set(tables["attention"][0])
    assert {row["mode"] for row in tables["attention"]} == {"eager"}  # a processor captures nothing
    assert {"m", "n", "k", "latency_us"} <= set(tables["gemm"][0])
    assert {"model", "layers", "mode", "repeat", "latency_us"} <= set(tables["steps"][0])
    assert {(row["batch"], row["k"]) for row in tables["live"]} == {(b, k) for b in "12" for k in "02"}
    assert {row["part"] for row in tables["parts"]} == {"verify", "decode", "draft_first", "draft", "host"}
    about = (tmp_path / "README.md").read_text()
    assert f"- torch: {torch.__version__}" in about
    for name, table in tables.items():
        assert f"| {name} | {len(table)} | none |" in about
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["tiny"] is True
    assert machine["device"]["versions"]["torch"] == torch.__version__
    assert len(machine["clocks_seen"]) == 6
    assert "attention of 4/2 heads of 16" in report(read(tmp_path))
    path, errors, _ = import_measurements(str(tmp_path), out=str(tmp_path / "mine.json"))
    profile = load_profile(path, engine="vllm", dtype="fp32")
    assert profile.verify["fp32"].queries.tolist() == [1.0, 3.0]
    assert profile.host is not None
    assert {"gemm.fp32", "attention.verify.fp32", "host"} <= set(errors)


@pytest.fixture
def pretended(monkeypatch: pytest.MonkeyPatch) -> None:
    """A CUDA device whose memory is this processor's: captures run at once, replays do nothing, every time is 2 ms."""
    Recorder().install(monkeypatch)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    device = Device("cuda", "pretended", 80 << 30, 1 << 20, 4, 0, {"torch": torch.__version__})
    monkeypatch.setattr(gpu, "detect", lambda *_, **__: device)
    monkeypatch.setattr(Session, "device", torch.device("cpu"))
    monkeypatch.setattr(Workshop, "_on", lambda _: torch.device("cpu"))
    monkeypatch.setattr(_Made, "poison", lambda _: None)  # a replay here writes nothing
    monkeypatch.setattr(timers, "MOST_CALLS", 2)


@pytest.mark.slow
@pytest.mark.usefixtures("pretended")
def test_what_only_cuda_runs_runs(tmp_path: Path) -> None:
    assert gpu.main(["--out", str(tmp_path), "--tiny"]) == 0
    assert "FAILED" not in (tmp_path / "README.md").read_text()
    modes = {name: {row["mode"] for row in rows(tmp_path / f"{name}.csv")} for name in ("gemm", "attention", "steps")}
    assert modes == {"gemm": {"graph"}, "attention": {"graph"}, "steps": {"graph", "eager"}}
    parts = rows(tmp_path / "parts.csv")
    assert {row["part"] for row in parts} == {"verify", "decode", "draft_first", "draft", "host", "sample", "reject"}
    assert all(float(row["host_us"]) > 0.0 for row in parts if row["part"] in ("sample", "reject"))
    _, errors, _ = import_measurements(str(tmp_path), out=str(tmp_path / "mine.json"))
    assert "attention.verify.bf16" in errors


@pytest.mark.slow
@pytest.mark.usefixtures("pretended")
def test_the_whole_plan_runs_part_after_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plan of a GPU with every model small and every grid a corner of itself."""
    steps, loads = gpu.measure_steps, []

    def corner(session: Session, shape: ModelShape, asked: list[tuple[int, int, int]], until_s: float) -> None:
        loads.extend(asked)
        steps(session, shape, [(1, 1, 16), (2, 2, 16)], until_s)

    monkeypatch.setattr(gpu, "load_model", lambda _: SMALL)
    monkeypatch.setattr(gpu, "Surface", lambda *_, **__: Surface((1, 3), (1,), (32,), ((1,), (1,), (32,)), 1000))
    monkeypatch.setattr(gpu, "Grid", lambda: TINY)
    monkeypatch.setattr(gpu, "LAYOUTS", (Layout("a", 4, 2, 16), Layout("b", 2, 2, 16)))
    monkeypatch.setattr(gpu, "prefills", lambda layouts: prefills(layouts, TINY.prompts))
    monkeypatch.setattr(gpu, "LiveGrid", lambda *_, **__: LiveGrid((1,), (16,), (0, 2), rounds=3, repeats=1))
    monkeypatch.setattr(gpu, "measure_steps", corner)
    monkeypatch.setattr(gpu, "FLEX_S", 0.0)  # nothing is compiled
    assert gpu.main(["--out", str(tmp_path), "--seconds", "100000"]) == 0
    about = (tmp_path / "README.md").read_text()
    assert "FAILED" not in about
    assert "out of time" not in about
    assert about.count(": begins") == 9
    decoding = {(n, c) for n, q, c in loads if q == 1}
    assert {(n, c) for n, _, c in loads} <= decoding  # every pass has its own decoding pass beside it
    assert sum((n * q, c) in decoding for n, q, c in loads if q > 1) >= 6  # and many the rule's


def test_the_script_needs_no_package_that_a_machine_with_pytorch_may_lack() -> None:
    script = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {"pyarrow", "typer", "click", "rich", "pydantic", "simpy", "prometheus_client"}:
            raise ImportError(name)
sys.meta_path.insert(0, Absent())
import calibration.gpu.__main__
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stderr


def test_without_the_device_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: no CUDA device here; --device cpu --tiny tries the script out"
    ]
    assert gpu.main(["--out", str(tmp_path / "out"), "--device", "cpu"]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: --device cpu: models of a GPU's size don't fit here; add --tiny"
    ]
    assert not (tmp_path / "out").exists()


def test_a_broken_part_costs_no_other(tmp_path: Path) -> None:
    here = session(tmp_path)
    with here.part("first"):
        here.add("first", seconds=1)
        raise KeyError("what was looked for")
    with here.part("second"):
        here.add("second", seconds=2)
    assert rows(tmp_path / "first.csv") == [{"seconds": "1"}]
    assert rows(tmp_path / "second.csv") == [{"seconds": "2"}]
    assert "first: FAILED, KeyError: 'what was looked for'" in (tmp_path / "README.md").read_text()
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".part")]


def test_memory_that_runs_out_is_one_line_and_a_row(tmp_path: Path) -> None:
    here, points = session(tmp_path), [Point.of("gemm", m=m, n=64, k=64) for m in (1, 2, 4)]
    prepare = here.workshop.prepare

    def make(point: Point) -> dict[str, Prepared]:
        if point["m"] == 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nand more lines")
        return prepare(point)

    here.workshop.prepare = make  # type: ignore[method-assign]
    here.measure(points, until_s=60.0)
    here.save()
    assert here.notes[-1].endswith(": oom")
    found = rows(tmp_path / "gemm.csv")
    assert [(row["m"], row["status"]) for row in found] == [*2 * [("1", "ok")], ("2", "oom"), *2 * [("4", "ok")]]


def test_an_output_that_is_not_a_number_is_no_time(tmp_path: Path) -> None:
    here = session(tmp_path)
    broken = Prepared(lambda _: torch.full((2,), float("nan")))
    here.workshop.prepare = lambda _: {"x": broken}  # type: ignore[method-assign]
    here.measure([Point.of("gemm", m=1, n=64, k=64)], until_s=60.0)
    (row,) = here.tables["gemm"]
    assert row["status"] == "wrong output"
    assert "latency_us" not in row


def test_a_surface_stops_at_its_time_and_keeps_what_it_has(tmp_path: Path) -> None:
    here = session(tmp_path)
    surface = Surface((1, 2), (1, 2), (16, 32), ((1,), (2,), (32,)), most_tokens=100)
    here.measure(surface.points((Layout("a", 2, 1, 8),)), until_s=-1.0)
    assert "attention" not in here.tables
    assert "out of time" in here.notes[-1]


def test_coarse_points_come_first_and_none_twice() -> None:
    surface = Surface()
    points = list(surface.points(LAYOUTS))
    queries, batches, cached = surface.coarse
    coarse = [p for p in points if p["queries"] in queries and p["batch"] in batches and p["cached"] in cached]
    assert points[: len(coarse)] == coarse
    assert len(set(points)) == len(points)
    assert all(p["batch"] * p["cached"] <= MOST_CACHED for p in points)
    assert {p["queries"] for p in points} == set(QUERIES)


def test_the_layouts_hold_what_is_asked_of_a_gpu() -> None:
    """32/8 and 64/8 over one and four GPUs, and 28/4."""
    known = {(x.heads, x.kv_heads, x.head_dim) for x in LAYOUTS}
    assert known >= {(32, 8, 128), (8, 2, 128), (64, 8, 128), (16, 2, 128), (28, 4, 128)}
    assert (LAYOUTS[0].heads, LAYOUTS[0].kv_heads) == (32, 8)


def write_tables(here: Session) -> None:
    for point in candidates([SMALL], dtype="fp32", grid=TINY):
        for row in rows_of(point, "x", Timing(np.full(2, 2e-3), np.full(2, 2e-3)), mode="graph", at_s=1.0):
            here.add(table_of(point), dtype="float32", **row)
    here.machine = {"device": here.found.identity, "dtype": "fp32"}


def test_tables_are_read_back_as_the_points_that_were_measured(tmp_path: Path) -> None:
    here = session(tmp_path)
    write_tables(here)
    lost = Point.of("gemm", m=4096, n=64, k=64)
    here.add("gemm", **refused(lost, "oom"))
    here.save()
    data, device, dtype = read_tables(tmp_path)
    assert (device, dtype) == (here.found, "fp32")
    points = candidates([SMALL], dtype="fp32", grid=TINY)
    names = sorted({name for point in points for name, _ in point.parameters})
    found = {
        Point.of(row["kind"], **{n: int(row[n]) for n in names if row[n] == row[n]}).family
        for row in data.to_dict("records")
    }
    assert found == {point.family for point in points}
    assert len(data) == len(points)
    np.testing.assert_allclose(data["seconds"], 2e-3)


@pytest.mark.parametrize(
    ("file", "change", "says"),
    [
        ("gemm.csv", None, "the run was cut before this part"),
        ("machine.json", None, "holds no machine.json"),
        ("machine.json", lambda text: text[: len(text) // 2], "is damaged"),
        ("attention.csv", lambda text: "a,b\n1,2\n", "is damaged"),
        ("gemm.csv", lambda text: text.replace("2000.0", "-1.0", 1), "times are positive microseconds"),
    ],
)
def test_what_is_no_measurement_is_one_line(tmp_path: Path, file: str, change: object, says: str) -> None:
    here = session(tmp_path)
    write_tables(here)
    here.save()
    path = tmp_path / file
    if change is None:
        path.unlink()
    else:
        path.write_text(change(path.read_text()))  # type: ignore[operator]
    with pytest.raises(InputError, match=says) as caught:
        import_measurements(str(tmp_path), out=str(tmp_path / "mine.json"))
    assert len(caught.value.lines) == 1
    assert not (tmp_path / "mine.json").exists()
