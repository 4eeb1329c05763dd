"""The live study: exact where the world is the model, loud where results are missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration.live.pairs import PAIRS
from calibration.measure.device import Device
from calibration.measure.points import candidates
from calibration.measure.samples import Samples
from calibration.measure.timers import Timing
from specsim.errors import InputError
from studies.fidelity_live import RESULTS, Comparison, compare, main, report
from studies.live_experiment import DTYPE, Grid, fit, kernel_file, profile_file
from studies.live_prediction import Costs, fit_lookup, predict

GRID = Grid(contexts=(100,), batches=(1, 4), ks=(0, 1, 3), repeats=2, rounds=5, runs=(1, 1))
RATE = 0.8  # of the study's imposed curve
SURVIVAL = {1: (0.7,), 3: (0.7, 0.5, 0.3)}


def gained(pair: str, k: int) -> float:
    curve = SURVIVAL.get(k, ()) if "n-gram" in pair else [RATE ** (i + 1) for i in range(k)]
    return 1.0 + sum(curve)


def write_world(folder: Path, slower: float = 1.0) -> None:
    """Raw results of a machine whose rounds take what their kernels do; live verification ``slower`` times as long."""
    device = Device("cpu", "none", 1 << 34, 1 << 25, 1, 1, {"torch": "none"})
    rng = np.random.default_rng(0)
    lookups = [
        {"repeat": 0, "pair": PAIRS[1].name, "who": who, "rows": rows, "seconds": 1e-5 + 2e-6 * rows}
        for who in ("target", "draft")
        for rows in (1, 4, 16)
    ]
    pd.DataFrame(lookups).to_parquet(folder / "lookups.parquet")
    for pair in PAIRS:
        samples = Samples(kernel_file(folder, pair.key), device.identity)
        shapes = [shape for shape in (pair.target, pair.draft) if shape is not None]
        for point in candidates(shapes, dtype=DTYPE, grid=GRID.kernels):
            size = float(np.prod([value for name, value in point.parameters if name in ("m", "n", "k", "rows")]))
            taken = np.full(3, 1e-5 + 1e-10 * size) * np.exp(rng.normal(scale=0.05))
            samples.add(point, "x", Timing(taken, taken), status="ok", at_s=1.0)
        samples.save()
    fit(folder)
    live, passes = [], []
    for pair in PAIRS:
        costs = Costs.read(folder, pair, pd.DataFrame(lookups))
        for context in GRID.contexts:
            for batch in GRID.batches:
                where = {"pair": pair.name, "context": context, "batch": batch}
                for span in (context, context + 96):
                    names = [("decode" if k == 0 else "verify", k + 1) for k in GRID.ks]
                    for name, queries in [*names, ("draft_first", 2), ("draft", 1)]:
                        row = {"name": name, "queries": queries, "span": span, "seconds": 1e-3 * queries}
                        passes.append({"repeat": 0, **where, **row})
                for k in GRID.ks:
                    each = gained(pair.name, k)
                    how = {"batch": batch, "context": context, "k": k, "rounds": GRID.rounds}
                    _, parts = predict(costs, None, **how, tokens_per_round=each)
                    row = {
                        "tokens": batch * each,
                        "draft_s": parts["draft"] if k else np.nan,
                        "verify_s": slower ** (k > 0) * (parts["verify"] + parts["attention"]),
                        "host_s": parts["host"],
                        "sampling_s": parts["sampling"],
                        "wall_s": 1.0,
                    }
                    live += [{"repeat": repeat, **where, "k": k, **row} for repeat in range(2) for _ in range(3)]
    pd.DataFrame(live).to_parquet(folder / "live.parquet")
    pd.DataFrame(passes).to_parquet(folder / "passes.parquet")
    curves = [{"pair": PAIRS[1].name, "k": k, "survival": x} for k, curve in SURVIVAL.items() for x in curve]
    pd.DataFrame(curves).to_parquet(folder / "acceptance.parquet")
    machine = {"device": device.identity, "date": "none", "clock": "none", "grid": asdict(GRID)}
    (folder / "machine.json").write_text(json.dumps({**machine, "load_average": [[1.0, 1.0, 1.0]]}))


def test_a_world_that_is_its_kernels_is_predicted_exactly(tmp_path: Path) -> None:
    write_world(tmp_path)
    found = compare(tmp_path)
    assert found.errors.max() < 1e-9
    assert found.spread < 1e-9
    np.testing.assert_allclose(found.cells["predicted_per_s"], found.cells["per_s"], rtol=1e-9)
    assert all(found.reached.values())
    assert found.chosen_well == len(found.choices) == 4
    assert found.errors_of("whole").max() > 0.1  # passes take something else in this world


def test_verification_that_is_slower_than_its_kernels_is_seen_and_named(tmp_path: Path) -> None:
    write_world(tmp_path, slower=2.0)
    found = compare(tmp_path)
    assert found.errors.median() > 0.12
    assert not found.reached["median"]
    text = report(found)
    assert text.count("MISSED") >= 2
    assert "most of what rounds from kernels miss is verify: -" in text


def test_profiles_are_made_again_from_the_samples_alone(tmp_path: Path) -> None:
    write_world(tmp_path)
    before = [profile_file(tmp_path, pair.key).read_bytes() for pair in PAIRS]
    fit(tmp_path)
    assert [profile_file(tmp_path, pair.key).read_bytes() for pair in PAIRS] == before


def test_a_lookup_is_a_call_and_its_rows() -> None:
    rows = np.array([1, 2, 8, 8, 8, 8])
    seconds = 3e-5 + 1e-6 * rows
    seconds[-1] = 1.0  # one disturbed sample
    found = fit_lookup(pd.DataFrame({"rows": rows, "seconds": seconds}))
    assert (found.call_s, found.row_s) == (pytest.approx(3e-5), pytest.approx(1e-6))


def test_missing_results_are_one_line(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no raw results here"):
        compare(tmp_path)


@pytest.mark.slow
def test_the_study_measures_here_in_its_small_form(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Numbers of a busy machine prove nothing; that everything is measured and compared does."""
    pytest.importorskip("torch")
    main(["--measure", str(tmp_path), "--tiny"])
    assert "best K within 3 %" in capsys.readouterr().out
    found = compare(tmp_path)
    assert len(found.cells) == 2 * 1 * 2 * 3
    assert np.isfinite(found.errors).all()


def committed() -> Comparison:
    if not (RESULTS / "live.parquet").exists():
        pytest.skip("no committed results of the live study")
    return compare()


def test_committed_results_hold_the_whole_grid() -> None:
    found = committed()
    assert len(found.cells) == 2 * 2 * 4 * 7
    assert len(found.choices) == 16


def test_committed_results_reach_the_targets_of_the_speedup() -> None:
    found = committed()
    assert found.errors.median() <= 0.05
    assert all(found.reached.values())
