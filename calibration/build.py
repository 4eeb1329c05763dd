"""Builds every profile that ships: ``python -m calibration.build`` (``--check`` compares instead of writing)."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from calibration.attention import Phase, fit_attention
from calibration.collectives import fit_collectives
from calibration.gemm import SMALLEST, fit_gemm
from calibration.laws import PROBABILITIES, Fitted, digits, microseconds, quantiles
from calibration.moe import CLASS, fit_experts
from calibration.quantise import elementwise_constants, quantisation, static_products
from calibration.sources.aiconfigurator import Source, Table, installed
from specsim.cost.engine import load_engine
from specsim.cost.hardware import Hardware, hardware_names, load_hardware
from specsim.cost.law import ARITHMETIC
from specsim.cost.profile import SCHEMA
from specsim.cost.shapes import Floats
from specsim.errors import InputError
from specsim.files import replace_file

ENGINES = ("vllm", "sglang", "trtllm")
DTYPES = ("bf16", "fp8", "fp8_block")
NAMES = {"bf16": "bfloat16", "fp8": "fp8", "fp8_block": "fp8_block", "mxfp4": "w4a16_mxfp4"}
EXPERTS = {"bf16": ("bf16", "mxfp4"), "fp8": ("fp8",), "fp8_block": ("fp8_block",)}
"""Precisions of experts in a profile: 4-bit experts live between 16-bit layers."""
ROUTINGS = ("power_law_1.2", "power_law_1.01", "balanced")
"""Routing of experts, the first that was measured: popularity with a power law is nearer to real routers than even."""
MOST_FILTERED = 0.03
"""Share of a table's rows faster than physics beyond which the rest of it isn't trusted either."""
UNUSABLE = {("vllm", "fp8_block"), ("l40s", "fp8_block")}
"""Engine or GPU, and precision: vLLM's rows take 60 to 280 us at any shape (launches were timed, not kernels)."""
HEAD_WIDTH = 8192
"""Narrowest 16-bit products in a profile at another precision: there they serve the LM head alone."""
Z95 = 1.6449
"""Standard deviations of a normal's 95th percentile."""
LAYER_WIDTH = 2048
"""Rows and columns from which weights are those of a large model's layers."""
TILE_EDGES = (128, 256)
"""Filled tiles after which the tables hold one row more."""
STEEP = 1.25
"""Growth with that row from which a plan says so."""
QUANTISE = ("computescale_perf", "scale_matrix_perf")
FOLDER = Path(__file__).resolve().parent.parent / "specsim" / "cost" / "profiles"


# Where no element-wise kernel was measured (A100): aiconfigurator's own constants, equal in all its system files.
MEMORY_SHARE = 0.8  # mem_bw_empirical_scaling_factor
KERNEL_US = 3.0  # mem_empirical_constant_latency
PRIOR_SD = {
    # ln-normal priors of what no table measures.
    ("elementwise", "PARAMETRIC"): 0.4,  # count and fusion of kernels differ between engines and versions
    ("verify", "TRANSFERRED"): 0.3,  # several query tokens over a cache: modelled, one read of the cache
    ("prefill", "TRANSFERRED"): 0.3,  # a prefill chunk over a cached prefix: modelled
}


