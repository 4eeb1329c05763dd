"""Speed of the simulator, the closed-form grid and start-up, on one core.

Run as ``python -m studies.speed``. CPU time after start-up, not wall time; the load is Llama-3.1-8B bf16 on one H100
with an EAGLE-3 head, K = 3, Poisson 4/s, 1,024 tokens in and 256 out. A run includes pricing, sampling and its result.
Other machines differ: figures are of the machine that printed them.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import platform
import resource
import subprocess
import sys
import time
from dataclasses import dataclass

import numpy as np

from specsim.acceptance.chains import Iid, PerPosition
from specsim.cost.drafter import load_drafter
from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.simulation.engine import simulate
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import Batch, RoundProgram
from specsim.simulation.serving import Serving
from specsim.simulation.workload import ClosedLoop, Fixed, Lognormal, Poisson, Workload
from specsim.systems.draft_verify import draft_verify
from studies.measured_data import run_study

SURVIVES = (0.70, 0.66, 0.64)
"""Conditional acceptance by position, of the order of EAGLE-3 on chat; speed depends on it only through the rounds."""

SERVING = Serving(256, 8192, 26_000, async_scheduling=True)
"""vLLM's limits; (0.9 x 80 GB - 16.1 GB of weights) / 2.1 MB a block of 16 tokens, rounded down."""


@dataclass(frozen=True)
class Run:
    """One timed simulation."""

    name: str
    requests: int
    cpu_s: float
    iterations: int
    mean_batch: float
    peak_rss_mb: float


def program(k: int) -> RoundProgram:
    """The iteration that is priced."""
    target = load_model("meta-llama/Llama-3.1-8B-Instruct")
    drafter = load_drafter("eagle3", target=target) if k else None
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    return draft_verify(target, drafter, k=k, profile=profile, engine=load_engine("vllm"))


def timed(
    name: str, made: RoundProgram, load: Workload, requests: int, pricers: dict[int, Pricer] | None = None
) -> Run:
    """Simulate and take the process's CPU time."""
    start = time.process_time()
    result = simulate(
        made,
        PerPosition(SURVIVES) if made.k else None,
        load,
        SERVING,
        np.random.default_rng(0),
        num_requests=requests,
        pricers=pricers,
    )
    cpu_s = time.process_time() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Run(name, requests, cpu_s, result.iterations, result.batch_s / result.busy_s, peak)


def simulations() -> list[Run]:
    """The timed loads, small before large: peak memory never falls."""
    speculating, plain = program(3), program(0)
    steady = Workload(Poisson(4.0), Fixed(1024), Fixed(256))
    varied = Workload(Poisson(4.0), Lognormal(1024, 1.0), Lognormal(256, 0.8))
    full = Workload(ClosedLoop(200), Lognormal(1024, 1.0), Lognormal(256, 0.8))
    kept: dict[int, Pricer] = {}
    return [
        timed("saturated, 200 in flight", speculating, full, 1_000, kept),
        timed("saturated, prices known", speculating, full, 1_000, kept),
        timed("Poisson 4/s, K = 0", plain, steady, 10_000),
        timed("Poisson 4/s, lognormal lengths", speculating, varied, 10_000),
        timed("Poisson 4/s", speculating, steady, 10_000),
        timed("Poisson 4/s", speculating, steady, 100_000),
    ]


def grid_cpu_s() -> tuple[float, float]:
    """CPU seconds to build programs K = 0..16, and of speedup, break-even and best K on 64 batches x 16 contexts."""
    start = time.process_time()
    programs = [program(k) for k in range(17)]
    built = time.process_time()
    sequences = np.unique(np.rint(np.geomspace(1, 512, 90)))[:64, None]
    contexts = np.geomspace(128, 32768, 16)[None, :]
    plane = Batch(sequences, sequences * contexts)
    process = Iid(0.7)
    seconds = np.stack([np.broadcast_to(p.seconds(plane), (64, 16)) for p in programs])
    tokens = np.array([1.0 + (process.survival(k).sum() if k else 0.0) for k in range(17)])
    break_even = seconds / seconds[0]
    best = (tokens[:, None, None] / break_even).argmax(axis=0)
    assert best.shape == (64, 16)
    return built - start, time.process_time() - built


def command_cpu_s(*arguments: str) -> float:
    """CPU seconds of a fresh interpreter, the least of three after one that compiles bytecode."""
    spent = []
    for _ in range(4):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, *arguments], check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(spent[1:])


def main() -> None:
    """Print every figure beside its target."""
    print(f"Python {platform.python_version()}, numpy {np.__version__}, {platform.machine()}, one core")
    head = f"{'simulation':32}{'requests':>9}{'CPU s':>8}{'target':>8}{'us/iteration':>14}{'us/request':>12}"
    print(head + f"{'mean batch':>12}{'peak MB':>9}")
    targets = {10_000: 2.0, 100_000: 20.0}
    for run in simulations():
        target = targets.get(run.requests)
        print(
            f"{run.name:32}{run.requests:9,}{run.cpu_s:8.2f}{f'{target:.0f}' if target else '':>8}"
            f"{run.cpu_s / run.iterations * 1e6:14.2f}{run.cpu_s / run.requests * 1e6:12.1f}"
            f"{run.mean_batch:12.1f}{run.peak_rss_mb:9.0f}"
            + (f"  {'reached' if run.cpu_s <= target and run.peak_rss_mb <= 500 else 'MISSED'}" if target else "")
        )
    built, spent = grid_cpu_s()
    print(f"closed-form grid, K 0..16 x 64 batches x 16 contexts: {spent:.3f} s (target 0.1, {_verdict(spent, 0.1)});")
    print(f"  the 17 programs before it: {built:.3f} s")
    for name, arguments, target in (
        ("import specsim", ("-c", "import specsim"), 0.3),
        ("specsim --help", ("-m", "specsim.cli", "--help"), 0.6),
        ("bare interpreter", ("-c", ""), None),
    ):
        spent = command_cpu_s(*arguments)
        print(f"{name}: {spent:.3f} s CPU" + (f" (target {target}, {_verdict(spent, target)})" if target else ""))


def _verdict(spent: float, target: float) -> str:
    return "reached" if spent <= target else "MISSED"


if __name__ == "__main__":
    run_study(main)
