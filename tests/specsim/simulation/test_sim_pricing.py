"""Tables of iteration prices against the program that they stand in for."""

from __future__ import annotations

import numpy as np
import pytest

from specsim.cost.drafter import load_drafter
from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.cost.shapes import StepTime, Term
from specsim.errors import InputError
from specsim.simulation.mixed import MixedTables
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import Batch, PrefillChunk, RoundProgram
from specsim.systems.draft_verify import draft_verify

MAX_KV = 1_000_000


@pytest.fixture(scope="module", params=[0, 3])
def program(request):
    target = load_model("meta-llama/Llama-3.1-8B-Instruct")
    drafter = load_drafter("eagle3", target=target) if request.param else None
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    return draft_verify(target, drafter, k=request.param, profile=profile, engine=load_engine("vllm"))


def exact(program, n, kv, chunks=()):
    return float(program.seconds(Batch(n, kv, prefill=tuple(PrefillChunk(*c) for c in chunks))))


def test_decode_table_is_within_a_tenth_of_a_percent(program):
    rng = np.random.default_rng(0)
    pricer = Pricer(program, MAX_KV)
    for _ in range(300):
        n = int(rng.integers(1, 300))
        kv = min(n * float(np.exp(rng.uniform(1, 9))), MAX_KV)
        assert pricer.decode(n, kv) == pytest.approx(exact(program, n, kv), rel=1e-3)


def random_chunks(rng):
    count = int(rng.integers(1, 5))
    lengths = rng.choice(np.arange(8, 3000), size=count, replace=False)
    return tuple((int(c), int(rng.integers(0, 6000)) if rng.random() < 0.3 else 0, rng.random() < 0.8) for c in lengths)


def test_mixed_tables_follow_the_program(program):
    """Within 0.1 % on average, and nearly everywhere within 0.5 %."""
    rng = np.random.default_rng(1)
    pricer = Pricer(program, MAX_KV)
    tables = MixedTables(program, pricer.decode)
    assert tables.agree(MAX_KV)
    errors = []
    for _ in range(150):
        n = int(rng.integers(0, 20) if rng.random() < 0.5 else rng.integers(20, 256))
        kv = n * float(rng.integers(50, 3000))
        chunks = random_chunks(rng)
        errors.append(tables.seconds(n, kv, chunks) / exact(program, n, kv, chunks) - 1)
        assert pricer.mixed(n, kv, chunks) == tables.seconds(n, kv, chunks)
    assert np.mean(np.abs(errors)) < 1e-3
    assert np.max(np.abs(errors)) < 0.01
    assert np.mean(np.abs(errors) < 0.005) > 0.97


def test_every_part_of_a_cost_that_adds_up_is_found():
    """Chunks, finished prompts, their lengths, squares and prefixes each cost much: leaving one out would show."""

    def host(batch):
        n, kv = np.asarray(batch.sequences, float), np.asarray(batch.kv_tokens, float)
        seconds = 1e-3 + 1e-5 * n + 1e-9 * kv
        for chunk in batch.prefill:
            new, past = np.asarray(chunk.tokens, float), np.asarray(chunk.past, float)
            seconds = seconds + 2e-3 + 1e-6 * new + 1e-9 * new**2 + 1e-9 * new * past + 1e-3 * chunk.last
        return StepTime({"all": Term(seconds, "test", np.zeros(np.shape(seconds), np.int8))})

    made = RoundProgram("parts", 2, (), host)
    tables = MixedTables(made, Pricer(made, MAX_KV).decode)
    rng = np.random.default_rng(3)
    for _ in range(200):
        n = int(rng.integers(0, 200))
        kv = n * float(rng.integers(50, 3000))
        chunks = random_chunks(rng)
        assert tables.seconds(n, kv, chunks) == pytest.approx(exact(made, n, kv, chunks), rel=0.005)


def test_a_cost_that_does_not_add_up_is_priced_directly():
    """Decodes that slow down by what shares their step: no sum of parts gives that product."""

    def host(batch):
        n, kv = np.asarray(batch.sequences, float), np.asarray(batch.kv_tokens, float)
        shorter = np.asarray(1.0)
        for chunk in batch.prefill:
            shorter = shorter * (1 + np.sqrt(np.asarray(chunk.tokens, float)) / (1 + np.asarray(chunk.past, float)))
        seconds = 1e-3 + 1e-6 * (n + kv * 1e-2) * shorter
        return StepTime({"odd": Term(seconds, "odd", np.zeros(np.shape(seconds), np.int8))})

    odd = RoundProgram("odd", 0, (), host)
    assert not MixedTables(odd, Pricer(odd, MAX_KV).decode).agree(MAX_KV)
    pricer = Pricer(odd, MAX_KV)
    chunks = ((700, 100, True), (300, 0, True))
    assert pricer.mixed(50, 40_000, chunks) == exact(odd, 50, 40_000, chunks)


def test_a_cost_that_is_not_a_time_is_refused():
    def host(batch):
        bad = np.nan if batch.prefill else -1.0
        return StepTime({"x": Term(np.array(bad), "x", np.array(0, np.int8))})

    broken = Pricer(RoundProgram("broken", 0, (), host), MAX_KV)
    with pytest.raises(InputError, match="not a positive number"):
        broken.mixed(0, 0, ((10, 0, True),))
    with pytest.raises(InputError, match="not a positive number"):
        broken.decode(1, 100)


@pytest.mark.slow
@pytest.mark.parametrize("gpu", ["a100_sxm", "b200_sxm", "h200_sxm", "l40s"])
def test_shipped_costs_are_tabulated(gpu):
    """Direct pricing is fifty times slower; a profile that fell back to it would be noticed by waiting only.

    Small caches too: the probe once asked for more cached tokens than the tables of a 48 GB card hold.
    """
    target = load_model("meta-llama/Llama-3.1-8B-Instruct")
    profile, engine = load_profile(gpu, engine="vllm", dtype="bf16"), load_engine("vllm")
    drafter = load_drafter("eagle3", target=target)
    for k in (0, 3):
        made = draft_verify(target, drafter if k else None, k=k, profile=profile, engine=engine)
        for max_kv in (50_000, MAX_KV):
            assert MixedTables(made, Pricer(made, max_kv).decode).agree(max_kv)
