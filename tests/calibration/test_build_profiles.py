from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from table_tree import ATTENTION, CONVERTING_S, EXPERTS, GPU, PRODUCT, PRODUCT_FP8, write_tables

import calibration.build
from calibration.build import build, encode, main
from calibration.laws import digits, fit_law, microseconds
from calibration.sources.aiconfigurator import Source, installed
from specsim.cost.attention import attention_work
from specsim.cost.engine import load_engine
from specsim.cost.law import Law, gemm_work
from specsim.cost.moe import expert_work
from specsim.cost.profile import Profile, load_profile, read_profile
from specsim.cost.rows import sum_experts
from specsim.cost.shapes import Experts, ForwardShape, Linear, Segment, StepShape, Trust
from specsim.cost.step import StepCost
from specsim.errors import InputError


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Source:
    return write_tables(tmp_path_factory.mktemp("tables"))


@pytest.fixture(scope="module")
def profile(source: Source) -> Profile:
    return read_profile(encode(build(source, GPU, "vllm", "bf16")), file="test.json")


def test_a_law_is_found_again_from_the_times_it_made(profile: Profile) -> None:
    law = profile.gemm["bf16"].law
    assert law.constant_s == pytest.approx(PRODUCT.constant_s, rel=0.02)
    assert law.bandwidth_bytes_per_s == pytest.approx(PRODUCT.bandwidth_bytes_per_s, rel=0.01)
    assert law.flops_per_s == pytest.approx(PRODUCT.flops_per_s, rel=0.01)
    assert law.exponent == pytest.approx(PRODUCT.exponent, rel=0.05)


def test_measured_products_come_back_within_rounding(profile: Profile) -> None:
    table = profile.gemm["bf16"]
    for n, k in ((4096, 4096), (256, 16384)):
        seconds, trust = table.curve(n, k)
        assert trust is Trust.MEASURED
        np.testing.assert_allclose(seconds, PRODUCT.seconds(*gemm_work(table.rows, n, k, "bf16")), rtol=6e-3)


def test_a_shape_between_measured_ones_is_borrowed_and_near_the_law(profile: Profile) -> None:
    table = profile.gemm["bf16"]
    seconds, trust = table.curve(6144, 4096)
    assert trust is Trust.BORROWED
    np.testing.assert_allclose(seconds, PRODUCT.seconds(*gemm_work(table.rows, 6144, 4096, "bf16")), rtol=2e-2)


def test_attention_of_a_measured_layout_comes_back_within_rounding(profile: Profile) -> None:
    surface = profile.decode["bf16"].surface(32, 8, 128, None)
    assert surface.trust is Trust.MEASURED
    for b, x in ((1.0, 256.0), (32.0, 1024.0), (128.0, 16384.0)):
        work = attention_work("decode", b, x, 32, 8, 128, None, "bf16")
        assert float(surface.at(b, x)) == pytest.approx(float(ATTENTION.seconds(*work)), rel=6e-3)
        assert int(surface.trust_at(b, x)) == Trust.INTERPOLATED


def test_experts_cover_more_weights_as_tokens_grow(profile: Profile) -> None:
    table = profile.experts["bf16"]
    seconds, trust = table.curve(Experts(2048, 768, 128, 8, 1, 2))
    assert trust is Trust.MEASURED
    key = np.array([2048, 768, 8, 128, 2], dtype=float)
    np.testing.assert_allclose(seconds, EXPERTS.seconds(*expert_work(table.tokens, key, "bf16")), rtol=6e-3)


def test_static_scales_are_the_measured_products_less_their_quantisation(source: Source) -> None:
    fp8 = read_profile(encode(build(source, GPU, "vllm", "fp8")), file="test.json")
    dynamic, static = fp8.gemm["fp8"], fp8.gemm["fp8_static"]
    n, k = 4096, 8192
    expected = PRODUCT_FP8.seconds(*gemm_work(static.rows, n, k, "fp8"))
    small = static.rows <= 16  # there converting costs its constant alone
    np.testing.assert_allclose(static.curve(n, k)[0][small], expected[small], rtol=2e-2)
    assert (dynamic.curve(n, k)[0] > static.curve(n, k)[0] + 0.9 * CONVERTING_S).all()


def test_products_that_hold_no_quantisation_keep_their_time(tmp_path: Path) -> None:
    source = write_tables(tmp_path, quantisation_included=False)
    for table in ("computescale", "scale_matrix"):
        path = next(tmp_path.rglob(f"{table}_perf.parquet"))
        rows = pd.read_parquet(path)
        rows.assign(latency=rows["latency"] + (0.0 if table == "computescale" else 8e-3)).to_parquet(path)
    document = build(source, GPU, "vllm", "fp8")
    assert np.max(document["gemm"]["fp8_static"]["off_us"]) == 0.0
    assert any("static and dynamic cost the same" in note for note in document["provenance"]["notes"])


def test_rows_faster_than_physics_are_dropped_counted_and_cost_the_profile_its_trust(tmp_path: Path) -> None:
    document = build(write_tables(tmp_path, impossible=0.2), GPU, "vllm", "bf16")
    table = next(t for t in document["provenance"]["tables"] if t["section"] == "gemm.bf16")
    assert 0.15 < table["filtered"] / (table["rows"] + table["filtered"]) < 0.25
    assert document["provenance"]["trust"] == "low"
    profile = read_profile(encode(document), file="test.json")
    assert profile.low_trust
    law = profile.gemm["bf16"].law
    assert law.bandwidth_bytes_per_s == pytest.approx(PRODUCT.bandwidth_bytes_per_s, rel=0.02)


