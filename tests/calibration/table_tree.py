"""A tiny tree of kernel tables whose times are known laws, so that a build can be checked against them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from calibration.sources.aiconfigurator import Source
from specsim.cost.attention import attention_work
from specsim.cost.hardware import load_hardware
from specsim.cost.law import Law, gemm_work
from specsim.cost.moe import expert_work

GPU = load_hardware("h100_sxm")
PRODUCT = Law(4e-6, 0.8 * GPU.memory_bandwidth_bytes_per_s, 0.7 * GPU.peak("bf16"), 2.5)
PRODUCT_FP8 = Law(4e-6, 0.8 * GPU.memory_bandwidth_bytes_per_s, 0.6 * GPU.peak("fp8"), 2.0)
ATTENTION = Law(9e-6, 0.85 * GPU.memory_bandwidth_bytes_per_s, 0.5 * GPU.peak("bf16"), 1.8, 2e-8)
EXPERTS = Law(2e-5, 0.8 * GPU.memory_bandwidth_bytes_per_s, 0.5 * GPU.peak("bf16"), 2.0)
FINDING_S, CONVERTING_S = 7e-6, 2e-6

ROWS = [1, 2, 4, 8, 16, 17, 32, 64, 65, 128, 129, 256, 257, 512, 1024, 2048, 4096, 8192, 16384]
SIDES = [256, 1024, 4096, 8192, 16384]
LAYOUTS = [(8, 1), (16, 2), (32, 8), (8, 8)]


def write_tables(root: Path, *, impossible: float = 0.0, quantisation_included: bool = True) -> Source:
    """Tables of one GPU and engine under ``root``; a share ``impossible`` of the products is faster than physics."""
    rng = np.random.default_rng(5)
    gemm = []
    for dtype, law in (("bfloat16", PRODUCT), ("fp8", PRODUCT_FP8)):
        kind = {"bfloat16": "bf16", "fp8": "fp8"}[dtype]
        extra = FINDING_S + CONVERTING_S if dtype == "fp8" and quantisation_included else 0.0
        for n in SIDES:
            for k in SIDES:
                times = law.seconds(*gemm_work(ROWS, n, k, kind)) + extra
                times = np.where(rng.random(len(ROWS)) < impossible, times * 1e-3, times)
                gemm += [(dtype, m, n, k, t * 1e3) for m, t in zip(ROWS, times, strict=True)]
    products = pd.DataFrame(gemm, columns=["gemm_dtype", "m", "n", "k", "latency"])
    _write(root, "gemm", "gemm_perf", products)
    _write_attention(root)
    sizes = 2 ** np.arange(7, 25)
    reduces = pd.DataFrame(
        [(g, s, (4e-6 + 2.0 * s / 3e11) * 1e3, b) for g in (2, 4) for s in sizes for b in ("vllm_graph", "vllm_eager")],
        columns=["num_gpus", "message_size", "latency", "backend"],
    )
    _write(root, "comm", "custom_allreduce_perf", reduces)
    for table, seconds in (("computescale_perf", FINDING_S), ("scale_matrix_perf", CONVERTING_S)):
        grid = [
            (m, k, (seconds + 3.0 * m * k / (0.9 * GPU.memory_bandwidth_bytes_per_s) * (seconds == CONVERTING_S)) * 1e3)
            for m in ROWS
            for k in SIDES
        ]
        if quantisation_included or table == "scale_matrix_perf":
            _write(root, "quantize", table, pd.DataFrame(grid, columns=["m", "k", "latency"]))
        else:
            _write(root, "quantize", table, pd.DataFrame(grid, columns=["m", "k", "latency"]).assign(latency=0.0))
    moe = []
    for key in ((2048, 768, 8, 128, 1), (2048, 768, 8, 128, 2), (4096, 14336, 2, 8, 1), (4096, 14336, 2, 8, 2)):
        for tokens in (1, 4, 16, 64, 256, 1024, 4096):
            work = expert_work(tokens, np.array(key, dtype=float), "bf16")
            moe.append((*key, 1, "power_law_1.2", tokens, float(EXPERTS.seconds(*work)) * 1e3, "bfloat16"))
    names = ["hidden_size", "inter_size", "topk", "num_experts", "moe_tp_size", "moe_ep_size", "distribution"]
    _write(root, "moe", "moe_perf", pd.DataFrame(moe, columns=[*names, "num_tokens", "latency", "moe_dtype"]))
    return Source(root, "0.0.test")


def _write_attention(root: Path) -> None:
    rows: dict[str, list[tuple[object, ...]]] = {"generation_attention_perf": [], "context_attention_perf": []}
    for kv in ("bfloat16", "fp8"):
        kind = {"bfloat16": "bf16", "fp8": "fp8"}[kv]
        for heads, kv_heads in LAYOUTS:
            for b in (1, 2, 8, 32, 128):
                for x in (16, 64, 256, 1024, 4096, 16384):
                    for name, phase in zip(rows, ("decode", "prefill"), strict=True):
                        work = attention_work(phase, b, x, heads, kv_heads, 128, None, kind)
                        t = float(ATTENTION.seconds(*work)) * 1e3
                        step, isl = (x - 1, 1) if phase == "decode" else (0, x)
                        rows[name].append(("bfloat16", kv, heads, kv_heads, 128, 0, b, isl, step, t))
    names = ["attn_dtype", "kv_cache_dtype", "num_heads", "num_key_value_heads", "head_dim", "window_size"]
    for name, values in rows.items():
        _write(root, "attention", name, pd.DataFrame(values, columns=[*names, "batch_size", "isl", "step", "latency"]))


def _write(root: Path, family: str, table: str, rows: pd.DataFrame) -> None:
    folder = root / "data" / GPU.name / family / "vllm" / "9.9.0"
    folder.mkdir(parents=True, exist_ok=True)
    rows.to_parquet(folder / f"{table}.parquet")
