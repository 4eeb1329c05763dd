"""Measured tables of other projects as profiles: ``specsim calibrate import``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

import specsim
from calibration.build import build, encode
from calibration.gpu.tables import read_tables
from calibration.laws import PROBABILITIES, error_row
from calibration.measure.field import conformal_quantiles
from calibration.measure.fit import MOST_IMPOSSIBLE, PRIOR_SD, fit_profile, normal_quantiles, peaks_seen
from calibration.measure.fit_attention import fit_cached, fit_prefill
from calibration.measure.fit_products import fit_products
from calibration.measure.session import MOST_UNSTEADY, UNSTEADY
from calibration.sources.aiconfigurator import installed
from calibration.sources.llmservingsim import kernel_tables
from calibration.sources.vidur import read_vidur
from specsim.cost.engine import load_engine
from specsim.cost.hardware import Hardware, load_hardware
from specsim.cost.model import load_model
from specsim.cost.model_shape import ModelShape
from specsim.cost.profile import ANY_ENGINE, MEASURED_SCHEMA, profile_names, read_profile
from specsim.cost.shapes import Floats
from specsim.errors import InputError
from specsim.files import file_to_write, replace_file

Written = tuple[str, dict[str, dict[str, dict[str, float]]], tuple[str, ...]]
"""Where a profile went, its held-out errors by section and layer, and notes."""

VIDUR_GPUS = {"a100": "a100_sxm", "h100": "h100_sxm"}
"""Vidur's names of GPUs whose datasheets ship (its A100 and H100 nodes are DGX: SXM)."""

CARDS = {"RTX4090": (24 << 30, 128, 1), "RTXPRO6000": (96 << 30, 188, 8)}
"""Memory, multiprocessors and cards a node of GPUs in LLMServingSim's tables; NVIDIA's product pages."""


def import_aiconfigurator(system: str, *, engine: str, dtype: str, out: str | None) -> Written:
    """The profile of one system, engine and precision from the installed tables."""
    document = build(installed(), load_hardware(system), engine, dtype)
    return _write(out or f"{system}-{engine}-{dtype}.json", encode(document))


def import_measurements(directory: str, *, out: str | None) -> Written:
    """A profile of the GPU that ``calibration/run_gpu.sh`` measured into a folder."""
    data, device, dtype = read_tables(Path(directory))
    unsteady = float((data["spread"] > UNSTEADY).mean()) if len(data) else 0.0
    origin = {
        "package": "calibration/run_gpu.sh",
        "package_version": specsim.__version__,
        "licence": "own measurement",
        "measured_on": device.identity,
        "clock": "wall",
        "points": len(data),
        "unsteady_share": round(unsteady, 3),
        "disturbed": unsteady > MOST_UNSTEADY,
    }
    document = fit_profile(data, device, [], dtype=dtype, provenance=origin)
    return _write(out or f"{device.shipped or 'gpu'}-measured.json", _bytes(document))


def import_vidur(file: str, *, gpu: str | None, out: str | None) -> Written:
    """Products from Vidur's operator timings; everything else as in the shipped profile of that GPU, and marked so."""
    rows, name = read_vidur(Path(file), gpu)
    system = VIDUR_GPUS.get(name)
    if system is None:
        known = ", ".join(VIDUR_GPUS)
        raise InputError(
            f"no datasheet of {name} ships, nor attention to put beside its products; {known} do", file=file
        )
    hardware = load_hardware(system)
    data = rows.groupby(["m", "n", "k"], as_index=False)["seconds"].median()
    gemm, layers, impossible = fit_products(_thinned(data), hardware, "bf16", seen=False)
    label = f"{system}-vllm-bf16"
    assert label in profile_names()
    from importlib import resources

    document = json.loads(resources.files("specsim.cost").joinpath("profiles", f"{label}.json").read_bytes())
    errors, residuals = _held_out(layers)
    document |= {"schema": MEASURED_SCHEMA, "engine": ANY_ENGINE, "gemm": {"bf16": gemm}}
    document["residuals"]["gemm"] = residuals
    document["provenance"] |= {
        "package": "microsoft/vidur",
        "package_version": Path(file).name,
        "licence": "MIT",
        "trust": "low" if impossible > MOST_IMPOSSIBLE else "normal",
        "note": f"{impossible:.1%} of the products were faster than physics",
        "tables": [],
        "errors": {"gemm.bf16": errors},
        "notes": [
            f"products: {file}, {len(data)} points; Vidur's CUDA libraries are of 2024, with larger steps at tiles",
            f"attention, collectives and element-wise work: borrowed from the shipped profile {label}",
            "the LM head was not timed: borrowed from the layers' products",
        ],
    }
    return _write(out or f"{system}-vidur.json", _bytes(document))


