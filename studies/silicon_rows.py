"""Deployments that others measured, from aiconfigurator-core's ``silicon_sample.csv``, and how each was measured."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path
from typing import Any

import pandas as pd

from specsim.errors import InputError

MODELS = {
    "meta-llama/Llama-3.1-70B": "meta-llama/Llama-3.1-70B",
    "meta-llama/Llama-3.1-8B-Instruct": "meta-llama/Llama-3.1-8B",
    "nvidia/Llama-3.1-8B-Instruct-FP8": "meta-llama/Llama-3.1-8B",
    "Qwen/Qwen3-32B": "Qwen/Qwen3-32B",
}
"""The file's names of dense models, and the shapes they run."""


def read_rows() -> tuple[list[Row], list[Row]]:
    """The scored rows and the unlabelled ones.

    Scored: mode ``agg``, precision ``fp8``, one of the dense Llama-3.1-8B, Llama-3.1-70B and Qwen3-32B. Unlabelled:
    the same models without a precision. ``batch_size`` is the concurrency (they agree wherever both are given).
    """
    spec = util.find_spec("aiconfigurator_core")
    if spec is None or not spec.submodule_search_locations:
        raise InputError("aiconfigurator-core is not installed; pip install 'llm-specsim[silicon]'")
    table = pd.read_csv(Path(next(iter(spec.submodule_search_locations))) / "systems" / "silicon_sample.csv")
    table = table[(table["mode"] == "agg") & table["model_path"].isin(list(MODELS))]
    scored = [_row(r, labelled=True) for r in table[table["precision"] == "fp8"].to_dict("records")]
    unlabelled = [_row(r, labelled=False) for r in table[table["precision"].isna()].to_dict("records")]
    return scored, unlabelled


def _row(r: Mapping[Hashable, Any], *, labelled: bool) -> Row:
    source, backend, model = str(r["silicon_data_source"]), str(r["backend"]), str(r["model_path"])
    if source.endswith("wip=False") and "measured=2025-10-29" in source:
        harness = INFERENCEMAX
    elif "dynamo_version" in source or model == "nvidia/Llama-3.1-8B-Instruct-FP8":
        harness = REPEATED
    else:
        harness = FIXED
    dtype = "bf16"
    if labelled:
        # NVIDIA's checkpoints (InferenceMAX serves nvidia/Llama-3.3-70B-Instruct-FP8) hold static scales. No checkpoint
        # called Qwen/Qwen3-32B does: its activations are scaled as they come, as in the tables' products.
        dtype = "fp8_block" if r["gemm_quant_mode"] == "fp8_block" else "fp8" if "Qwen" in model else "fp8_static"
    return Row(
        id=str(r["id"]),
        model=MODELS[model],
        system=str(r["system"]),
        backend=backend,
        dtype=dtype,
        tensor_parallel=int(r["tp_size"]),
        prompt_tokens=int(r["isl"]),
        output_tokens=int(r["osl"]),
        concurrency=int(r["batch_size"]),
        ttft_s=float(r["silicon_ttft_ms"]) * 1e-3,
        tpot_s=float(r["silicon_tpot_ms"]) * 1e-3,
        harness=harness,
    )


@dataclass(frozen=True)
class Harness:
    """How a group of rows was measured: what the published scripts set, and what has to be assumed.

    shortest: lengths are uniform between this share of the nominal one and all of it. distinct: prompts after which
    they repeat and are found in the cache; None where they never do.
    """

    name: str
    shortest: float
    distinct: int | None


INFERENCEMAX = Harness("InferenceMAX: lengths uniform in 0.8..1.0 of nominal, distinct prompts", 0.8, None)
FIXED = Harness("fixed lengths, distinct prompts (assumed)", 1.0, None)
REPEATED = Harness("fixed lengths, 100 distinct prompts and prefix caching (inferred)", 1.0, 100)
"""NVIDIA's load generators (genai-perf, AIPerf) cycle through 100 distinct prompts unless told otherwise. Inferred from
Llama-3.1-8B on vLLM, whose rows the host is fitted on: of the prompts that arrive during a request's residence, TTFT
and TPOT hold the work of 65 % at 16 users, 41 % at 24, 25 % at 40, 21 % at 64. Runs behind Dynamo are taken for the
same."""


@dataclass(frozen=True)
class Row:
    """One measured deployment."""

    id: str
    model: str
    system: str
    backend: str
    dtype: str
    tensor_parallel: int
    prompt_tokens: int
    output_tokens: int
    concurrency: int
    ttft_s: float
    tpot_s: float
    harness: Harness

    @property
    def group(self) -> tuple[str, str, str]:
        """(model, system, backend), as scores are printed."""
        return (self.model.rpartition("/")[2], self.system, self.backend)