def build(source: Source, hardware: Hardware, engine: str, dtype: str) -> dict[str, Any]:
    """The profile of one GPU, engine and precision as a JSON document; InputError where the tables lack it."""
    notes = [
        "decode attention was measured with one query token; verification of several is modelled",
        "prefill attention was measured without a cached prefix; chunks over one are modelled",
        "latencies exclude host launches (captured graphs)",
    ]
    tables: list[dict[str, Any]] = []
    errors: dict[str, dict[str, dict[str, float]]] = {}
    left: dict[str, dict[str, list[Floats]]] = {}

    other = "" if dtype == "bf16" else "bf16"  # the LM head's products are few: the layers' residuals stand for them

    def note(section: str, table: Table, fitted: Fitted) -> dict[str, Any]:
        tables.append(
            {
                "section": section,
                "path": table.path,
                "framework_version": table.version,
                "rows": fitted.rows_used,
                "filtered": fitted.rows_filtered,
                "disturbed": fitted.rows_disturbed,
            }
        )
        errors[section] = fitted.errors
        if section not in ("gemm.fp8_static", f"gemm.{other}"):
            for layer, values in fitted.layers.items():
                family = "prefill" if section.startswith("attention.prefill") else section.split(".")[0]
                left.setdefault(family, {}).setdefault(layer, []).append(values.ravel())
        return fitted.section

    gemm_table = _need(source, hardware, "gemm", engine, "gemm_perf")
    gemm: dict[str, Any] = {}
    tile_edges: str | None = None
    for kind in dict.fromkeys((dtype, "bf16")):
        rows = gemm_table.rows[gemm_table.rows["gemm_dtype"] == NAMES[kind]]
        if rows.empty:
            raise InputError(f"{gemm_table.path} has no {kind} products")
        fitted = fit_gemm(rows, hardware, kind, narrowest=SMALLEST if kind == dtype else HEAD_WIDTH)
        gemm[kind] = note(f"gemm.{kind}", gemm_table, fitted)
        if kind == dtype:
            tile_edges = steep_edges(rows, kind)
        if kind == "fp8":
            gemm["fp8_static"] = _static(source, hardware, engine, gemm_table, gemm["fp8"], note, notes)

    attention: dict[str, dict[str, Any]] = {"decode": {}, "prefill": {}}
    phases: tuple[tuple[Phase, str], ...] = (
        ("decode", "generation_attention_perf"),
        ("prefill", "context_attention_perf"),
    )
    for phase, name in phases:
        table = _need(source, hardware, "attention", engine, name)
        for kv in ("bf16", "fp8"):
            rows, arithmetic = attention_rows(table.rows, phase, kv)
            if rows.empty:
                continue
            fitted = fit_attention(rows, hardware, phase, kv, arithmetic=arithmetic)
            section = note(f"attention.{phase}.{kv}", table, fitted)
            attention[phase][kv] = section
            notes.append(f"{phase} attention over a {kv} cache: arithmetic in {arithmetic}, {_layouts(section)}")

    table = _need(source, hardware, "comm", engine, "custom_allreduce_perf")
    fitted = fit_collectives(table.rows)
    collectives = note("collectives", table, fitted)

    experts: dict[str, Any] = {}
    moe = source.united(hardware.name, "moe", engine, "moe_perf", ["moe_dtype", *CLASS, "moe_ep_size"])
    for kind in EXPERTS[dtype] if moe is not None else ():
        assert moe is not None
        rows = moe.rows[moe.rows["moe_dtype"] == NAMES[kind]]
        for routing in ROUTINGS:
            layers = fit_experts(rows, hardware, kind, routing)
            if layers is not None:
                experts[kind] = note(f"experts.{kind}", moe, layers)
                notes.append(f"{kind} experts: routing {routing}, each GPU holding a slice of all of them")
                break

    elementwise = _elementwise(source, hardware, engine, notes)
    residuals = {
        family: {layer: quantiles(np.concatenate(values)) for layer, values in layers.items()}
        for family, layers in left.items()
    }
    for (family, layer), sd in PRIOR_SD.items():
        residuals.setdefault(family, {})[layer] = _normal(-sd, sd)
    host = load_engine(engine).schedule
    residuals["host"] = {"TRANSFERRED": _normal(*(float(np.log(f)) / Z95 for f in (host.low, host.high)))}
    return {
        "schema": SCHEMA,
        "hardware": hardware.name,
        "engine": engine,
        "dtype": dtype,
        "provenance": {
            "package": "aiconfigurator-core",
            "package_version": source.version,
            "licence": "Apache-2.0",
            "trust": "low" if max(_filtered(table) for table in tables) > MOST_FILTERED else "normal",
            "tables": tables,
            "errors": errors,
            "notes": notes,
            **({"tile_edges": tile_edges} if tile_edges else {}),
        },
        "gemm": gemm,
        "attention": attention,
        "collectives": collectives,
        "experts": experts,
        "elementwise": elementwise,
        "residuals": {"probabilities": PROBABILITIES.tolist(), **residuals},
    }


