"""Draft, verify, reject, commit: a static batch through rounds of speculative decoding, with times by phase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from calibration.live.models import Model
from calibration.live.rule import Coins, reject, sample
from calibration.live.stopwatch import Stopwatch

PREFILL_CHUNK = 512
"""Prompt tokens in one pass while prefilling."""


@dataclass(frozen=True)
class LiveRun:
    """What a run produced: tokens by round and sequence, and times by round.

    emitted: tokens [rounds, batch] that each sequence gained in each round (accepted ones and the target's own).
    wall_s: wall seconds [rounds]. phases_s: seconds [rounds] of draft, sampling, verify and host, by the stopwatch.
    prefill_s: wall seconds of all prompts.
    text: tokens [batch, length], prompt included; the first ``lengths`` [batch] of each are valid.
    """

    k: int
    emitted: NDArray[np.int64]
    wall_s: NDArray[np.float64]
    phases_s: dict[str, NDArray[np.float64]]
    prefill_s: float
    text: NDArray[np.int64]
    lengths: NDArray[np.int64]

    @property
    def tokens_per_round(self) -> float:
        """Tokens that a sequence gains in a round, on average."""
        return float(self.emitted.mean())

    @property
    def busy_s(self) -> NDArray[np.float64]:
        """Seconds of each round by the stopwatch: processor time on a CPU, the stream's time on CUDA."""
        return np.sum(list(self.phases_s.values()), axis=0)


@torch.inference_mode()
def decode(
    target: Model,
    draft: Model | None,
    prompts: ArrayLike,
    *,
    k: int,
    rounds: int,
    rng: np.random.Generator,
    imposed: Sequence[float] | None = None,
    prefill: Literal["run", "assume"] = "run",
    capacity: int | None = None,
) -> LiveRun:
    """Run ``rounds`` rounds of ``k`` drafted tokens (0: plain decoding) for each of ``prompts`` [batch, length].

    The drafter's first pass takes the last two tokens, since it has not cached the last one drafted when all survived;
    K - 1 passes of one token follow, then one pass of the target over K + 1 tokens. ``imposed`` is a survival curve
    P(first i + 1 drafted tokens accepted), i < k: all the work is done, the rule's count is then replaced by one from
    the curve, at exact proportions over the run. Prompts have two tokens or more.

    ``prefill`` "assume" passes no prompt and leaves the cache as it was: rounds take as long, and many runs need none.
    ``capacity`` keeps one cache between runs of different length.
    """
    prompts = np.asarray(prompts, dtype=np.int64)
    batch, context = prompts.shape
    if context < 2 or k < 0 or (k and draft is None):
        raise ValueError(f"prompts need 2 tokens (got {context}), k >= 0 and a drafter where k > 0 (got k={k})")
    device = target.device
    coins = Coins.of(rng, device)
    forced = None if imposed is None else torch.from_numpy(forced_counts(imposed, (rounds, batch), rng)).to(device)
    capacity = max(capacity or 0, context + (rounds + 1) * (k + 1))
    text = torch.zeros(batch, capacity, dtype=torch.long, device=device)
    text[:, :context] = torch.from_numpy(prompts).to(device)
    filling = Stopwatch(device)
    filling.begin()
    for model in (target, draft) if k and draft is not None else (target,):
        model.allocate(batch, capacity)
        if prefill == "run":
            _prefill(model, text, context - 1)
        else:
            model.assume(text[:, : context - 1])
    if device.type == "cuda":
        torch.cuda.synchronize()
    filling.end()

    watch = Stopwatch(device)
    lengths = torch.full((batch,), context, dtype=torch.long, device=device)
    longest = np.full(batch, context)
    sequence = torch.arange(batch, device=device)[:, None]
    ahead = torch.arange(k + 1, device=device)
    emitted = np.zeros((rounds, batch), dtype=np.int64)
    for index in range(rounds):
        watch.begin()
        span = int(longest.max()) + k + 1
        pending = text[sequence, lengths[:, None] - 1]
        if k and draft is not None:
            drafted, laws = _draft(draft, text, lengths, sequence, k, span, coins.device, watch)
            watch.lap("host")
            verified = target.laws(torch.cat((pending, drafted), dim=1), lengths - 1, span=span)
            watch.lap("verify")
            accepted, following = reject(verified, laws, drafted, coins)
            out = torch.cat((drafted, following[:, None]), dim=1)
        else:
            verified = target.laws(pending, lengths - 1, span=span)
            watch.lap("verify")
            following = sample(verified[:, -1], coins.device)
            accepted = torch.zeros_like(following)
            out = following[:, None]
        watch.lap("sampling")
        if forced is not None:
            accepted = forced[index]
        out = out.scatter(1, accepted[:, None], following[:, None])
        text[sequence, lengths[:, None] + ahead] = out  # entries past the accepted ones are overwritten next round
        lengths += accepted + 1
        emitted[index] = np.asarray(accepted.tolist()) + 1  # the host reads what was accepted, as a scheduler must
        longest += emitted[index]
        watch.end()
    return LiveRun(
        k=k,
        emitted=emitted,
        wall_s=watch.wall_s(),
        phases_s=watch.phases_s(),
        prefill_s=float(filling.wall_s()[0]),
        text=text.cpu().numpy(),
        lengths=longest,
    )


def forced_counts(survival: Sequence[float], size: tuple[int, int], rng: np.random.Generator) -> NDArray[np.int64]:
    """Accepted counts [rounds, batch] whose shares follow ``survival`` as exactly as their number allows, shuffled."""
    curve = np.asarray(survival, dtype=np.float64)
    if np.any(np.diff(curve) > 0.0) or np.any((curve < 0.0) | (curve > 1.0)):
        raise ValueError(f"a survival curve does not rise and stays in [0, 1], got {list(survival)}")
    total = size[0] * size[1]
    uniform = rng.permutation((np.arange(total) + rng.random()) / total)
    counts = np.sum(uniform[:, None] < curve, axis=1)
    return counts.reshape(size).astype(np.int64)


def _prefill(model: Model, text: Tensor, tokens: int) -> None:
    start = torch.zeros(text.shape[0], dtype=torch.long, device=text.device)
    for first in range(0, tokens, PREFILL_CHUNK):
        last = min(first + PREFILL_CHUNK, tokens)
        model.laws(text[:, first:last], start + first, span=last, rows="last")


def _draft(
    draft: Model,
    text: Tensor,
    lengths: Tensor,
    sequence: Tensor,
    k: int,
    span: int,
    generator: torch.Generator,
    watch: Stopwatch,
) -> tuple[Tensor, Tensor]:
    """Drafted tokens [batch, k] and the laws [batch, k, vocab] that they were drawn from."""
    tokens = text[sequence, lengths[:, None] + torch.arange(-2, 0, device=text.device)]
    at, drafted, laws = lengths - 2, [], []
    for index in range(k):
        watch.lap("host")
        law = draft.laws(tokens, at, span=span, rows="last")[:, 0]
        watch.lap("draft")
        laws.append(law.clone())  # a captured pass overwrites its output
        drafted.append(sample(law, generator))
        watch.lap("sampling")
        tokens, at = drafted[-1][:, None], lengths + index
    return torch.stack(drafted, dim=1), torch.stack(laws, dim=1)
