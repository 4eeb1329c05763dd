"""The simulator under the idealisations of the closed forms: both must give the same numbers."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.acceptance.chains import Iid, PerPosition
from specsim.acceptance.heterogeneous import Heterogeneous
from specsim.cost.shapes import StepTime, Term
from specsim.simulation.engine import simulate
from specsim.simulation.program import Batch, RoundProgram
from specsim.simulation.serving import Serving
from specsim.simulation.workload import ClosedLoop, Fixed, Poisson, Workload
from specsim.theory.serving import steady_load, sustainable_rate
from specsim.theory.speedup import break_even_length, speedup
from specsim.theory.tokens import expected_tokens

SERVING = Serving(128, 100_000, 1_000_000)


def round_s(k, batch):
    return 0.006 * (1 + 0.15 * k) + 5e-5 * batch * (k + 1)


def program(k):
    """A round costs the same whatever the context; prefill is free but for the iteration that it shares."""

    def host(batch: Batch) -> StepTime:
        seconds = round_s(k, np.asarray(batch.sequences, dtype=np.float64) + 0.0 * np.asarray(batch.kv_tokens))
        seconds = seconds + 0.0 * sum(np.asarray(c.tokens, dtype=np.float64) for c in batch.prefill)
        return StepTime({"all": Term(seconds, "test", np.zeros(np.shape(seconds), dtype=np.int8))})

    return RoundProgram(f"k={k}", k, (), host)


def run(k, process, arrivals, *, output, n, seed=0):
    load = Workload(arrivals, Fixed(1), Fixed(output))
    return simulate(program(k), process, load, SERVING, np.random.default_rng(seed), num_requests=n)


@pytest.mark.parametrize(
    ("process", "k"),
    [
        (Iid(0.7), 4),
        (PerPosition((0.8, 0.5, 0.3)), 3),
        (Heterogeneous(PerPosition((0.7, 0.6, 0.6)), between_requests_sd=0.6), 3),
    ],
    ids=["iid", "per position", "spread between requests"],
)
def test_acceptance_length_is_one_plus_survival(process, k):
    """Over all rounds, hard requests count longer, as in a server's counters; the process defines its survival so."""
    r = run(k, process, ClosedLoop(16), output=2000, n=600)
    lengths = 1 + r.accepted / r.rounds
    over_rounds = 1 + r.accepted.sum() / r.rounds.sum()
    error = 5 * lengths.std() / np.sqrt(len(lengths)) + 1e-3
    assert over_rounds == pytest.approx(float(expected_tokens(process.survival(k))), abs=error)


@pytest.mark.parametrize("batch", [1, 8, 64])
def test_speedup_of_a_full_batch(batch):
    k, process = 3, Iid(0.75)
    runs = [run(j, process if j else None, ClosedLoop(batch), output=2000, n=3 * batch) for j in (0, k)]
    per_s = [r.output_tokens.sum() / r.duration_s for r in runs]
    tokens = expected_tokens(process.survival(k))
    formula = float(speedup(tokens, round_s(k, batch), round_s(0, batch)))
    assert per_s[1] / per_s[0] == pytest.approx(formula, rel=0.03)
    pays = float(break_even_length(round_s(k, batch), round_s(0, batch)))
    assert (per_s[1] > per_s[0]) == (float(tokens) > pays)


@pytest.mark.parametrize("rate", [4.0, 15.0])
def test_open_load_settles_where_littles_law_says(rate):
    k, process, output = 3, Iid(0.7), 200
    r = run(k, process, Poisson(rate), output=output, n=3000)
    law = steady_load(
        rate,
        round_s=lambda b: round_s(k, b),
        tokens_per_round=float(expected_tokens(process.survival(k))),
        output_tokens=output,
        prefill_s=0.0,
        max_batch=128,
    )
    assert law.stable
    assert r.batch_s / r.duration_s == pytest.approx(law.concurrency, rel=0.05)
    assert np.mean(r.tpot_s) == pytest.approx(law.seconds_per_token, rel=0.04)


def test_load_beyond_the_sustainable_rate_grows_without_bound():
    k, process, output = 3, Iid(0.7), 100
    limit = sustainable_rate(
        round_s=lambda b: round_s(k, b),
        tokens_per_round=float(expected_tokens(process.survival(k))),
        output_tokens=output,
        prefill_s=0.0,
        max_batch=128,
    )
    waits = []
    for share in (0.85, 1.25):
        r = run(k, process, Poisson(share * limit), output=output, n=6000)
        waits.append(r.ttft_s[-1000:].mean() / r.ttft_s[1000:2000].mean())
    assert waits[0] < 2.0
    assert waits[1] > 3.0
