"""Every candidate's grid over draft length, batch and context, with joint draws shared by all of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.uncertainty import acceptance_draws
from specsim.cost.intervals import draw_uniforms, sample_seconds
from specsim.cost.model_shape import ModelShape
from specsim.cost.shapes import StepTime
from specsim.errors import InputError
from specsim.planning.deployment import Candidate, Deployment
from specsim.planning.estimate import DRAWS
from specsim.planning.grid import Grid, grid
from specsim.simulation.program import Batch, PrefillChunk

Floats = NDArray[np.float64]

BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 448, 512, 768, 1024)
CONTEXTS = (512, 1024, 2048, 4096, 8192, 16384, 32768, 65536, 131072)


@dataclass(frozen=True)
class Surfaces:
    """Grids by candidate label and of plain decoding, on common batches and contexts.

    context: the column that the traffic is at.
    fits: (B, C), whether the cache holds so many sequences of that context.
    """

    grids: Mapping[str, Grid]
    plain: Grid
    batches: Floats
    contexts: Floats
    context: int
    fits: NDArray[np.bool_]
    uniforms: Mapping[str, Floats]


def surfaces(deployment: Deployment) -> Surfaces:
    """Price all candidates; the draws behind every interval are the same for all of them."""
    seed = deployment.scenario.simulation.seed
    shown = deployment.scenario.shown
    serving = deployment.serving(None, 0)
    batches = np.array(
        sorted({b for b in (*BATCHES, *(shown.batch_sizes or ()), serving.max_num_seqs) if b <= serving.max_num_seqs}),
        dtype=np.float64,
    )
    own = None if deployment.workload is None else round(deployment.decode_context_tokens)
    cached = serving.usable_blocks * serving.block_size
    for length in shown.context_tokens or ():
        _possible(length, deployment.target, cached, field="shown.context_tokens")
    if own is not None:
        _possible(own, deployment.target, None, field="workload.prompt_tokens")
    longest = min(deployment.target.max_positions or cached, cached)
    listed = shown.context_tokens or tuple(c for c in CONTEXTS if c <= longest)
    contexts = np.array(sorted({*listed, *(() if own is None else (own,))}), dtype=np.float64)
    traffic = own if own is not None else contexts[0]
    uniforms = draw_uniforms(np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1000,))), DRAWS)

    def sample(time: StepTime) -> Floats:
        return sample_seconds(time, deployment.profile, uniforms)

    plain = deployment.program(None, 0)
    axes: dict[str, Any] = {"batches": batches, "contexts": contexts, "sample": sample, "draws": DRAWS}
    made = {}
    for candidate in deployment.candidates:
        lengths = candidate.lengths
        process = candidate.process
        tokens = None if process is None else {k: 1.0 + float(process.survival(k).sum()) for k in lengths}
        # One generator state for all lengths: evidence from the same requests errs alike at each of them.
        token_draws = (
            None
            if process is None
            else {
                k: acceptance_draws(
                    process, k, DRAWS, np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(1001,)))
                )
                for k in lengths
            }
        )
        made[candidate.label] = grid(
            {0: plain, **{k: deployment.program(candidate, k) for k in lengths}},
            tokens=tokens,
            token_draws=token_draws,
            **axes,
        )
    return Surfaces(
        grids=made,
        plain=grid({0: plain}, tokens=None, token_draws=None, **axes),
        batches=batches,
        contexts=contexts,
        context=int(np.flatnonzero(contexts == traffic)[0]),
        fits=batches[:, None] * contexts[None, :] <= cached,
        uniforms=uniforms,
    )


def _possible(context: int, target: ModelShape, cached: int | None, *, field: str) -> None:
    """InputError where the model has no such positions, or the cache holds no such request."""
    if target.max_positions is not None and context > target.max_positions:
        raise InputError(
            f"{context:,} tokens of context: {target.name} ends at {target.max_positions:,} "
            "(max_position_embeddings of its config.json)",
            field=field,
        )
    if cached is not None and context > cached:
        raise InputError(
            f"{context:,} tokens of context: the cache holds {cached:,}, so no such request fits", field=field
        )


def prefill_seconds(
    deployment: Deployment, candidate: Candidate | None, k: int, uniforms: Mapping[str, Floats] | None = None
) -> Floats:
    """What one mean prompt adds to the iterations that carry it; with ``uniforms`` as draws, shape (n,).

    The chunk's marginal time in an iteration with a running batch: weights are read for both together.
    """
    workload = deployment.workload
    assert workload is not None
    limits = deployment.scenario.serving
    program = deployment.program(candidate, k)
    size = min(32.0, float(limits.max_num_seqs))
    kv = size * deployment.decode_context_tokens
    prompt = max(1, round(workload.mean_prompt_tokens))
    room = max(1, limits.max_num_batched_tokens - int(size) * (k + 1))
    total: Floats = np.zeros(() if uniforms is None else DRAWS)
    for past in range(0, prompt, room):
        tokens = min(room, prompt - past)
        chunk = PrefillChunk(tokens, past, last=past + tokens == prompt)
        mixed, plain = program.time(Batch(size, kv, prefill=(chunk,))), program.time(Batch(size, kv))
        if uniforms is None:
            total = total + mixed.total_s - plain.total_s
        else:
            profile = deployment.profile
            total = total + sample_seconds(mixed, profile, uniforms) - sample_seconds(plain, profile, uniforms)
    return np.maximum(total, 0.0)