def import_llmservingsim(directory: str, *, model: str | None, out: str | None) -> Written:
    """A profile of vLLM's kernels on the GPU that a profiler's folder was measured on."""
    tables = kernel_tables(Path(directory))
    named = model or tables.model
    if named is None:
        raise InputError("does not name its model (no meta.yaml); give --model", file=directory)
    shape = load_model(named)
    gpu = tables.gpu or Path(directory).name
    products, prefill, decode = _frames(tables.dense, tables.attention, tables.per_sequence, shape, tables.tp)
    hardware = _card(gpu, products, decode)
    gemm, layers, _ = fit_products(_thinned(products), hardware, "bf16", seen=True)
    errors: dict[str, dict[str, dict[str, float]]] = {}
    residuals: dict[str, dict[str, list[float]]] = {}
    errors["gemm.bf16"], residuals["gemm"] = _held_out(layers)
    chunk, layers = fit_prefill(prefill, hardware, "bf16")
    errors["attention.prefill.bf16"], residuals["prefill"] = _held_out(layers)
    cached, _, layers, _ = fit_cached(decode, hardware, "bf16")
    errors["attention.decode.bf16"], residuals["attention"] = _held_out(layers)
    small, left = _small(tables.dense, shape, tables.tp, hardware)
    errors["elementwise"], residuals["elementwise"] = _held_out({"PARAMETRIC": left})
    residuals["prefill"]["TRANSFERRED"] = normal_quantiles(PRIOR_SD["chunk"])
    residuals["verify"] = {"TRANSFERRED": normal_quantiles(PRIOR_SD["chunk"])}
    host = load_engine("vllm").schedule
    residuals["host"] = {"TRANSFERRED": normal_quantiles(max(-np.log(host.low), np.log(host.high)) / 1.645)}
    fields = {name: getattr(hardware, name) for name in Hardware.__dataclass_fields__}
    fields |= {"peak_flops_per_s": dict(hardware.peak_flops_per_s), "sources": dict(hardware.sources)}
    document = {
        "schema": MEASURED_SCHEMA,
        "hardware": fields,
        "engine": "vllm",
        "dtype": "bf16",
        "provenance": {
            "package": "casys-kaist/LLMServingSim",
            "package_version": tables.version or "unknown",
            "licence": "MIT",
            "trust": "normal",
            "tables": [],
            "errors": errors,
            "notes": [
                f"kernels of {shape.name} at tensor_parallel {tables.tp} in {directory}; other shapes are borrowed",
                "verification of several tokens is modelled: the tables have chunks of 16 and more only",
                "latencies exclude host launches",
            ],
        },
        "gemm": {"bf16": gemm},
        "attention": {"decode": {"bf16": cached}, "prefill": {"bf16": chunk}},
        "collectives": {},
        "experts": {},
        "elementwise": small,
        "residuals": {"probabilities": PROBABILITIES.tolist(), **residuals},
    }
    return _write(out or f"{gpu.lower().replace(' ', '-')}-vllm-bf16.json", _bytes(document))


def _frames(
    dense: pd.DataFrame, attention: pd.DataFrame, heads: pd.DataFrame, shape: ModelShape, tp: int
) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    """Products, prefill and decode in the columns that fits take."""
    forward = shape.forward(tensor_parallel=tp)
    parts = []
    for linear in forward.linears:
        table, rows = (heads, "sequences") if linear.name == "lm_head" else (dense, "tokens")
        mine = table[table["layer"] == linear.name]
        if mine.empty:
            raise InputError(f"no rows of {linear.name}", field="layer")
        parts.append(pd.DataFrame({"m": mine[rows], "n": linear.n, "k": linear.k, "seconds": mine["time_us"] * 1e-6}))
    a = forward.attention[0]
    layout = {"heads": a.heads, "kv_heads": a.kv_heads, "head_dim": a.head_dim}
    alone = attention[(attention["n_decode"] == 0) & (attention["kv_prefill"] == 0)]
    prefill = pd.DataFrame({"batch": 1, "tokens": alone["prefill_chunk"], "seconds": alone["time_us"] * 1e-6, **layout})
    mine = attention[attention["prefill_chunk"] == 0]
    decode = pd.DataFrame(
        {
            "queries": 1,
            "batch": mine["n_decode"],
            "cached": mine["kv_decode"],
            "seconds": mine["time_us"] * 1e-6,
            **layout,
        }
    )
    return pd.concat(parts, ignore_index=True).astype(float), prefill, decode


