"""An engine whose iterations take seconds affine in cached and prefill tokens, and rounds that survive i.i.d."""

from __future__ import annotations

import numpy as np

from specsim.cost.shapes import StepTime, Term
from specsim.simulation.engine import simulate
from specsim.simulation.program import Batch, RoundProgram
from specsim.simulation.serving import Serving
from specsim.simulation.workload import Requests

ROOMY = Serving(64, 4096, 100_000)


def program(k=0, *, step_s=0.01, per_kv_s=0.0, per_new_s=0.0, scale=1.0):
    """Seconds affine in cached and prefill tokens."""

    def host(batch: Batch) -> StepTime:
        kv = np.asarray(batch.kv_tokens, dtype=np.float64) + 0.0 * np.asarray(batch.sequences, dtype=np.float64)
        new = sum(np.asarray(c.tokens, dtype=np.float64) for c in batch.prefill)
        seconds = scale * (step_s + per_kv_s * kv + per_new_s * new)
        return StepTime({"all": Term(seconds, "test", np.zeros(np.shape(seconds), dtype=np.int8))})

    return RoundProgram("affine", k, (), host)


def requests(arrivals, prompts, outputs):
    return Requests(np.asarray(arrivals, float), np.asarray(prompts), np.asarray(outputs))


def run(load, *, k=0, rate=0.7, serving=ROOMY, n=None, seed=0, executor="auto", costs=None, **cost):
    made = costs or program(k, **cost)
    return simulate(
        made,
        Survives(rate) if k else None,
        load,
        serving,
        np.random.default_rng(seed),
        num_requests=n,
        executor=executor,
    )


class Survives:
    """Independent rounds, each drafted token surviving with probability ``rate``."""

    name = "test"
    max_k = None

    def __init__(self, rate: float) -> None:
        self.rate = rate

    def survival(self, k):
        return self.rate ** np.arange(1, k + 1)

    def start(self, n, rng):
        return np.zeros(n)

    def verify(self, latent, k, rng, *, rounds=1):
        u = rng.random((len(latent), rounds, k))
        return np.minimum.accumulate(u < self.rate, axis=2).sum(axis=2), latent
