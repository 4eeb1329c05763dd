"""``specsim models`` and ``specsim hardware``: what ships."""

from __future__ import annotations

import json
import sys
from importlib import resources
from typing import Any


def models(*, as_json: bool) -> None:
    """Print the models, with what decides their cost, and the measured acceptance that ships."""
    rows, evidence = model_rows(), acceptance_rows()
    if as_json:
        _print_json({"models": rows, "acceptance": evidence})
        return
    from specsim.report.layout import Column, print_table

    print_table(
        "Which target and draft models ship?",
        [
            Column("model", whole=True),
            Column("10^9 weights", right=True),
            Column("active", right=True),
            Column("layers", right=True),
            Column("kv heads", right=True),
            Column("experts", right=True),
            Column("KiB/token", right=True),
        ],
        [
            [
                row["model"],
                f"{row['parameters'] / 1e9:.1f}",
                f"{row['active_parameters'] / 1e9:.1f}",
                str(row["layers"]),
                str(row["kv_heads"]),
                f"{row['top_k']} of {row['experts']}" if row["experts"] else "",
                f"{row['kv_bytes_per_token_bf16'] / 1024:.0f}",
            ]
            for row in rows
        ],
        note="KiB/token: bf16 cache of all layers."
        " Any other dense or mixture-of-experts decoder: give the path of its Hugging Face config.json.",
    )
    print_table(
        "Which measured acceptance ships?",
        [Column("shipped"), Column("method"), Column("dataset"), Column("acceptance length by K")],
        [
            [
                row["shipped"],
                row["method"],
                row["dataset"],
                ", ".join(f"{k}: {length:.2f}" for k, length in row["acceptance_length_by_k"].items()),
            ]
            for row in evidence
        ],
        note="Acceptance length is tokens a round, the bonus token counted. A scenario names a set so:"
        '\nacceptance = { shipped = "llama31_8b", method = "eagle3", dataset = "sharegpt" }',
    )


def hardware(*, as_json: bool) -> None:
    """Print the GPUs and for which engines and precisions measured profiles of them ship."""
    rows = hardware_rows()
    if as_json:
        _print_json({"hardware": rows})
        return
    from specsim.report.layout import Column, print_table

    print_table(
        "Which GPUs ship?",
        [
            Column("hardware"),
            Column("GiB", right=True),
            Column("TB/s", right=True),
            Column("bf16", right=True),
            Column("fp8", right=True),
            Column("measured profiles"),
        ],
        [
            [
                row["hardware"],
                f"{row['memory_bytes'] / 2**30:.0f}",
                f"{row['memory_bandwidth_bytes_per_s'] / 1e12:.2f}",
                *(
                    f"{row['peak_flops_per_s'][dtype] / 1e12:.0f}" if dtype in row["peak_flops_per_s"] else "-"
                    for dtype in ("bf16", "fp8")
                ),
                _by_engine(row["profiles"]),
            ]
            for row in rows
        ],
        note="Memory, bandwidth and dense TFLOP/s are the datasheet's; times come from the profiles."
        " * low trust: too many of its measurements beat the datasheet.",
    )


def model_rows() -> list[dict[str, Any]]:
    """One row a shipped model."""
    from specsim.cost.model import load_model, model_names

    rows = []
    for name in model_names():
        model = load_model(name)
        rows.append(
            {
                "model": name,
                "parameters": model.parameters,
                "active_parameters": model.active_parameters,
                "layers": model.layers,
                "kv_heads": model.kv_heads,
                "experts": model.experts,
                "top_k": model.top_k,
                "kv_bytes_per_token_bf16": model.kv_bytes_per_token(),
                "source": model.source,
            }
        )
    return rows


def acceptance_rows() -> list[dict[str, Any]]:
    """One row a set of measured acceptance that ships."""
    from specsim.scenario.resolve import shipped_acceptance, shipped_file

    rows = []
    for name in shipped_acceptance():
        for measured in json.loads(shipped_file(name).read_text(encoding="utf-8"))["sets"]:
            lengths = {row["num_spec_tokens"]: row["mean_acceptance_length"] for row in measured["by_draft_length"]}
            rows.append(
                {
                    "shipped": name,
                    "method": measured["method"],
                    "dataset": measured["dataset"],
                    "acceptance_length_by_k": lengths,
                    "source": measured["source"],
                }
            )
    return rows


def hardware_rows() -> list[dict[str, Any]]:
    """One row a GPU."""
    from specsim.cost.hardware import hardware_names, load_hardware
    from specsim.cost.profile import profile_names

    rows = []
    for name in hardware_names():
        gpu = load_hardware(name)
        mine = [profile for profile in profile_names() if profile.startswith(f"{name}-")]
        rows.append(
            {
                "hardware": name,
                "memory_bytes": gpu.memory_bytes,
                "memory_bandwidth_bytes_per_s": gpu.memory_bandwidth_bytes_per_s,
                "peak_flops_per_s": dict(gpu.peak_flops_per_s),
                "gpus_per_node": gpu.gpus_per_node,
                "profiles": [_profile_row(profile) for profile in mine],
            }
        )
    return rows


def _profile_row(name: str) -> dict[str, Any]:
    """A shipped profile; its trust is read from the file, since building all profiles takes a second."""
    _, engine, dtype = name.split("-")
    file = resources.files("specsim.cost").joinpath("profiles", f"{name}.json")
    return {
        "engine": engine,
        "dtype": dtype,
        "low_trust": json.loads(file.read_bytes())["provenance"].get("trust") == "low",
    }


def _by_engine(profiles: list[dict[str, Any]]) -> str:
    engines: dict[str, list[str]] = {}
    for one in profiles:
        engines.setdefault(one["engine"], []).append(one["dtype"] + ("*" if one["low_trust"] else ""))
    return "; ".join(f"{engine} {'/'.join(dtypes)}" for engine, dtypes in engines.items())


def _print_json(document: dict[str, Any]) -> None:
    json.dump(document, sys.stdout, indent=2)
    sys.stdout.write("\n")