def _small(dense: pd.DataFrame, shape: ModelShape, tp: int, hardware: Hardware) -> tuple[dict[str, float], Floats]:
    """Constant a kernel and bandwidth of norms, rotary and activation, from their rows."""
    from scipy.optimize import nnls

    forward = shape.forward(tensor_parallel=tp)
    launches = {"layernorm": 2, "rotary_emb": 1, "act_fn": 1}
    tables = [dense[dense["layer"] == name].set_index("tokens")["time_us"] * n for name, n in launches.items()]
    total = sum(tables[1:], start=tables[0]).dropna()
    seconds = total.to_numpy(dtype=np.float64) * 1e-6
    moved = forward.elementwise_bytes_per_token / shape.layers * total.index.to_numpy(dtype=np.float64)
    features = np.column_stack([np.full(seconds.size, 5.0), moved / hardware.memory_bandwidth_bytes_per_s])
    (constant, factor), _ = nnls(features / seconds[:, None], np.ones(seconds.size))
    left = np.log(seconds / (features @ [constant, factor]))
    bandwidth = hardware.memory_bandwidth_bytes_per_s / max(factor, 1e-3)
    return {"bandwidth_bytes_per_s": float(f"{bandwidth:.4g}"), "kernel_us": float(f"{constant * 1e6:.4g}")}, left


def _card(gpu: str, products: pd.DataFrame, decode: pd.DataFrame) -> Hardware:
    """The GPU by its name where it ships, else with the rates that were seen."""
    if gpu not in CARDS:
        return load_hardware(gpu)
    memory, multiprocessors, node = CARDS[gpu]
    bandwidth, peak = peaks_seen(products, decode, "bf16")
    seen, page = "the highest rate of any measured kernel, and 2 %", "NVIDIA's product page"
    fields: dict[str, Any] = {
        "multiprocessors": multiprocessors,
        "memory_bytes": memory,
        "memory_bandwidth_bytes_per_s": bandwidth,
        "peak_flops_per_s": {"bf16": peak},
        "link_bandwidth_bytes_per_s": 0.0,
        "node_link_bandwidth_bytes_per_s": 0.0,
        "gpus_per_node": node,
    }
    return Hardware(name=gpu, **fields, sources={n: seen if n.endswith("per_s") else page for n in fields})


THINNED_ROWS = (*range(1, 18), 32, 33, 64, 65, 128, 129, 256, 257, 512, 513)
MOST_ROWS = 40


def _thinned(rows: pd.DataFrame) -> pd.DataFrame:
    """At most about 40 row counts: both sides of every tile, and the rest spread evenly in the logarithm."""
    there = np.unique(rows["m"].to_numpy(dtype=np.float64))
    if there.size <= MOST_ROWS:
        return rows
    wanted = np.exp(np.linspace(0.0, np.log(there[-1]), MOST_ROWS))
    even = there[np.abs(np.log(there[None, :] / wanted[:, None])).argmin(axis=1)]
    return rows[rows["m"].isin({*even, *THINNED_ROWS})]


def _held_out(layers: dict[str, Floats]) -> tuple[dict[str, dict[str, float]], dict[str, list[float]]]:
    known = {name: values[np.isfinite(values)] for name, values in layers.items() if np.isfinite(values).any()}
    return (
        {name: error_row(values) for name, values in known.items()},
        {name: conformal_quantiles(values, PROBABILITIES) for name, values in known.items()},
    )


def _bytes(document: dict[str, Any]) -> bytes:
    document["provenance"]["imported_by"] = f"llm-specsim {specsim.__version__}"
    return encode(document)


def _write(out: str, content: bytes) -> Written:
    if not out.endswith(".json"):
        raise InputError(f"{out!r}: a profile's name ends in .json", field="--out")
    profile = read_profile(content, file=out)
    replace_file(file_to_write(out), lambda beside: beside.write_bytes(content))
    return out, dict(profile.provenance["errors"]), tuple(profile.provenance["notes"])
