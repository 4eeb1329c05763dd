"""Target and drafter pairs that the engine runs on a CPU: shapes small enough for seconds, acceptance named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from calibration.live.ngram import Ngram, plays
from specsim.cost.model_shape import ModelShape

if TYPE_CHECKING:
    from calibration.live.models import Model


@dataclass(frozen=True)
class Pair:
    """A pair by name (``key`` in file names): what each computes, and its acceptance.

    target, draft: transformers whose work is done; ``draft`` is None where only n-grams are looked up. orders: of the
    n-grams whose laws target and drafter have (None: their own logits). ``imposed`` is the survival curve for a number
    of drafted tokens, or None for real acceptance.
    """

    key: str
    name: str
    target: ModelShape
    draft: ModelShape | None
    orders: tuple[int, int] | None
    imposed: Callable[[int], tuple[float, ...]] | None

    def build(self, seed: int) -> tuple[Model, Model]:
        """Target and drafter with weights from a seed."""
        import torch

        from calibration.live.decoder import Decoder
        from calibration.live.models import Counted, Transformer

        generator = torch.Generator().manual_seed(seed)
        body = Decoder.random(self.target, generator=generator)
        if self.orders is not None:
            target, draft = (Ngram.count(plays(), order=order) for order in self.orders)
            return Counted(target, body), Counted(draft)
        assert self.draft is not None
        return Transformer(body), Transformer(Decoder.random(self.draft, generator=generator))

    def survival(self, k: int) -> tuple[float, ...] | None:
        """The imposed curve at ``k`` drafted tokens, None where acceptance is real."""
        return None if self.imposed is None else self.imposed(k)


def text_prompts(batch: int, tokens: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Slices [batch, tokens] of the text that ships, at random places."""
    text = np.frombuffer(plays(), dtype=np.uint8)
    at = rng.integers(0, text.size - tokens, size=batch)
    return text[at[:, None] + np.arange(tokens)].astype(np.int64)


def _geometric(k: int) -> tuple[float, ...]:
    """0.8 at the first drafted token, each next one 0.8 of the last: the order of a good drafter on chat."""
    return tuple(0.8 ** (i + 1) for i in range(k))


PAIRS = (
    Pair(
        "transformer",
        "transformer drafter, imposed acceptance",
        ModelShape("6 x 384", 6, 384, heads=6, kv_heads=2, head_dim=64, vocab=1024, intermediate=1024),
        ModelShape("1 x 128", 1, 128, heads=2, kv_heads=1, head_dim=64, vocab=1024, intermediate=384),
        None,
        _geometric,
    ),
    Pair(
        "ngram",
        "byte n-gram drafter, real acceptance",
        ModelShape("4 x 256", 4, 256, heads=4, kv_heads=4, head_dim=64, vocab=256, intermediate=768),
        None,
        (6, 3),
        None,
    ),
)
