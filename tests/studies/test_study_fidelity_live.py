"""The live study: exact where the world is the model, loud where results are missing."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from specsim.errors import InputError
from studies.fidelity_live import RESULTS, Comparison, compare, main, report
from studies.live_experiment import Grid

GRID = Grid(contexts=(100, 300), batches=(1, 4), ks=(0, 1, 3), host_ks=(0, 3), repeats=2, rounds=5)
PAIR = "imposed"
RATE = 0.8  # of the study's imposed curve


def seconds(name: str, batch: int, queries: int, span: float) -> float:
    """A cost that is linear in the span, as the study interpolates."""
    scale = 1e-3 if name.startswith("draft") else 8e-3
    return scale * (1.0 + 0.02 * batch * queries + 1e-4 * batch * queries * span)


def host(batch: int, k: int) -> float:
    return 1e-4 * (1.0 + batch * 0.1 + k)


def write_world(folder: Path, slower: float = 1.0) -> None:
    """Raw results of a machine on which every time is the cost above; live verification ``slower`` times as long."""
    tables: dict[str, list[dict[str, object]]] = {"live": [], "passes": [], "host": []}
    for repeat in range(GRID.repeats):
        for context in GRID.contexts:
            for batch in GRID.batches:
                where = {"repeat": repeat, "pair": PAIR, "context": context, "batch": batch}
                for span in (context, context + 96):
                    points = [("decode" if k == 0 else "verify", k + 1) for k in GRID.ks]
                    for name, queries in [*points, ("draft_first", 2), ("draft", 1)]:
                        row = {"name": name, "queries": queries, "span": span}
                        tables["passes"].append({**where, **row, "seconds": seconds(name, batch, queries, span)})
                tables["host"] += [{**where, "k": k, "seconds": host(batch, k)} for k in GRID.host_ks]
                for k in GRID.ks:
                    gained = 1.0 + sum(RATE ** (i + 1) for i in range(k))
                    span = context + gained * (GRID.rounds + 1) / 2 + k + 1
                    draft = seconds("draft_first", batch, 2, span) + (k - 1) * seconds("draft", batch, 1, span)
                    row = {
                        "tokens": batch * gained,
                        "draft_s": draft if k else np.nan,
                        "verify_s": slower ** (k > 0) * seconds("verify", batch, k + 1, span),
                        "host_s": host(batch, k) / 2,
                        "sampling_s": host(batch, k) / 2,
                        "wall_s": 1.0,
                    }
                    tables["live"] += [{**where, "k": k, **row}] * 3
    for name, rows in tables.items():
        pd.DataFrame(rows).to_parquet(folder / f"{name}.parquet")
    empty = {"pair": str, "k": int, "survival": float}
    pd.DataFrame({name: pd.Series(dtype=kind) for name, kind in empty.items()}).to_parquet(
        folder / "acceptance.parquet"
    )
    machine = {"cpu": "none", "threads": 1, "torch": "none", "date": "none", "clock": "none"}
    machine |= {"load_average": [[1.0, 1.0, 1.0]], "grid": asdict(GRID)}
    (folder / "machine.json").write_text(json.dumps(machine))


def test_a_world_that_is_the_model_is_predicted_exactly(tmp_path: Path) -> None:
    write_world(tmp_path)
    found = compare(tmp_path)
    assert found.errors.max() < 1e-9
    assert found.spread < 1e-9
    np.testing.assert_allclose(found.cells["predicted_per_s"], found.cells["per_s"], rtol=1e-9)
    assert all(found.reached.values())
    assert found.chosen_well == len(found.choices) == 4


def test_verification_that_is_slower_than_alone_is_seen(tmp_path: Path) -> None:
    write_world(tmp_path, slower=1.5)
    found = compare(tmp_path)
    assert found.errors.median() > 0.12
    assert not found.reached["median"]
    text = report(found)
    assert text.count("MISSED") >= 2
    assert "imposed" in text


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


def test_committed_results_reach_the_targets() -> None:
    found = committed()
    assert found.errors.median() <= 0.05
    assert found.errors.quantile(0.95) <= 0.12
    assert found.chosen_well >= 15
