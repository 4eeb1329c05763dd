"""Token-level rejection over a batch: the reference rule on a CPU, the same rule in PyTorch on a device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from specsim.verification import batched


@dataclass(frozen=True)
class Coins:
    """Randomness of a run: a generator on the models' device, and the one of the reference rule."""

    device: torch.Generator
    host: np.random.Generator

    @classmethod
    def of(cls, rng: np.random.Generator, device: torch.device) -> Coins:
        """Both seeded from ``rng``."""
        return cls(torch.Generator(device=device).manual_seed(int(rng.integers(2**63))), rng)


def sample(weights: Tensor, generator: torch.Generator) -> Tensor:
    """One index [...] from each row of weights [..., vocab] (not necessarily of sum 1), by an exponential race."""
    clock = torch.empty_like(weights).exponential_(generator=generator)
    return (weights / clock).argmax(dim=-1)


def reject(target: Tensor, draft: Tensor, drafted: Tensor, coins: Coins) -> tuple[Tensor, Tensor]:
    """Accepted drafted tokens [batch] and the token [batch] that the target adds, by the token rule.

    target: laws [batch, K+1, vocab]; draft: laws [batch, K, vocab] that ``drafted`` [batch, K] were drawn from.
    A drafted token survives with probability min(1, p/q); after the first that does not, the next one comes from the
    positive part of p - q; after K survivors, from the target's last law. The output follows the target's law
    (Leviathan, Kalman and Matias, ICML 2023, theorem 1).
    """
    if target.device.type != "cpu":
        return reject_on_device(target, draft, drafted, coins.device)
    tokens, counts = batched.token(target.numpy(), draft.numpy(), drafted.numpy(), coins.host)
    accepted = torch.from_numpy(counts - 1)
    return accepted, torch.from_numpy(tokens).gather(1, accepted[:, None])[:, 0]


def reject_on_device(
    target: Tensor, draft: Tensor, drafted: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """``reject`` without a transfer: laws of hundreds of megabytes must not leave the device."""
    batch, k = drafted.shape
    index = drafted[:, :, None]
    p = target[:, :k].gather(2, index).squeeze(2)
    q = draft.gather(2, index).squeeze(2)
    uniform = torch.empty_like(p).uniform_(generator=generator)
    accepted = (uniform * q < p).long().cumprod(dim=1).sum(dim=1)
    sequence = torch.arange(batch, device=drafted.device)
    law = target[sequence, accepted]
    refused = draft[sequence, accepted.clamp(max=k - 1)] * (accepted < k)[:, None]
    left = (law - refused).clamp(min=0.0)
    # Equal laws leave nothing but rounding; then no rejection can happen, and the law itself stands in.
    left = torch.where(left.sum(dim=1, keepdim=True) > 0.0, left, law)
    return accepted, sample(left, generator)
