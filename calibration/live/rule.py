"""Token-level rejection sampling over a batch, in PyTorch, and sampling from a batch of laws."""

from __future__ import annotations

import torch
from torch import Tensor


def sample(weights: Tensor, generator: torch.Generator) -> Tensor:
    """One index [...] from each row of weights [..., vocab] (not necessarily of sum 1), by an exponential race."""
    clock = torch.empty_like(weights).exponential_(generator=generator)
    return (weights / clock).argmax(dim=-1)


def reject(target: Tensor, draft: Tensor, drafted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Accepted drafted tokens [batch] and the token [batch] that the target adds, by the token rule.

    target: laws [batch, K+1, vocab]; draft: laws [batch, K, vocab] that ``drafted`` [batch, K] were drawn from.
    A drafted token survives with probability min(1, p/q); after the first that does not, the next one comes from the
    positive part of p - q; after K survivors, from the target's last law. The output follows the target's law
    (Leviathan, Kalman and Matias, ICML 2023, theorem 1).
    """
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
