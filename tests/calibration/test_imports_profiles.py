from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from calibration.imports import import_llmservingsim, import_vidur
from calibration.sources.llmservingsim import kernel_tables
from calibration.sources.vidur import MODELS, RAW, read_vidur
from specsim.cli import main
from specsim.cost.engine import load_engine
from specsim.cost.law import Law, gemm_work
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.cost.shapes import Segment, StepShape, Trust
from specsim.cost.step import StepCost
from specsim.errors import InputError

LAW = Law(5e-6, 1.6e12, 2.2e14, 2.0)
ROWS = (1, 2, 8, 16, 64, 65, 128, 256, 512)


def layer(model: str, tp: int) -> pd.DataFrame:
    w = MODELS[model]
    size, rows = w.hidden // w.heads, np.array(ROWS, dtype=float)
    shapes = {
        "attn_pre_proj": ((w.heads + 2 * w.kv_heads) // tp * size, w.hidden),
        "attn_post_proj": (w.hidden, w.heads // tp * size),
        "mlp_up_proj": (2 * w.wide // tp, w.hidden),
        "mlp_down_proj": (w.hidden, w.wide // tp),
    }
    times = {f"{name}_us": 1e6 * LAW.seconds(*gemm_work(rows, n, k, "bf16")) for name, (n, k) in shapes.items()}
    return pd.DataFrame({"gpu": "a100", "model": model, "tp": tp, "n": rows.astype(int), **times})


@pytest.fixture
def vidur(tmp_path: Path) -> Path:
    path = tmp_path / "layers.csv.gz"
    models = ["Llama-2-7b-hf", "Meta-Llama-3-8B", "internlm-20b"]
    pd.concat([layer(model, tp) for model in models for tp in (1, 2)]).to_csv(path, index=False)
    return path


def test_layers_become_products_of_the_models_shapes(vidur: Path) -> None:
    rows, gpu = read_vidur(vidur)
    assert gpu == "a100"
    mine = rows[(rows["model"] == "Meta-Llama-3-8B") & (rows["tp"] == 1)]
    assert set(zip(mine["n"], mine["k"], strict=True)) == {(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336)}
    expected = LAW.seconds(*gemm_work(mine["m"], mine["n"], mine["k"], "bf16"))
    np.testing.assert_allclose(mine["seconds"], expected, rtol=1e-9)


def test_vidurs_own_files_say_the_same(vidur: Path, tmp_path: Path) -> None:
    """The raw layout, in milliseconds with widths in columns, gives the rows that the table of medians gives."""
    table, w = layer("Llama-2-7b-hf", 2), MODELS["Llama-2-7b-hf"]
    raw = pd.DataFrame({f"time_stats.{c[:-3]}.median": table[c] / 1e3 for c in table if c.endswith("_us")})
    raw = raw.assign(
        n_head=w.heads, n_kv_head=w.kv_heads, n_embd=w.hidden, n_expanded_embd=w.wide, use_gated_mlp=True,
        num_tokens=table["n"], num_tensor_parallel_workers=2,
    )  # fmt: skip
    assert set(RAW) <= set(raw.columns)
    folder = tmp_path / "Llama-2-7b-hf"
    folder.mkdir()
    raw.to_csv(folder / "mlp.csv", index=False)
    mine, _ = read_vidur(folder / "mlp.csv", "a100")
    named, _ = read_vidur(vidur)
    keys = ["m", "n", "k"]
    other = named[(named["model"] == "Llama-2-7b-hf") & (named["tp"] == 2)].sort_values(keys)
    np.testing.assert_allclose(mine.sort_values(keys)["seconds"], other["seconds"], rtol=1e-9)
    with pytest.raises(InputError, match="does not say which GPU it is of; give --gpu"):
        read_vidur(folder / "mlp.csv")


def test_a_profile_from_vidur_prices_what_it_measured_and_says_what_it_borrowed(vidur: Path, tmp_path: Path) -> None:
    out, errors, notes = import_vidur(str(vidur), gpu=None, out=str(tmp_path / "v.json"))
    profile = load_profile(out, engine="sglang", dtype="bf16")
    curve, trust = profile.gemm["bf16"].curve(28672, 4096)
    assert trust is Trust.MEASURED
    rows = profile.gemm["bf16"].rows
    np.testing.assert_allclose(curve, LAW.seconds(*gemm_work(rows, 28672, 4096, "bf16")), rtol=0.02)
    assert errors["gemm.bf16"]["BORROWED"]["median_pct"] < 3.0
    assert any("borrowed from the shipped profile a100_sxm-vllm-bf16" in note for note in notes)
    forward = load_model("meta-llama/Meta-Llama-3-8B").forward()
    StepCost(forward, profile, load_engine("vllm")).cost(StepShape((Segment("decode", 8, 8, 8000, 8),)))


def write(change: Callable[[pd.DataFrame], pd.DataFrame], path: Path) -> Path:
    change(pd.concat([layer("Llama-2-7b-hf", 1), layer("Meta-Llama-3-8B", 1)], ignore_index=True)).to_csv(
        path, index=False
    )
    return path


@pytest.mark.parametrize(
    ("change", "gpu", "says"),
    [
        (lambda t: t.assign(gpu=["a100", "h100"] * (len(t) // 2)), None, "holds a100, h100; choose one with --gpu"),
        (lambda t: t, "b200", "holds a100, not 'b200'"),
        (lambda t: t.assign(gpu="a40"), None, "no datasheet of a40 ships"),
        (lambda t: t.drop(columns="mlp_up_proj_us"), None, "mlp_up_proj_us: no such column"),
        (lambda t: t.drop(columns="gpu"), None, "has neither the columns"),
        (lambda t: t.assign(model="gpt-9"), None, "a model of unknown widths, 'gpt-9'"),
        (lambda t: t.assign(mlp_up_proj_us=-1.0), None, "are missing or not above 0"),
        (lambda t: t.assign(mlp_up_proj_us="fast"), None, "are missing or not above 0"),
        (lambda t: t.assign(n=None), None, "token counts are missing"),
    ],
)
def test_a_wrong_table_is_one_line(
    change: Callable[[pd.DataFrame], pd.DataFrame], gpu: str | None, says: str, tmp_path: Path
) -> None:
    path = write(change, tmp_path / "t.csv")
    with pytest.raises(InputError, match=says) as caught:
        import_vidur(str(path), gpu=gpu, out=str(tmp_path / "v.json"))
    assert len(caught.value.lines) == 1
    assert not (tmp_path / "v.json").exists()


def test_a_truncated_or_absent_file_is_one_line(vidur: Path, tmp_path: Path) -> None:
    content = vidur.read_bytes()
    vidur.write_bytes(content[: len(content) // 2])
    with pytest.raises(InputError, match="not a readable CSV table"):
        read_vidur(vidur)
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b""))
    with pytest.raises(InputError, match="not a readable CSV table"):
        read_vidur(tmp_path / "t.csv.gz")
    with pytest.raises(InputError, match="not found"):
        read_vidur(tmp_path / "absent.csv")


def test_products_faster_than_the_gpu_cost_a_profile_its_trust(tmp_path: Path) -> None:
    path = write(lambda t: t.assign(mlp_up_proj_us=t["mlp_up_proj_us"] / 50.0), tmp_path / "t.csv")
    out, _, _ = import_vidur(str(path), gpu=None, out=str(tmp_path / "v.json"))
    profile = load_profile(out, engine="vllm", dtype="bf16")
    assert profile.low_trust
    assert "faster than physics" in profile.provenance["note"]


@pytest.fixture
def kernels(tmp_path: Path) -> Path:
    folder = tmp_path / "kernels" / "tp1"
    folder.mkdir(parents=True)
    shape = load_model("meta-llama/Llama-3.2-1B").forward()
    dense, heads = [], []
    for linear in shape.linears:
        for m in ROWS:
            us = 1e6 * float(LAW.seconds(*gemm_work(m, linear.n, linear.k, "bf16")))
            (heads if linear.name == "lm_head" else dense).append((linear.name, m, us))
    dense += [(name, m, 2.0 + m / 100.0) for name in ("layernorm", "rotary_emb", "act_fn") for m in ROWS]
    pd.DataFrame(dense, columns=["layer", "tokens", "time_us"]).to_csv(folder / "dense.csv", index=False)
    pd.DataFrame(heads, columns=["layer", "sequences", "time_us"]).to_csv(folder / "per_sequence.csv", index=False)
    rows = [(0, 0, n, kv, 8.0 + n * kv * 2048 / 1e6) for n in (1, 4, 16, 64) for kv in (16, 128, 1024, 8192)]
    rows += [(c, p, 0, 0, 10.0 + c * (c + p) * 8192 / 1e8) for c in (16, 64, 256, 1024) for p in (0, 512)]
    columns = ["prefill_chunk", "kv_prefill", "n_decode", "kv_decode", "time_us"]
    pd.DataFrame(rows, columns=columns).to_csv(folder / "attention.csv", index=False)
    meta = "vllm_version: 0.19.0\nhardware: RTX4090\nmodel: meta-llama/Llama-3.2-1B\nengine:\n  model: other\n"
    (folder.parent / "meta.yaml").write_text(meta)
    return folder.parent


def test_a_profilers_folder_becomes_a_profile_of_its_gpu(kernels: Path, tmp_path: Path) -> None:
    out, errors, notes = import_llmservingsim(str(kernels), model=None, out=str(tmp_path / "l.json"))
    profile = load_profile(out, engine="vllm", dtype="bf16")
    assert profile.hardware.name == "RTX4090"
    assert profile.hardware.memory_bytes == 24 << 30
    surface = profile.decode["bf16"].surface(32, 8, 64, None)
    for n, kv in ((1, 128), (16, 1024)):
        assert float(surface.at(n, kv)) * 1e6 == pytest.approx(8.0 + n * kv * 2048 / 1e6, rel=0.05)
    assert set(errors) == {"gemm.bf16", "attention.prefill.bf16", "attention.decode.bf16", "elementwise"}
    assert any("modelled" in note for note in notes)
    step = StepCost(load_model("meta-llama/Llama-3.2-1B").forward(), profile, load_engine("vllm"))
    time = step.cost(StepShape((Segment("verify", 4, 16, 4000, 16),)))
    assert int(time.terms["verify_attention"].trust) == Trust.TRANSFERRED
    with pytest.raises(InputError, match="the profile is for engine 'vllm', asked for 'sglang'; give --engine vllm"):
        load_profile(out, engine="sglang", dtype="bf16")


@pytest.mark.parametrize(("kind", "other"), [("prefill", "attention"), ("attention", "prefill")])
def test_a_profilers_errors_of_prefill_and_of_decode_stay_apart(
    kernels: Path, tmp_path: Path, kind: str, other: str
) -> None:
    def residuals() -> Mapping[str, Mapping[str, np.ndarray]]:
        out, _, _ = import_llmservingsim(str(kernels), model=None, out=str(tmp_path / "l.json"))
        return load_profile(out, engine="vllm", dtype="bf16").residuals

    before, path = residuals(), kernels / "tp1" / "attention.csv"
    table = pd.read_csv(path)
    disturbed = ((table["n_decode"] == 0) == (kind == "prefill")) & (table.index % 4 == 0)
    table.assign(time_us=table["time_us"] * np.where(disturbed, 1.5, 1.0)).to_csv(path, index=False)
    after = residuals()
    for layer, values in before[other].items():
        np.testing.assert_array_equal(after[other][layer], values)
    assert np.abs(after[kind]["PARAMETRIC"] - before[kind]["PARAMETRIC"]).max() > 0.05


def test_folders_are_found_and_what_they_lack_is_named(kernels: Path, tmp_path: Path) -> None:
    for folder in (kernels, kernels / "tp1"):
        tables = kernel_tables(folder)
        assert (tables.model, tables.gpu, tables.version, tables.tp) == (
            "meta-llama/Llama-3.2-1B", "RTX4090", "0.19.0", 1,
        )  # fmt: skip
    (kernels / "meta.yaml").unlink()
    with pytest.raises(InputError, match="does not name its model"):
        import_llmservingsim(str(kernels), model=None, out=None)
    with pytest.raises(InputError, match="no GPU 'kernels'"):
        import_llmservingsim(str(kernels), model="meta-llama/Llama-3.2-1B", out=str(tmp_path / "l.json"))
    (kernels / "tp1" / "attention.csv").write_bytes(b"\xff\xfe\x00broken")
    with pytest.raises(InputError, match=r"attention\.csv"):
        kernel_tables(kernels)


@pytest.mark.data
def test_the_measured_sets_import_and_price_within_their_own_noise(shared_data: Path, tmp_path: Path) -> None:
    for gpu in ("RTX4090", "RTXPRO6000"):
        folder = shared_data / "llmservingsim" / gpu / "Llama-3.1-8B" / "kernels"
        out, errors, _ = import_llmservingsim(str(folder), model=None, out=str(tmp_path / f"{gpu}.json"))
        assert errors["gemm.bf16"]["INTERPOLATED"]["median_pct"] < 3.0
        assert errors["attention.decode.bf16"]["INTERPOLATED"]["median_pct"] < 5.0
        profile, tables = load_profile(out, engine="vllm", dtype="bf16"), kernel_tables(folder)
        dense = tables.dense[tables.dense["layer"] == "gate_up_proj"]
        curve, _ = profile.gemm["bf16"].curve(28672, 4096)
        found = np.interp(dense["tokens"], profile.gemm["bf16"].rows, curve) * 1e6
        assert np.median(np.abs(found / dense["time_us"] - 1.0)) < 0.02


@pytest.mark.data
def test_the_command_imports_every_format(
    shared_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("aiconfigurator_core")
    monkeypatch.chdir(tmp_path)
    kernels = shared_data / "llmservingsim" / "RTX4090" / "Llama-3.1-8B" / "kernels"
    assert main(["calibrate", "import", "aiconfigurator", "--system", "a100_sxm", "--out", "a.json"]) == 0
    assert main(["calibrate", "import", "llmservingsim", str(kernels), "--out", "l.json"]) == 0
    said = capsys.readouterr().out
    assert "use it with --hardware a.json" in said
    assert json.loads(Path("l.json").read_text())["schema"] == 2
    assert main(["calibrate", "import", "aiconfigurator", "--system", "a1000"]) == 2
    assert capsys.readouterr().err.startswith("error: ")
