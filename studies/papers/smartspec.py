"""SmartSpec's controller under load: never worse than plain decoding, and where a fixed length is."""

from __future__ import annotations

from functools import cache

import numpy as np

from specsim.acceptance.chains import Iid
from specsim.simulation.engine import simulate
from specsim.simulation.workload import Fixed, Poisson, Workload
from specsim.systems.reproduction import Check, Given, Reproduction, Row
from specsim.systems.smartspec import SmartSpec
from specsim.systems.timed_serving import LLAMA_8B_H100, ROOMY

RATES_PER_S, ACCEPTANCES, MOST = (4.0, 20.0, 45.0, 70.0), (0.2, 0.5, 0.8), 5


@cache
def run(acceptance: float, requests_per_s: float, k: int | None) -> tuple[float, float]:
    """Mean latency in seconds and mean K; ``k`` None: the controller decides."""
    load, rng = Workload(Poisson(requests_per_s), Fixed(128), Fixed(192)), np.random.default_rng(1)
    if k is not None:
        ran = simulate(LLAMA_8B_H100.program(k), Iid(acceptance), load, ROOMY, rng, num_requests=300)
        return float(ran.e2e_s.mean()), float(k)
    programs = {n: LLAMA_8B_H100.program(n) for n in range(MOST + 1)}
    control = SmartSpec(programs, decay=0.99, prior=0.7, probe_every=50)
    process = control.watching(Iid(acceptance))
    ran = simulate(programs, process, load, ROOMY, rng, num_requests=300, policy=control)
    return float(ran.e2e_s.mean()), control.mean_k


def reproduce() -> Reproduction:
    rows, worst = [], 0.0
    chosen = np.zeros((len(ACCEPTANCES), len(RATES_PER_S)))
    for i, a in enumerate(ACCEPTANCES):
        for j, r in enumerate(RATES_PER_S):
            (plain, _), (fixed, _), (ours, chosen[i, j]) = run(a, r, 0), run(a, r, MOST), run(a, r, None)
            worst = max(worst, ours / plain)
            what = f"acceptance {a}, {r:g} requests/s"
            rows.append(Row(f"{what}: latency without over with the controller", None, plain / ours))
            rows.append(Row(f"{what}: the same at K = {MOST} fixed", None, plain / fixed))
            rows.append(Row(f"{what}: mean K", None, float(chosen[i, j])))
    crossing = [run(0.5, r, 0)[0] / run(0.5, r, MOST)[0] for r in RATES_PER_S]
    return Reproduction(
        "smartspec",
        "goodput picks the length",
        tuple(rows),
        (
            Check(
                "at most 2 % slower than no speculation anywhere", f"at worst {100 * (worst - 1):+.1f} %", worst <= 1.02
            ),
            Check("mean K falls with load", "at every acceptance", bool(np.all(np.diff(chosen, axis=1) <= 0.05))),
            Check("mean K rises with acceptance", "at every rate", bool(np.all(np.diff(chosen, axis=0) >= -0.05))),
            Check(
                f"K = {MOST} fixed crosses below no speculation (acceptance 0.5)",
                ", ".join(f"{g:.2f}" for g in crossing),
                crossing[0] > 1 > crossing[-1],
            ),
        ),
        (
            Given(
                "step time",
                "linear in tokens and cache",
                "assumed",
                "data sheet of an H100, 8B target; no coefficient found",
            ),
            Given("moving average", "0.99 kept a step, prior 0.7", "assumed", "constants not found"),
            Given("requests", "Poisson, 128 in, 192 out", "assumed", "-"),
        ),
        ("No number of the paper is reproduced: its configurations and coefficients were not found.",),
    )