def _layouts(section: dict[str, Any]) -> str:
    groups = [
        f"{g['head_dim']} (window {g['window']})" if g["window"] else str(g["head_dim"]) for g in section["groups"]
    ]
    return f"measured at head dimensions {', '.join(groups)}; others are borrowed"


def steep_edges(rows: pd.DataFrame, dtype: str) -> str | None:
    """What one row past a filled tile costs, in words, where products with large weights jump there; None elsewhere."""
    wide = rows[(rows["n"] >= LAYER_WIDTH) & (rows["k"] >= LAYER_WIDTH)]
    seconds = wide.pivot_table(index=["n", "k"], columns="m", values="seconds", aggfunc="median")
    edges = [edge for edge in TILE_EDGES if {edge, edge + 1} <= set(seconds.columns)]
    growth = {edge: float((seconds[edge + 1] / seconds[edge]).median()) for edge in edges}
    steep = [
        f"{growth[edge]:.2f} times as long at {edge + 1} rows as at {edge}" for edge in edges if growth[edge] >= STEEP
    ]
    if not steep:
        return None
    return (
        f"{dtype} products take {' and '.join(steep)} (measured, median of {len(seconds)} shapes): "
        "a batch x (K+1) just past such a step pays little"
    )


def attention_rows(rows: pd.DataFrame, phase: Phase, kv: str) -> tuple[pd.DataFrame, str]:
    """The rows of one cache precision with ``length`` (cache and new token, or prompt), and their arithmetic."""
    rows = rows[rows["kv_cache_dtype"] == NAMES[kv]]
    if "window_size" not in rows:
        rows = rows.assign(window_size=0)
    length = rows["step"] + 1 if phase == "decode" else rows["isl"]
    rows = rows.assign(length=length, window_size=rows["window_size"].fillna(0).astype(int))
    arithmetic = "fp8" if "fp8" in set(rows["attn_dtype"]) else "bfloat16"  # an engine that has fp8 attention uses it
    rows = rows[rows["attn_dtype"] == arithmetic]
    return rows, "fp8" if arithmetic == "fp8" else "bf16"


def _static(
    source: Source,
    hardware: Hardware,
    engine: str,
    table: Table,
    dynamic: dict[str, Any],
    note: Callable[[str, Table, Fitted], dict[str, Any]],
    notes: list[str],
) -> dict[str, Any]:
    """The fp8 products of checkpoints with static scales, as what to take off the measured ones."""
    rows = table.rows[table.rows["gemm_dtype"] == NAMES["fp8"]]
    scale, convert = (_need(source, hardware, "quantize", engine, name) for name in QUANTISE)
    off = quantisation(rows, scale.rows, convert.rows, hardware)
    if off.max() == 0.0:
        notes.append("the tables' fp8 products hold no quantisation of activations: static and dynamic cost the same")
    else:
        notes.append("fp8_static products are fp8's less finding scales and converting activations (fused elsewhere)")
    fitted = fit_gemm(static_products(rows, off), hardware, "fp8_static")
    section = note("gemm.fp8_static", table, fitted)
    depths = sorted({k for _, k in dynamic["shapes"]})
    wide = off.rename("off").reset_index().pivot_table(index="m", columns="k", values="off")
    grid = wide.reindex(index=dynamic["rows"], columns=depths).fillna(0.0).to_numpy()
    kept = {key: section[key] for key in ("law", "length", "nugget")}
    return {**kept, "of": "fp8", "depths": depths, "off_us": microseconds(grid, 3)}


