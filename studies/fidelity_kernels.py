"""Kernel fidelity: the products of a layer against timings that two other projects took, at every number of tokens.

Run as ``python -m studies.fidelity_kernels``. Nothing is fitted: the profiles come from aiconfigurator-core, the
measurements from Vidur (2024, with a steppier cuBLAS: its rows show what a library's version does) and LLMServingSim
(2026). What speculation depends on is the growth T(n)/T(1) of the layers with the tokens in a step, so that is shown
beside the time itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.cost.shapes import Floats, ForwardShape, Linear, Segment, StepShape
from specsim.cost.step import StepCost
from studies.measured_data import data_dir, run_study

MODELS = {
    "Llama-2-7b-hf": "meta-llama/Llama-2-7b-hf",
    "Llama-2-70b-hf": "meta-llama/Llama-2-70b-hf",
    "Meta-Llama-3-8B": "meta-llama/Meta-Llama-3-8B",
    "Meta-Llama-3-70B": "meta-llama/Meta-Llama-3-70B",
    "Llama-3.1-8B": "meta-llama/Llama-3.1-8B",
    "Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
}
VIDUR = ["attn_pre_proj_us", "attn_post_proj_us", "mlp_up_proj_us", "mlp_down_proj_us"]
SEPARATE = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
MOST_TOKENS = 512


@dataclass(frozen=True)
class Row:
    """Errors of one group, ln(predicted / measured): of the time, and of T(n)/T(1) over 2 to 512 tokens."""

    source: str
    gpu: str
    model: str
    tensor_parallel: int
    time: Floats
    growth: Floats


def layer(model: str, tensor_parallel: int, *, fused: bool) -> ForwardShape:
    """One layer's products on one rank, with q, k, v and gate, up in one each or apart."""
    shape, tp = load_model(MODELS[model]), tensor_parallel
    q, kv = shape.heads // tp * shape.head_dim, shape.kv_heads_per_rank(tp) * shape.head_dim
    hidden, wide = shape.hidden, shape.intermediate // tp
    into = [("qkv", q + 2 * kv)] if fused else [("q", q), ("k", kv), ("v", kv)]
    up = [("gate_up", 2 * wide)] if fused else [("gate", wide), ("up", wide)]
    linears = [Linear(name, n, hidden) for name, n in into + up]
    linears += [Linear("o", hidden, q), Linear("down", hidden, wide)]
    return ForwardShape(model, 1, hidden, shape.vocab, tuple(linears), ())


def predicted_s(gpu: str, forward: ForwardShape, tokens: Floats) -> Floats:
    """Seconds of the layer's products at each number of tokens, not padded."""
    profile = load_profile(gpu, engine="vllm", dtype="bf16")
    step = StepCost(forward, profile, load_engine("vllm")).cost(
        StepShape((Segment("decode", tokens, tokens, 0.0, 0.0),), mode="eager")
    )
    return step.terms["gemm"].seconds


def run(directory: Path) -> list[Row]:
    """Every group of the two sources whose model and GPU ship."""
    vidur = pd.read_csv(directory / "kernels" / "vidur_layer_us.csv.gz")
    vidur = vidur.assign(seconds=vidur[VIDUR].sum(axis=1) * 1e-6, source="Vidur")
    other = pd.read_csv(directory / "kernels" / "llmservingsim_h100_layer_us.csv.gz")
    other = other.assign(seconds=other[SEPARATE].sum(axis=1) * 1e-6, source="LLMServingSim")
    columns = ["source", "gpu", "model", "tp", "n", "seconds"]
    rows = []
    for (source, gpu, model, tp), group in pd.concat([vidur[columns], other[columns]]).groupby(columns[:4]):
        if gpu not in ("a100", "h100") or model not in MODELS:
            continue
        part = group[group["n"] <= MOST_TOKENS].sort_values("n")
        tokens, measured = part["n"].to_numpy(dtype=np.float64), part["seconds"].to_numpy()
        forward = layer(str(model), int(tp), fused=source == "Vidur")
        predicted = predicted_s(f"{gpu}_sxm", forward, tokens)
        error = np.log(predicted / measured)
        growth = error[1:] - error[0]
        rows.append(Row(str(source), str(gpu), str(model), int(tp), error, growth))
    return rows


def main() -> None:
    """Print every group, and each source and GPU together."""
    print("ln(predicted / measured) of a layer's products, 1 to 512 tokens; percent")
    print(f"{'':46s}{'time':>24s}{'growth T(n)/T(1)':>24s}")
    print(f"{'source':15s}{'GPU':6s}{'model':20s}{'TP':>5s}" + f"{'median':>8s}{'p95':>8s}{'bias':>8s}" * 2)
    rows = run(data_dir())
    for row in rows:
        print(
            f"{row.source:15s}{row.gpu:6s}{row.model:20s}{row.tensor_parallel:5d}{_errors(row.time)}{_errors(row.growth)}"
        )
    for source, gpu in dict.fromkeys((row.source, row.gpu) for row in rows):
        together = [row for row in rows if (row.source, row.gpu) == (source, gpu)]
        time, growth = (np.concatenate([getattr(r, f) for r in together]) for f in ("time", "growth"))
        print(f"{source:15s}{gpu:6s}{'all':20s}{'':5s}{_errors(time)}{_errors(growth)}")


def _errors(values: Floats) -> str:
    size = np.abs(values) * 100.0
    return f"{np.median(size):8.1f}{np.quantile(size, 0.95):8.1f}{np.median(values) * 100.0:+8.1f}"


if __name__ == "__main__":
    run_study(main)
