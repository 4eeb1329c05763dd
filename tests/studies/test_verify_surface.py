"""The verify surface's answers: exact where times follow a known law, loud where tables are missing."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from specsim.errors import InputError
from studies.surface_figures import draw
from studies.verify_surface import (
    HEADS,
    KNEE,
    WHERE,
    Measured,
    agreement,
    depths,
    growth,
    knees,
    main,
    read,
    report,
    rule,
)

QUERIES, BATCHES, CACHED = (1, 2, 4, 8), (1, 2, 4, 8), (512, 2048)
Law = Callable[[int, int, int], float]


def one_read(q: int, b: int, c: int) -> float:
    """A constant and the cache, read once whatever the query tokens."""
    return 5.0 + 1e-3 * b * c + 0.0 * q


def write(folder: Path, law: Law = one_read, *, scale: float = 1.0) -> Path:
    """Tables of a device whose attention follows ``law`` (efficient twice that), and passes of layers beside a head."""
    folder.mkdir(exist_ok=True)
    points = [
        {"op": "attention", "heads": 32, "kv_heads": 8, "head_dim": 128, "query_tokens": q, "batch": b, "kv_tokens": c,
         "kernel": kernel, "default": int(kernel == "efficient"), "mode": "graph", "repeat": repeat, "status": "ok",
         "latency_us": scale * slower * law(q, b, c) * (1.0 + 0.5 * (repeat == 2))}
        for q, b, c in itertools.product(QUERIES, BATCHES, CACHED)
        for kernel, slower in (("flash", 1.0), ("efficient", 2.0))
        for repeat in range(3)
    ]  # fmt: skip
    refused = {**points[0], "status": "oom", "latency_us": np.nan, "query_tokens": 16}
    pd.DataFrame([*points, refused]).to_csv(folder / "attention.csv", index=False)
    passes = [
        {"op": "step", "model": "big" if layers == 4 else f"{layers} layers of big", "layers": layers, "mode": "graph",
         "batch": b, "query_tokens": q, "kv_tokens": c, "repeat": repeat,
         "latency_us": scale * (300.0 + layers * law(q, b, c))}
        for layers, q, b, c, repeat in itertools.product((2, 4), QUERIES, BATCHES, CACHED, range(2))
    ]  # fmt: skip
    pd.DataFrame(passes).to_csv(folder / "steps.csv", index=False)
    machine = {"device": {"name": "a GPU", "versions": {"torch": "none"}}, "dtype": "bf16", "date": "2026-01-01"}
    (folder / "machine.json").write_text(json.dumps(machine))
    return folder


def test_growth_is_the_ratio_of_medians_through_the_fastest_kernel(tmp_path: Path) -> None:
    found = read(write(tmp_path, lambda q, b, c: (5.0 + 1e-3 * b * c) * (1.0 + 0.1 * (q - 1))))
    grown = growth(found.fastest, WHERE)
    assert len(grown) == len(BATCHES) * len(CACHED)
    for q in QUERIES:
        np.testing.assert_allclose(grown[q], 1.0 + 0.1 * (q - 1))
    assert grown.loc[(32, 8, 128, 512, 4), "one_us"] == pytest.approx(one_read(1, 4, 512))
    np.testing.assert_allclose(knees(grown), 2.0)
    assert 16 not in grown  # a point that failed is no point


@given(st.floats(1.0, 8.0), st.floats(0.05, 2.0))
def test_a_knee_is_where_a_broken_line_crosses(bend: float, slope: float) -> None:
    """Flat up to ``bend``, then rising: on a grid that has the bend, interpolation is exact."""
    queries = sorted({1.0, bend, 20.0})
    rows = pd.DataFrame([{q: 1.0 + slope * max(0.0, q - bend) for q in queries} | {"one_us": 3.0}])
    assert knees(rows)[0] == pytest.approx(bend + KNEE / slope)


def test_without_growth_there_is_no_knee(tmp_path: Path) -> None:
    assert np.isinf(knees(growth(read(write(tmp_path)).fastest, WHERE))).all()


def test_the_rule_is_exact_where_only_the_product_counts(tmp_path: Path) -> None:
    found = read(write(tmp_path, lambda q, b, c: 7.0 + 1e-3 * (b * q) ** 1.3 * c))
    table = rule(found.fastest, [*HEADS, "kv_tokens"])
    table = table[~table["extended"].astype(bool)]
    assert len(table) == len(CACHED) * sum(b * q in BATCHES for b, q in itertools.product(BATCHES, QUERIES[1:]))
    np.testing.assert_allclose(table["ruled"], table["measured"])


def test_the_rule_is_off_by_the_reads_that_one_pass_saves(tmp_path: Path) -> None:
    """Where the cache is read once, b q sequences read it q times; past the measured sequences a line is exact here."""
    found = read(write(tmp_path))
    table = rule(found.fastest, [*HEADS, "kv_tokens"])
    assert len(table) == len(CACHED) * len(BATCHES) * (len(QUERIES) - 1)
    assert set(table["extended"]) == {False, True}
    for row in table.itertuples():
        assert row.measured == pytest.approx(1.0)
        expected = one_read(1, row.batch * row.query_tokens, row.kv_tokens) / one_read(1, row.batch, row.kv_tokens)
        assert row.ruled == pytest.approx(expected)


def test_depth_is_a_line_through_layers_of_one_model(tmp_path: Path) -> None:
    found = read(write(tmp_path))
    extra = found.steps[found.steps["layers"] == 2].assign(model="another", layers=7, latency_us=9.0)
    table = depths(pd.concat([found.steps, extra]))
    assert len(table) == len(BATCHES) * len(CACHED)
    for row in table.to_dict("records"):
        assert row["constant_us"] == pytest.approx(300.0)
        assert row["layer_us"] == pytest.approx(one_read(1, row["batch"], row["kv_tokens"]))
        assert row["another (7)"] == 9.0


def test_a_second_run_is_compared_point_by_point(tmp_path: Path) -> None:
    first, second = (read(write(tmp_path / name, scale=scale)) for name, scale in (("a", 1.0), ("b", 1.1)))
    table = agreement(first, second)
    assert list(table["table"]) == ["attention", "steps"]
    assert list(table["points"]) == [len(first.attention), len(first.steps)]
    for name in ("p5", "median", "p95"):
        np.testing.assert_allclose(table[name], 1.1)
    assert "second run" in report(first, second)


def test_the_report_says_which_kernel_was_fastest_and_which_is_taken(tmp_path: Path) -> None:
    lines = report(read(write(tmp_path))).splitlines()
    (flash,) = (line.split() for line in lines if line.split()[:1] == ["flash"])
    assert flash[1:4] == [str(len(BATCHES) * len(CACHED) * len(QUERIES)), "100%", "0%"]
    (efficient,) = (line.split() for line in lines if line.split()[:1] == ["efficient"])
    assert efficient[2:5] == ["0%", "100%", "2.00"]


def test_every_picture_is_drawn(tmp_path: Path) -> None:
    written = draw(read(write(tmp_path)), tmp_path / "pictures")
    assert [path.stem for path in written] == ["verify-growth", "verify-knee", "verify-rule", "draft-depth"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)
    assert sorted((tmp_path / "pictures").iterdir()) == sorted(written)


@pytest.mark.parametrize(
    ("file", "text", "says"),
    [
        ("attention.csv", None, "lacks attention.csv; OUT="),
        ("steps.csv", None, "lacks steps.csv"),
        ("machine.json", "{", "is damaged"),
        ("machine.json", '{"device": "a GPU"}', "is damaged"),
        ("attention.csv", "a,b\n1,2\n", "is damaged"),
        ("attention.csv", "status,op\nok,gemm\n", "is damaged"),
    ],
)
def test_what_is_no_measurement_is_one_line(tmp_path: Path, file: str, text: str | None, says: str) -> None:
    path = write(tmp_path) / file
    path.unlink() if text is None else path.write_text(text)
    with pytest.raises(InputError, match=says) as caught:
        main([str(tmp_path)])
    assert len(caught.value.lines) == 1


def test_a_folder_for_pictures_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    found = read(write(tmp_path))
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="give another folder"):
        draw(found, tmp_path / "file" / "pictures")


def test_without_single_query_tokens_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    found = read(write(tmp_path))
    with pytest.raises(InputError, match="no point of one query token"):
        growth(found.fastest[found.fastest["query_tokens"] > 1], WHERE)
    other = Measured(found.attention.assign(heads=1), found.steps.assign(model="x"), found.machine)
    with pytest.raises(InputError, match="no point in common"):
        agreement(found, other)