def _elementwise(source: Source, hardware: Hardware, engine: str, notes: list[str]) -> dict[str, float]:
    # SGLang's conversion finds a scale a group of 128 columns and is no plain element-wise kernel; vLLM's is.
    whose = "vllm" if engine == "sglang" else engine
    convert = source.newest(hardware.name, "quantize", whose, "scale_matrix_perf")
    if convert is None:
        kernel_s, share = KERNEL_US * 1e-6, MEMORY_SHARE
        notes.append("element-wise kernels: constants of the package's system file, no kernel was measured")
    else:
        kernel_s, share = elementwise_constants(convert.rows, hardware)
        notes.append(f"element-wise kernels: as the conversion to fp8 of {convert.path}")
    return {
        "bandwidth_bytes_per_s": digits(share * hardware.memory_bandwidth_bytes_per_s, 4),
        "kernel_us": digits(kernel_s * 1e6, 4),
    }


def _need(source: Source, hardware: Hardware, family: str, engine: str, name: str) -> Table:
    table = source.newest(hardware.name, family, engine, name)
    if table is None:
        raise InputError(f"no {name} of {engine} on {hardware.name}")
    return table


def _normal(below: float, above: float) -> list[float]:
    """Quantiles of a normal around 0 with another spread on either side."""
    from scipy.special import ndtri

    z = ndtri(PROBABILITIES)
    return [round(float(x * above if x > 0 else -x * below), 4) for x in z]


def encode(document: dict[str, Any]) -> bytes:
    """The document as it is stored: one line a section, no spaces."""
    return (json.dumps(document, separators=(",", ":"), allow_nan=False) + "\n").encode()


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit status (1 when --check finds a difference)."""
    parser = argparse.ArgumentParser(prog="python -m calibration.build", description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare the files that ship with a rebuild")
    parser.add_argument("--only", default="", metavar="TEXT", help="only profiles whose name contains TEXT")
    parser.add_argument("--out", type=Path, default=FOLDER, metavar="DIR", help="where to write")
    options = parser.parse_args(arguments)
    source, different = installed(), 0
    for name in hardware_names():
        hardware = load_hardware(name)
        for engine in ENGINES:
            for dtype in (d for d in DTYPES if ARITHMETIC[d] in hardware.peak_flops_per_s):
                label = f"{name}-{engine}-{dtype}"
                if options.only not in label or {(engine, dtype), (name, dtype)} & UNUSABLE:
                    continue
                try:
                    document = build(source, hardware, engine, dtype)
                except InputError as error:
                    print(f"{label}: not built: {error}")
                    continue
                content, path = encode(document), options.out / f"{label}.json"
                print(f"{label}: {len(content) / 1000:.0f} kB")
                _print_errors(document["provenance"])
                if options.check:
                    same = path.is_file() and path.read_bytes() == content
                    different += not same
                    print("  same as shipped" if same else f"  DIFFERS from {path}")
                else:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    replace_file(path, partial(Path.write_bytes, data=content))
    return 1 if different else 0


def _filtered(table: dict[str, Any]) -> float:
    return float(table["filtered"] / max(table["rows"] + table["filtered"], 1))


def _print_errors(provenance: dict[str, Any]) -> None:
    for table in provenance["tables"]:
        dropped = f"{_filtered(table):.2%} faster than physics, {table['disturbed']} disturbed"
        print(f"  {table['section']:24s} {table['rows']:6d} rows, {dropped}")
        for layer, row in provenance["errors"][table["section"]].items():
            print(
                f"    {layer.lower():13s} median {row['median_pct']:5.2f} %  p90 {row['p90_pct']:6.2f} %  "
                f"p95 {row['p95_pct']:6.2f} %  bias {row['bias_pct']:+.2f} %  ({row['points']} points)"
            )


if __name__ == "__main__":
    np.seterr(all="raise", under="ignore", invalid="ignore")
    sys.exit(main())
