"""TTFT and TPOT of a measured deployment, simulated from its configuration."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache

import numpy as np

from specsim.cost.engine import Engine, HostCost, load_engine
from specsim.cost.model import load_model
from specsim.cost.model_shape import ModelShape
from specsim.cost.profile import Profile, load_profile
from specsim.simulation.engine import simulate
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import Batch, PrefillChunk, RoundProgram
from specsim.simulation.serving import Serving
from specsim.simulation.workload import Requests
from specsim.systems.draft_verify import draft_verify
from studies.silicon_rows import INFERENCEMAX, Row

OTHER_BYTES = 3_758_096_384 + 411_041_792
"""Memory that neither weights nor cache take: other_mem and nccl_mem of aiconfigurator's systems/h200_sxm.yaml."""
CACHE_SHARE = 0.9
"""gpu_memory_utilization (vLLM) and free_gpu_memory_fraction (TensorRT-LLM): both default to, or were set to, 0.9."""
REQUESTS_PER_USER = 10
"""InferenceMAX sends ten requests a user; the other runs are assumed to."""


def predict(row: Row, host: HostCost) -> Predicted:
    """Mean TTFT and TPOT of the deployment under its harness, with ``host`` for the engine's scheduling."""
    engine = replace(load_engine(row.backend), schedule=host)
    if row.harness is INFERENCEMAX and (row.backend, row.system) == ("vllm", "b200_sxm"):
        engine = replace(engine, mixed="eager")  # its script captures decoding alone (cudagraph_mode FULL_DECODE_ONLY)
    if row.harness.distinct is not None:
        return _steady(row, engine, row.harness.distinct)
    rng = np.random.default_rng([row.concurrency, row.prompt_tokens, row.output_tokens])
    n = REQUESTS_PER_USER * row.concurrency
    prompts, outputs = (
        rng.integers(int(row.harness.shortest * tokens), tokens + 1, n)
        for tokens in (row.prompt_tokens, row.output_tokens)
    )
    requests = Requests(np.zeros(n), prompts, outputs, row.concurrency)
    program, pricers = _program(row, engine)
    result = simulate(program, None, requests, _serving(row, engine), rng, pricers=pricers)
    return Predicted(row, float(result.ttft_s.mean()), float(result.tpot_s.mean()))


def _steady(row: Row, engine: Engine, distinct: int) -> Predicted:
    """Closed form where prompts repeat, which the simulator's requests don't.

    While a request of L tokens is in the server, L steps run and each of the C users brings one prompt, of which the
    share of distinct over sent ones is computed; the others are found. TTFT: two steps and that share of a prompt.
    """
    program, _ = _program(row, engine)
    n, missed = row.concurrency, min(1.0, distinct / (REQUESTS_PER_USER * row.concurrency))
    context = row.prompt_tokens + row.output_tokens / 2.0
    decode = float(program.seconds(Batch(n, n * context)))
    mixed = Batch(n, n * context, prefill=(PrefillChunk(row.prompt_tokens, 0),))
    prefill = missed * (float(program.seconds(mixed)) - decode)
    ttft = 2.0 * decode + prefill
    return Predicted(row, ttft, (row.output_tokens * decode + n * prefill - ttft) / (row.output_tokens - 1))


def _serving(row: Row, engine: Engine) -> Serving:
    """The engine's limits, as the published scripts set them or as the engine defaults."""
    shape, profile = _shape(row), _profile(row)
    memory = float(profile.hardware.memory_bytes)
    forward = shape.forward(tensor_parallel=row.tensor_parallel, dtype=row.dtype, kv_dtype=_cache_dtype(row))
    if row.backend == "trtllm":  # a share of what weights leave
        room = CACHE_SHARE * (memory - forward.weight_bytes - OTHER_BYTES)
    else:  # what weights leave of a share
        room = CACHE_SHARE * memory - forward.weight_bytes - OTHER_BYTES
    capacity = room / forward.kv_bytes_per_token
    longest = row.prompt_tokens + row.output_tokens
    seats, budget = row.concurrency, 8192
    if row.backend == "trtllm":
        seats = min(seats, max(1, int(capacity // longest)))  # admission reserves the whole output: nobody is evicted
        if row.harness is INFERENCEMAX:  # max_num_tokens of the scripts: max_model_len on H200, 16384 on B200
            budget = 16384 if row.system.startswith("b200") else 2048 if longest <= 2048 else 9216
    return Serving(
        max_num_seqs=seats,
        max_num_batched_tokens=budget,
        num_blocks=1 + int(capacity // engine.block_size),
        block_size=engine.block_size,
        async_scheduling=True,
    )


def _cache_dtype(row: Row) -> str:
    """InferenceMAX sets an fp8 cache, NVIDIA's fp8 checkpoints and TensorRT-LLM's fp8 runs bring one.

    The Qwen3-32B rows show theirs: 128 sequences of 2560 tokens on one H100 just queue, which 16 bits could not hold.
    """
    return "bf16" if row.dtype in ("bf16", "fp8_block") else "fp8"


def _shape(row: Row) -> ModelShape:
    return load_model(row.model)


def _profile(row: Row) -> Profile:
    return load_profile(row.system, engine=row.backend, dtype=row.dtype)


@cache
def _built(
    model: str, system: str, backend: str, dtype: str, kv_dtype: str, tensor_parallel: int, engine: Engine
) -> tuple[RoundProgram, dict[int, Pricer]]:
    program = draft_verify(
        load_model(model),
        k=0,
        profile=load_profile(system, engine=backend, dtype=dtype),
        engine=engine,
        tensor_parallel=tensor_parallel,
        dtype=dtype,
        kv_dtype=kv_dtype,
    )
    return program, {}


def _program(row: Row, engine: Engine) -> tuple[RoundProgram, dict[int, Pricer]]:
    """The deployment's decoding program, and the prices remembered for it."""
    return _built(row.model, row.system, row.backend, row.dtype, _cache_dtype(row), row.tensor_parallel, engine)


@dataclass(frozen=True)
class Predicted:
    """A row with its predicted mean TTFT and TPOT."""

    row: Row
    ttft_s: float
    tpot_s: float

    @property
    def tpot_error(self) -> float:
        return self.tpot_s / self.row.tpot_s - 1.0

    @property
    def ttft_error(self) -> float:
        return self.ttft_s / self.row.ttft_s - 1.0
