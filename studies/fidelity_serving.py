"""Serving fidelity: a measured vLLM 0.19 server against the simulator fed with that GPU's kernel timings.

Run as ``python -m studies.fidelity_serving``. Two servers (RTX 4090, RTX PRO 6000; Llama-3.1-8B, 300 ShareGPT requests
at 10/s). Nothing is fitted in the first comparison. In the second, one constant a server (host seconds an iteration) is
fitted on the mean TPOT of the first 150 requests; TPOT is judged on the other 150, TTFT and latency on all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from calibration.sources.llmservingsim import KernelCost, capture_sizes, read_kernels
from specsim.simulation.engine import simulate
from specsim.simulation.result import Result
from specsim.simulation.serving import Serving
from specsim.simulation.workload import Requests
from studies.measured_data import data_dir, run_study

Floats = NDArray[np.float64]
STATISTICS = ("mean", "p50", "p90", "p95", "p99")
METRICS = ("TTFT", "TPOT", "latency")
GPUS = ("RTX4090", "RTXPRO6000")
LLAMA_LAYERS = 32
LLAMA_WEIGHT_BYTES = 2 * 8_030_261_248
"""Llama-3.1-8B: 8,030,261,248 parameters in bf16 (its model card's safetensors index)."""


@dataclass(frozen=True)
class Server:
    """A measured run: requests, its engine's limits, kernel costs, per-request measurements and the authors' column."""

    gpu: str
    requests: Requests
    serving: Serving
    cost: KernelCost
    measured: dict[str, Floats]
    authors: dict[str, list[float]]


def read_server(root: Path, gpu: str) -> Server:
    """One server of the data directory. TTFT and latency are counted from the engine's queue, as in its summary."""
    here = root / "llmservingsim" / gpu / "Llama-3.1-8B"
    meta = json.loads((here / "measured" / "meta.json").read_text())
    rows = [json.loads(line) for line in (here / "measured" / "requests.jsonl").read_text().splitlines()]
    column = {name: np.array([row[name] for row in rows], dtype=np.float64) for name in rows[0] if name != "request_id"}
    engine = meta["engine_kwargs"]
    cache = meta.get("kv_cache", {})
    blocks = cache.get("num_gpu_blocks") or _blocks_of(json.loads((here / "measured" / "config.json").read_text()))
    resolved = meta.get("resolved_config", {})
    sizes = resolved.get("compilation_config", {}).get("cudagraph_capture_sizes", capture_sizes(engine["max_num_seqs"]))
    first, last, queued = column["first_token_ts"], column["last_token_ts"], column["queued_ts"]
    output = column["output_toks"]
    return Server(
        gpu=gpu,
        # Arrivals are wall-clock, the rest monotonic; both start at their first request.
        requests=Requests(
            column["arrival_time"] - column["arrival_time"][0],
            column["input_toks"].astype(np.int64),
            output.astype(np.int64),
        ),
        serving=Serving(
            engine["max_num_seqs"],
            engine["max_num_batched_tokens"],
            blocks,
            # Absent from the older file; both are vLLM 0.19's defaults, and what the newer file says.
            async_scheduling=resolved.get("scheduler_config", {}).get("async_scheduling", True),
            prefix_caching=cache.get("enable_prefix_caching", True),
        ),
        cost=read_kernels(here / "kernels" / "tp1", layers=LLAMA_LAYERS, graph_sizes=sizes),
        measured={
            "TTFT": first - queued,
            "TPOT": (last - first) / (output - 1),
            "latency": last - queued,
        },
        authors=_authors(here / "measured" / "summary.txt"),
    )


def _authors(path: Path) -> dict[str, list[float]]:
    """The data's own comparison: [measured, their simulator] in ms by ``metric statistic``."""
    out = {}
    for line in path.read_text().splitlines():
        words = line.split()
        if len(words) == 5 and words[0] in ("TTFT", "TPOT", "Latency"):
            statistic = {"Mean": "mean", "Median": "p50"}.get(words[1], words[1].lower())
            out[f"{words[0].replace('Latency', 'latency')} {statistic}"] = [float(words[2]), float(words[3])]
    return out


def _blocks_of(config: dict[str, Any]) -> int:
    """Cache blocks of a server whose file doesn't say: its share of memory less the weights, over 16 tokens of cache.

    Activations are not subtracted; the run must stay far from this bound, which the study prints.
    """
    memory = config["nodes"][0]["instances"][0]["npu_mem"]
    cache_bytes_per_token = 2 * 8 * 128 * 2 * LLAMA_LAYERS
    return int((memory["mem_size"] * 1e9 * memory["mem_util"] - LLAMA_WEIGHT_BYTES) / (16 * cache_bytes_per_token))


def run(server: Server, host_s: float = 0.0) -> Result:
    """Replay the server's arrivals through the simulator."""
    cost = replace(server.cost, host_s=host_s)
    return simulate(cost.program(), None, server.requests, server.serving, np.random.default_rng(0))


def fit_host_s(server: Server) -> float:
    """Host seconds an iteration, not negative, that meet the mean TPOT of the first half of the requests."""
    half = len(server.requests) // 2
    wanted = float(server.measured["TPOT"][:half].mean())

    def excess(host_s: float) -> float:
        return float(run(server, host_s).tpot_s[:half].mean()) - wanted

    low, high = 0.0, 5e-3
    if excess(low) >= 0:
        return low
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if excess(middle) < 0 else (low, middle)
    return (low + high) / 2


def statistics(values: Floats) -> dict[str, float]:
    """Mean and quantiles, in the values' unit."""
    made = {"mean": float(values.mean())}
    return made | {f"p{q}": float(np.quantile(values, q / 100)) for q in (50, 90, 95, 99)}


def per_request(result: Result) -> dict[str, Floats]:
    """The three compared quantities of every request, in seconds."""
    return {"TTFT": result.ttft_s, "TPOT": result.tpot_s, "latency": result.e2e_s}


def errors(result: Result, server: Server, rows: slice = slice(None)) -> dict[str, float]:
    """Relative errors by ``metric statistic``, over the requests in ``rows``."""
    ours = per_request(result)
    out: dict[str, float] = {}
    for metric in METRICS:
        a, b = statistics(ours[metric][rows]), statistics(server.measured[metric][rows])
        out |= {f"{metric} {name}": a[name] / b[name] - 1 for name in STATISTICS}
    return out


@dataclass(frozen=True)
class Outcome:
    """Errors of one server: nothing fitted; with the fitted host constant; of that, the half that it never saw."""

    server: Server
    plain: Result
    host_s: float
    fitted: Result

    @property
    def without_fit(self) -> dict[str, float]:
        return errors(self.plain, self.server)

    @property
    def with_fit(self) -> dict[str, float]:
        return errors(self.fitted, self.server)

    @property
    def with_fit_unseen(self) -> dict[str, float]:
        return errors(self.fitted, self.server, slice(len(self.server.requests) // 2, None))


def evaluate(root: Path) -> list[Outcome]:
    """Both servers, compared."""
    out = []
    for gpu in GPUS:
        server = read_server(root, gpu)
        host_s = fit_host_s(server)
        out.append(Outcome(server, run(server), host_s, run(server, host_s)))
    return out


def targets(outcome: Outcome) -> list[tuple[str, float, float]]:
    """Each target: what, measured relative error, allowed."""
    plain, fitted, unseen = outcome.without_fit, outcome.with_fit, outcome.with_fit_unseen
    return [
        ("nothing fitted: mean TPOT", plain["TPOT mean"], 0.05),
        ("nothing fitted: mean latency", plain["latency mean"], 0.06),
        ("nothing fitted: mean TTFT", plain["TTFT mean"], 0.10),
        ("nothing fitted: p99 TTFT", plain["TTFT p99"], 0.10),
        ("host constant: mean TPOT, requests not fitted on", unseen["TPOT mean"], 0.02),
        ("host constant: mean TTFT, all requests", fitted["TTFT mean"], 0.05),
    ]


def main() -> None:
    """Print every group beside the measurement, the authors' own simulator and the targets."""
    for outcome in evaluate(data_dir()):
        server, plain = outcome.server, outcome.plain
        print(
            f"\n{server.gpu}, Llama-3.1-8B bf16, vLLM 0.19, {len(server.requests)} requests at 10/s, {server.serving}"
        )
        print(
            f"simulated: {plain.iterations} iterations, {plain.preemptions.sum()} preemptions, "
            f"peak cache use {plain.cache_max:.0%}; fitted host constant {outcome.host_s * 1e3:.2f} ms an iteration"
        )
        head = f"{'':14}{'measured':>10}{'ours':>10}{'error':>8}{'with host':>11}{'error':>8}{'authors':>9}"
        print(head + "   (ms; authors: the data's own simulator)")
        ours, fitted = per_request(plain), per_request(outcome.fitted)
        for metric in METRICS:
            truth = statistics(server.measured[metric])
            a, b = statistics(ours[metric]), statistics(fitted[metric])
            for name in STATISTICS:
                key = f"{metric} {name}"
                theirs = server.authors[key][1] / server.authors[key][0] - 1
                print(
                    f"{key:14}{truth[name] * 1e3:10.1f}{a[name] * 1e3:10.1f}{a[name] / truth[name] - 1:+8.1%}"
                    f"{b[name] * 1e3:11.1f}{b[name] / truth[name] - 1:+8.1%}{theirs:+9.1%}"
                )
        for what, error, allowed in targets(outcome):
            verdict = "reached" if abs(error) <= allowed else "MISSED"
            print(f"  {what:52}{error:+7.1%}   target within {allowed:.0%}   {verdict}")


if __name__ == "__main__":
    run_study(main)
