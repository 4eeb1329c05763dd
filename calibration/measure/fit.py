"""From samples on one machine to a profile: laws, fields over their residuals, cross-validated errors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from calibration.laws import PROBABILITIES, digits, error_row
from calibration.measure.device import Device
from calibration.measure.field import conformal_quantiles
from calibration.measure.fit_attention import fit_cached, fit_prefill
from calibration.measure.fit_host import fit_around, fit_host
from calibration.measure.fit_products import fit_products
from calibration.measure.uncertainty import FEWEST
from specsim.cost.engine import load_engine
from specsim.cost.hardware import Hardware, load_hardware
from specsim.cost.law import ARITHMETIC, BYTES, gemm_work
from specsim.cost.model_shape import ModelShape
from specsim.cost.profile import ANY_ENGINE, MEASURED_SCHEMA
from specsim.cost.shapes import Floats
from specsim.errors import InputError

PEAK_MARGIN = 1.02
"""Over the highest rate seen, where no datasheet ships: what a measured peak may be exceeded by."""
MOST_IMPOSSIBLE = 0.03
PRIOR_SD = {"host": 0.3, "chunk": 0.3}
"""ln-normal priors of what isn't measured: another engine's host, a prefill chunk over a cached prefix."""


def hardware_of(device: Device, data: pd.DataFrame, dtype: str) -> tuple[Hardware, str | dict[str, Any]]:
    """The hardware of a profile, and what its file says of it: a shipped name, or the peaks that were seen."""
    if device.shipped is not None:
        return load_hardware(device.shipped), device.shipped
    bandwidth, peak = peaks_seen(data[data["kind"] == "gemm"], data[data["kind"] == "attention"], dtype)
    source = "measured here: the highest rate of any kernel, caches included, and 2 %"
    fields: dict[str, Any] = {
        "name": device.name
        if device.kind == "cuda"
        else f"{device.name}, {device.threads} thread{'s' * (device.threads > 1)}",
        "multiprocessors": device.multiprocessors,
        "memory_bytes": device.memory_bytes,
        "memory_bandwidth_bytes_per_s": bandwidth,
        "peak_flops_per_s": {ARITHMETIC[dtype]: peak},
        "link_bandwidth_bytes_per_s": 0.0,
        "node_link_bandwidth_bytes_per_s": 0.0,
        "gpus_per_node": 1,
    }
    fields["sources"] = {name: source if "per_s" in name else "the device" for name in fields if name != "name"}
    return Hardware(**fields), fields


def peaks_seen(products: pd.DataFrame, attention: pd.DataFrame, dtype: str) -> tuple[float, float]:
    """The highest rates of any kernel and 2 %: bytes/s and operations/s that nothing measured here exceeds."""
    m, n, k, seconds = (products[name].to_numpy(dtype=np.float64) for name in ("m", "n", "k", "seconds"))
    moved, flops = gemm_work(m, n, k, dtype)
    q, b, cached, h, d, attended = (
        attention[name].to_numpy(dtype=np.float64)
        for name in ("queries", "batch", "cached", "heads", "head_dim", "seconds")
    )
    more = 4.0 * q * b * (cached + q) * h * d / attended
    bandwidth, peak = float((moved / seconds).max()), float(max((flops / seconds).max(), more.max(initial=0.0)))
    return digits(PEAK_MARGIN * bandwidth, 4), digits(PEAK_MARGIN * peak, 4)


def fit_profile(
    data: pd.DataFrame, device: Device, models: Sequence[ModelShape], *, dtype: str, provenance: dict[str, Any]
) -> dict[str, Any]:
    """The profile as a JSON document, from medians (``samples.medians``).

    InputError where a part was hardly measured; says how to get more. ``provenance`` gains errors and notes.
    """
    for kind in ("gemm", "attention", "prefill"):
        count = int((data["kind"] == kind).sum()) if not data.empty else 0
        if count < FEWEST:
            raise InputError(
                f"{count} points of {kind} were measured, {FEWEST} are needed; run again with more --minutes"
            )
    hardware, named = hardware_of(device, data, dtype)
    if isinstance(named, str):
        data, warm = _possible(data, hardware, dtype)
        provenance["attention_faster_than_physics"] = warm
    errors: dict[str, dict[str, Any]] = {}
    residuals: dict[str, dict[str, list[float]]] = {}
    notes = ["latencies exclude host launches (captured graphs)"] if device.kind == "cuda" else []
    if device.kind == "cpu":
        notes.append("times include PyTorch's dispatch of each operation, which on a CPU nothing hides")

    def keep(section: str, family: str, layers: dict[str, Floats]) -> None:
        known = {layer: values[np.isfinite(values)] for layer, values in layers.items()}
        known = {layer: values for layer, values in known.items() if values.size}
        errors[section] = {layer: error_row(values) for layer, values in known.items()}
        for layer, values in known.items():
            residuals.setdefault(family, {})[layer] = conformal_quantiles(values, PROBABILITIES)

    gemm, layers, impossible = fit_products(
        data[data["kind"] == "gemm"], hardware, dtype, seen=not isinstance(named, str)
    )
    keep(f"gemm.{dtype}", "gemm", layers)
    prefill, layers = fit_prefill(data[data["kind"] == "prefill"], hardware, dtype)
    keep(f"attention.prefill.{dtype}", "prefill", layers)
    decode, verify, one, several = fit_cached(data[data["kind"] == "attention"], hardware, dtype)
    keep(f"attention.decode.{dtype}", "attention", one)
    keep(f"attention.verify.{dtype}", "verify", several)
    around, left = fit_around(data[data["kind"] == "around_layer"], hardware, dtype)
    keep("elementwise", "elementwise", {"PARAMETRIC": left})
    host, left = fit_host(data, device)
    keep("host", "measured_host", {"PARAMETRIC": left})

    residuals["prefill"]["TRANSFERRED"] = normal_quantiles(PRIOR_SD["chunk"])
    worst = max(np.abs(residuals["verify"]["PARAMETRIC"]))
    residuals["verify"]["TRANSFERRED"] = normal_quantiles(max(PRIOR_SD["chunk"], worst / 2.326))
    factors = [load_engine(name).schedule for name in ("vllm", "sglang")]
    spread = max(np.log(factor.high) for factor in factors), max(-np.log(factor.low) for factor in factors)
    residuals["host"] = {"TRANSFERRED": normal_quantiles(max(spread) / 1.645)}
    stacks = data[data["kind"] == "stack"]
    provenance["two_layers_us"] = {
        f"{int(row['rows'])} rows, {'graph' if row['graph'] else 'eager'}": digits(row["seconds"] * 1e6, 4)
        for _, row in (stacks.sort_values(["graph", "rows"]) if len(stacks) else stacks).iterrows()
    }
    if impossible:
        notes.append(f"{impossible:.1%} of the products were faster than the datasheet allows, and left out")
    low = impossible > MOST_IMPOSSIBLE or provenance.get("disturbed", False)
    if low:
        provenance["note"] = "too many points were unsteady or faster than physics: a throttled or shared device?"
    return {
        "schema": MEASURED_SCHEMA,
        "hardware": named,
        "engine": ANY_ENGINE,
        "dtype": dtype,
        "provenance": {
            **provenance,
            "trust": "low" if low else "normal",
            "models": [model.name for model in models],
            "tables": [],
            "errors": errors,
            "notes": notes,
        },
        "gemm": {dtype: gemm},
        "attention": {"decode": {dtype: decode}, "prefill": {dtype: prefill}, "verify": {dtype: verify}},
        "collectives": {},
        "experts": {},
        "elementwise": around,
        "host": host,
        "residuals": {"probabilities": PROBABILITIES.tolist(), **residuals},
    }


def _possible(data: pd.DataFrame, hardware: Hardware, dtype: str) -> tuple[pd.DataFrame, int]:
    """Without the attention that beats the datasheet's bandwidth or arithmetic (caches were warm), and how many."""
    q, b, cached, h, kv, d = (
        data[name].to_numpy(dtype=np.float64)
        for name in ("queries", "batch", "cached", "heads", "kv_heads", "head_dim")
    )
    bound = np.maximum(
        2.0 * BYTES[dtype] * b * (cached + q) * kv * d / hardware.memory_bandwidth_bytes_per_s,
        4.0 * q * b * (cached + q) * h * d / hardware.peak(ARITHMETIC[dtype]),
    )
    beaten = (data["kind"] == "attention").to_numpy() & (data["seconds"].to_numpy() < bound)
    return data[~beaten], int(beaten.sum())


def normal_quantiles(sd: float) -> list[float]:
    """Quantiles of a normal around 0, at the probabilities that profiles hold."""
    from scipy.special import ndtri

    return [round(float(x), 4) for x in sd * ndtri(PROBABILITIES)]
