"""Products of a layer from microsoft/vidur's operator timings (MIT), as rows of (m, n, k, seconds).

Two layouts are read: Vidur's own ``mlp.csv`` (``time_stats.<operator>.median`` in milliseconds with the model's
widths; one GPU a file), and one table of medians in microseconds over GPUs and models by name (``gpu, model, tp, n``
and ``<operator>_us``). The timer's resolution is 0.5 to 1 us.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from specsim.errors import InputError


@dataclass(frozen=True)
class Widths:
    """Hidden size, query and cache heads, width of the MLP, and whether it has a gate."""

    hidden: int
    heads: int
    kv_heads: int
    wide: int
    gated: bool = True


# Hugging Face config.json of each (Qwen-72B's intermediate_size counts gate and up together; phi-2 has no gate).
MODELS = {
    "CodeLlama-34b-Instruct-hf": Widths(8192, 64, 8, 22016),
    "Llama-2-7b-hf": Widths(4096, 32, 32, 11008),
    "Llama-2-70b-hf": Widths(8192, 64, 8, 28672),
    "Meta-Llama-3-8B": Widths(4096, 32, 8, 14336),
    "Meta-Llama-3-70B": Widths(8192, 64, 8, 28672),
    "Qwen-72B": Widths(8192, 64, 64, 24576),
    "internlm-20b": Widths(5120, 40, 40, 13824),
    "phi-2": Widths(2560, 32, 32, 10240, gated=False),
}
RAW = ("n_head", "n_kv_head", "n_embd", "n_expanded_embd", "use_gated_mlp", "num_tokens", "num_tensor_parallel_workers")


def read_vidur(path: Path, gpu: str | None = None) -> tuple[pd.DataFrame, str]:
    """Rows (model, tp, operator, m, n, k, seconds) of one GPU, and that GPU's name.

    InputError for a table that isn't one of the two, a GPU that it doesn't hold, and times that are not positive.
    """
    file = str(path)
    try:
        table = pd.read_csv(path)
    except FileNotFoundError:
        raise InputError("not found; a table of operator timings is expected here", file=file) from None
    except (OSError, ValueError, EOFError) as error:
        raise InputError(f"is not a readable CSV table ({error})", file=file) from None
    if {"gpu", "model", "tp", "n"} <= set(table.columns):
        rows, name = _named(table, gpu, file)
    elif set(RAW) <= set(table.columns):
        if gpu is None:
            raise InputError("does not say which GPU it is of; give --gpu a100 or h100", file=file)
        rows, name = _raw(table, file), gpu
    else:
        raise InputError(
            "has neither the columns gpu, model, tp, n nor those of Vidur's mlp.csv; it has "
            + ", ".join(map(str, table.columns[:6])),
            file=file,
        )
    for field in ("seconds", "m"):
        wrong = ~(np.isfinite(rows[field]) & (rows[field] > 0))
        if wrong.any():
            what = "times" if field == "seconds" else "token counts"
            raise InputError(f"{int(wrong.sum())} {what} are missing or not above 0; the table is damaged", file=file)
    return rows, name


def _named(table: pd.DataFrame, gpu: str | None, file: str) -> tuple[pd.DataFrame, str]:
    there = sorted(set(table["gpu"]))
    if gpu is None and len(there) > 1:
        raise InputError(f"holds {', '.join(there)}; choose one with --gpu", file=file)
    name = gpu or there[0]
    if name not in there:
        raise InputError(f"holds {', '.join(there)}, not {name!r}", file=file, field="gpu")
    table = table[table["gpu"] == name]
    unknown = sorted(set(table["model"]) - set(MODELS))
    if unknown:
        raise InputError(f"has a model of unknown widths, {unknown[0]!r}; known: {', '.join(MODELS)}", file=file)
    parts = []
    for (model, tp), part in table.groupby(["model", "tp"]):
        for operator, (n, k) in _shapes(MODELS[str(model)], int(tp)).items():
            column = f"{operator}_us"
            if column not in part.columns:
                raise InputError("no such column", file=file, field=column)
            parts.append(
                pd.DataFrame(
                    {
                        "model": model,
                        "tp": int(tp),
                        "operator": operator,
                        "m": pd.to_numeric(part["n"], errors="coerce").to_numpy(dtype=np.float64),
                        "n": float(n),
                        "k": float(k),
                        "seconds": pd.to_numeric(part[column], errors="coerce").to_numpy(dtype=np.float64) * 1e-6,
                    }
                )
            )
    return pd.concat(parts, ignore_index=True), name


def _raw(table: pd.DataFrame, file: str) -> pd.DataFrame:
    parts = []
    for key, part in table.groupby([name for name in RAW if name != "num_tokens"]):
        heads, kv, hidden, wide, gated, tp = (int(x) for x in key)
        for operator, (n, k) in _shapes(Widths(hidden, heads, kv, wide, bool(gated)), tp).items():
            column = f"time_stats.{operator}.median"
            if column not in part.columns:
                raise InputError("no such column", file=file, field=column)
            parts.append(
                pd.DataFrame(
                    {
                        "model": Path(file).parent.name,
                        "tp": tp,
                        "operator": operator,
                        "m": pd.to_numeric(part["num_tokens"], errors="coerce").to_numpy(dtype=np.float64),
                        "n": float(n),
                        "k": float(k),
                        "seconds": pd.to_numeric(part[column], errors="coerce").to_numpy(dtype=np.float64) * 1e-3,
                    }
                )
            )
    rows = pd.concat(parts, ignore_index=True)
    keys = ["model", "tp", "operator", "m", "n", "k"]
    return rows.groupby(keys, as_index=False)["seconds"].median()


def _shapes(model: Widths, tp: int) -> dict[str, tuple[int, int]]:
    """(n, k) of a layer's four products on one rank."""
    size = model.hidden // model.heads
    query, kv = model.heads // tp * size, max(1, model.kv_heads // tp) * size
    return {
        "attn_pre_proj": (query + 2 * kv, model.hidden),
        "attn_post_proj": (model.hidden, query),
        "mlp_up_proj": ((2 if model.gated else 1) * model.wide // tp, model.hidden),
        "mlp_down_proj": (model.hidden, model.wide // tp),
    }