def test_a_build_is_the_same_twice_and_names_its_tables(source: Source, profile: Profile) -> None:
    again = encode(build(source, GPU, "vllm", "bf16"))
    assert read_profile(again, file="again.json").sha256 == profile.sha256
    provenance = json.loads(again)["provenance"]
    assert provenance["licence"] == "Apache-2.0"
    assert provenance["package_version"] == "0.0.test"
    assert {t["framework_version"] for t in provenance["tables"]} == {"9.9.0"}
    assert all((source.root / t["path"]).is_file() for t in provenance["tables"])


def test_a_written_profile_is_read_back_and_prices_a_step(tmp_path: Path, source: Source) -> None:
    path = tmp_path / "mine.json"
    path.write_bytes(encode(build(source, GPU, "vllm", "bf16")))
    profile = load_profile(path, engine="vllm", dtype="bf16")
    forward = ForwardShape("toy", 2, 4096, 32000, (Linear("a", 4096, 4096, 2),), ())
    step = StepCost(forward, profile, load_engine("vllm")).cost(StepShape((Segment("decode", 8, 8, 0, 8),)))
    expected = 2 * float(PRODUCT.seconds(*gemm_work(8, 4096, 4096, "bf16")))
    assert float(step.terms["gemm"].seconds) == pytest.approx(expected, rel=6e-3)
    assert int(step.terms["gemm"].trust) == Trust.MEASURED


def test_an_engine_without_tables_says_which_one_is_missing(source: Source) -> None:
    with pytest.raises(InputError, match="no gemm_perf of sglang on h100_sxm"):
        build(source, GPU, "sglang", "bf16")


def test_versions_sort_as_releases_do(tmp_path: Path) -> None:
    folder = tmp_path / "data" / "g" / "gemm" / "f"
    for version in ("1.3.0rc5", "1.3.0rc20", "1.3.0", "1.2.9", "1.10.0", "1.3.0.post1"):
        (folder / version).mkdir(parents=True)
    order = ["1.2.9", "1.3.0rc5", "1.3.0rc20", "1.3.0", "1.3.0.post1", "1.10.0"]
    assert Source(tmp_path, "").versions("g", "gemm", "f") == order


def test_a_fit_never_beats_the_gpu() -> None:
    moved = np.geomspace(1e6, 1e9, 50)
    law = fit_law(moved, moved, moved * 0, 0.5 * moved / 1e12, bandwidth=1e12, peak=1e15, with_blocks=False)
    assert law.bandwidth_bytes_per_s <= 1e12


def test_rounding_keeps_digits_and_marks_what_is_missing() -> None:
    assert digits(123456.0, 3) == 123000.0
    assert microseconds(np.array([[1.23456e-6, np.nan], [2e-6, 1.0e-3]]), 3) == [[1.23, None], [2, 1000]]


def test_the_law_has_its_limits() -> None:
    law = Law(1e-6, 1e12, 1e15, 2.0, 1e-8)
    assert float(law.seconds(1e9, 0.0)) == pytest.approx(1e-6 + 1e-3)
    assert float(law.seconds(0.0, 1e12)) == pytest.approx(1e-6 + 1e-3)
    assert float(law.seconds(1e9, 1e12)) == pytest.approx(1e-6 + 1e-3 * 2**0.5)
    assert float(law.seconds(0.0, 0.0, 100.0)) == pytest.approx(1e-6 + 1e-6)


def test_the_command_writes_checks_and_notices_a_difference(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(calibration.build, "installed", lambda: source)
    arguments = ["--only", "h100_sxm-vllm-bf16", "--out", str(tmp_path)]
    assert main(arguments) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["h100_sxm-vllm-bf16.json"]
    said = capsys.readouterr().out
    assert "borrowed" in said
    assert "faster than physics" in said
    assert main([*arguments, "--check"]) == 0
    path = tmp_path / "h100_sxm-vllm-bf16.json"
    path.write_bytes(path.read_bytes().replace(b'"nugget":', b'"nugget": '))
    assert main([*arguments, "--check"]) == 1
    assert "DIFFERS" in capsys.readouterr().out


def test_without_the_package_the_remedy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"aiconfigurator-core is not installed; pip install 'llm-specsim\[silicon\]'"):
        installed()


def test_what_one_row_past_a_tile_costs_is_said_where_it_is_much() -> None:
    rows = pd.DataFrame(
        [(m, n, 4096, t) for n in (2048, 4096) for m, t in ((128, 10.0), (129, 11.0), (256, 12.0), (257, 24.0))]
        + [(m, 256, 256, 1.0) for m in (128, 129, 256, 257)],
        columns=["m", "n", "k", "seconds"],
    )
    said = calibration.build.steep_edges(rows, "fp8")
    assert said is not None
    assert said.startswith("fp8 products take 2.00 times as long at 257 rows as at 256 (measured, median of 2 shapes)")
    assert calibration.build.steep_edges(rows[rows["m"] < 257], "fp8") is None


def test_experts_between_measured_counts_follow_the_coverage_of_their_law(profile: Profile) -> None:
    """1, 4, 16 and 64 tokens were measured; a straight line between them is up to a fifth off."""
    between = np.array([2.0, 8.0, 11.0, 32.0, 50.0])
    curve = sum_experts(profile.experts["bf16"], [Experts(2048, 768, 128, 8, 1)])
    expected = EXPERTS.seconds(*expert_work(between, np.array([2048, 768, 8, 128, 1.0]), "bf16"))
    np.testing.assert_allclose(curve.at(between), expected, rtol=0.01)
    assert list(curve.trust_at(np.array([4.0, 5.0]))) == [Trust.MEASURED, Trust.INTERPOLATED]
