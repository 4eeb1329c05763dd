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

from calibration.gpu import __main__ as gpu  # noqa: E402
from calibration.gpu.attention import Layout, Surface, kernels, measure_surface  # noqa: E402
from calibration.gpu.session import Session  # noqa: E402
from calibration.gpu.timing import Timer  # noqa: E402

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def session(out: Path) -> Session:
    return Session(Timer(CPU, samples=2, sample_s=0.0, most_calls=2), out)


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
    assert set(tables) == {"verify", "gemm", "steps", "live", "parts", "small"}
    for table in tables.values():
        assert table
        assert all(row.get("wrong") in (None, "", "0", "0.0") for row in table)
    assert {(row["batch"], row["k"]) for row in tables["live"]} == {(b, k) for b in "12" for k in "02"}
    assert {row["part"] for row in tables["parts"]} == {"verify", "decode", "draft_first", "draft", "host"}
    machine = json.loads((tmp_path / "machine.json").read_text())
    assert machine["tiny"] is True
    assert machine["end"]["torch"] == torch.__version__


def test_without_the_device_it_says_so(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    assert gpu.main(["--out", str(tmp_path / "out")]) == 2
    assert capsys.readouterr().err.splitlines() == [
        "error: no CUDA device here; --device cpu --tiny tries the script out"
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
    log = (tmp_path / "log.txt").read_text()
    assert "first: FAILED, KeyError: 'what was looked for'" in log
    assert not [file for file in tmp_path.iterdir() if file.name.endswith(".part")]


def test_memory_that_runs_out_is_one_line(tmp_path: Path) -> None:
    here = session(tmp_path)

    def work() -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB\nand more lines")

    assert here.attempt("a pass of 8B at 512 x 1", work) == "out of memory"
    assert here.notes[-1].endswith("a pass of 8B at 512 x 1: out of memory")


def test_a_surface_stops_at_its_time_and_keeps_what_it_has(tmp_path: Path) -> None:
    here = session(tmp_path)
    surface = Surface((1, 2), (1, 2), (16, 32), ((1,), (2,), (32,)), most_tokens=100)
    measure_surface(here, surface, (Layout("a", 2, 1, 8),), until_s=-1.0)
    assert "verify" not in here.tables
    assert "out of time" in here.notes[-1]


def test_coarse_points_come_first_and_none_twice() -> None:
    points = list(gpu.FULL.points())
    queries, batches, cached = gpu.FULL.coarse
    coarse = {(b, c, q) for b in batches for c in cached for q in queries}
    kept = [p for p in points if p in coarse]
    assert points[: len(kept)] == kept
    assert len(set(points)) == len(points)
    assert all(b * (c + q) <= gpu.FULL.most_tokens for b, c, q in points)
    assert {q for _, _, q in points} == set(gpu.FULL.queries)


def test_an_output_that_is_not_a_number_is_marked() -> None:
    timer = Timer(CPU, samples=2, sample_s=0.0)
    assert timer.time(lambda _: torch.full((2,), float("nan"))).wrong
    assert not timer.time(lambda _: torch.ones(2)).wrong


def test_a_cpu_has_one_kernel_and_needs_no_rotation() -> None:
    timer = Timer(CPU)
    assert kernels(timer) == ("default",)
    assert timer.copies(1.0) == 1
