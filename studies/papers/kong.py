"""Kong et al.'s law: golden values, and a fit to simulated serving that predicts lengths it has not seen."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import numpy as np

from specsim.cost.shapes import StepTime
from specsim.simulation.program import Batch
from specsim.systems import kong
from specsim.systems.reproduction import Check, Given, Reproduction, Row
from specsim.systems.timed_serving import LLAMA_8B_H100

LENGTHS = (256, 512, 768, 1024)
HELD_OUT = ((256, 512), (512, 1024), (768, 256), (1024, 768))
LOADS = (0.02, 0.2, 0.4, 0.6, 0.75)
ACCEPTANCE, DRAFTED, REQUESTS = 0.5, 5, 400


def _rough_capacity(k: int, prompt: int, output: int) -> float:
    """Where to put the rates: one over the seconds that a request takes from all others, from two prices."""
    program, cached = LLAMA_8B_H100.program(k), prompt + output / 2

    def seconds(n: float) -> float:
        made: StepTime = program.time(Batch(np.array([n]), np.array([n * cached])))
        return float(made.total_s[0])

    rounds = output / (1 + sum(ACCEPTANCE ** (i + 1) for i in range(k)))
    return 1.0 / (LLAMA_8B_H100.token_s * prompt + rounds * (seconds(96.0) - seconds(1.0)) / 95.0)


def _measured(k: int, prompt: int, output: int, requests_per_s: float) -> kong.Measured:
    return kong.measure(
        LLAMA_8B_H100, k=k, rate=ACCEPTANCE, prompt=prompt, output=output, requests_per_s=requests_per_s,
        requests=REQUESTS, rng=np.random.default_rng(3),
    )[0]  # fmt: skip


def _runs(k: int) -> list[kong.Measured]:
    return [
        _measured(k, p, g, load * _rough_capacity(k, p, g))
        for p, g in itertools.product(LENGTHS, LENGTHS)
        for load in LOADS
    ]


def _explained(fit: kong.Fitted, runs: Sequence[kong.Measured]) -> tuple[float, float]:
    """(R^2, mean absolute relative error) of latency."""
    seen = np.array([r.latency_s for r in runs])
    ours = np.array([fit.law(r.prompt, r.output).latency_s(r.requests_per_s) for r in runs])
    rest = float(((ours - seen) ** 2).sum() / ((seen - seen.mean()) ** 2).sum())
    return 1.0 - rest, float(np.abs(ours / seen - 1.0).mean())


def _crossing(prompt: int, output: int, around: float) -> float:
    """Rate at which simulated latencies with and without speculation meet: linear between five rates around a guess."""
    rates = around * np.array([0.8, 0.9, 1.0, 1.1, 1.2])
    gains = [
        _measured(0, prompt, output, float(r)).latency_s / _measured(DRAFTED, prompt, output, float(r)).latency_s
        for r in rates
    ]
    return float(np.interp(-1.0, -np.array(gains), rates))


def reproduce() -> Reproduction:
    rows, fits, checks = [], {}, []
    for k in (0, DRAFTED):
        runs = _runs(k)
        fits[k] = kong.fit([r for r in runs if (r.prompt, r.output) not in HELD_OUT])
        explained, error = _explained(fits[k], [r for r in runs if (r.prompt, r.output) in HELD_OUT])
        rows.append(Row(f"k = {k}: mean error of latency on four unseen pairs of lengths", None, error))
        checks.append(Check(f"k = {k}: R^2 on unseen lengths at least 0.97", f"{explained:.3f}", explained >= 0.97))
    for prompt, output in HELD_OUT:
        law = kong.break_even_per_s(fits[0].law(prompt, output), fits[DRAFTED].law(prompt, output))
        found = _crossing(prompt, output, law)
        rows.append(Row(f"break-even, {prompt} in, {output} out: requests/s", law, found, 0.10, "law"))
    golden = [kong.law(kong.GOLDEN_ALONE, kong.GOLDEN_SHARED, output=512, k=k, rate=0.6) for k in range(11)]
    rows.append(Row("golden: C1 without speculation, s", 10.28, golden[0].alone_s, 1e-6, "law"))
    rows.append(Row("golden: C1 at k = 3, s", 6.158, golden[3].alone_s, 1e-3, "law"))
    rows.append(Row("golden: C2 at k = 1, s", 0.1284, golden[1].per_request_s, 1e-3, "law"))
    return Reproduction(
        "kong",
        "latency under load",
        tuple(rows),
        tuple(checks),
        (
            Given("L = C1 / (1 - RPS C2)", "-", "published", "four independent notes agree"),
            Given("scaling of C1 and C2 with lengths", "linear; C2 in P + g / 2", "published", "same"),
            Given("step time", "linear in tokens and cache", "assumed", "data sheet of an H100, 8B target"),
            Given("costs of the golden example", "-", "assumed", "no fitted value of the paper was found"),
            Given("coefficients", "six for each k", "fitted", "to 12 of 16 pairs of lengths, five rates each"),
        ),
        (
            (
                f"Acceptance {ACCEPTANCE}, k = {DRAFTED}: speculation that stops paying under load. Latencies are"
                f" of the middle 40 % of {REQUESTS} requests at nearly constant rates."
            ),
        ),
    )
