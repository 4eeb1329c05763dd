"""Target and drafter pairs that the engine runs on a CPU: shapes small enough for seconds, acceptance named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from calibration.live.decoder import Decoder
from calibration.live.models import Counted, Model, Transformer
from calibration.live.ngram import Ngram, plays
from specsim.cost.model_shape import ModelShape


@dataclass(frozen=True)
class Pair:
    """A pair by name; ``imposed`` is the survival curve for a number of drafted tokens, or None for real acceptance.

    ``build`` makes target and drafter with weights from a seed.
    """

    name: str
    build: Callable[[int], tuple[Model, Model]]
    imposed: Callable[[int], tuple[float, ...]] | None

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


def _imposed(seed: int) -> tuple[Model, Model]:
    generator = torch.Generator().manual_seed(seed)
    target = ModelShape("6 x 384", 6, 384, heads=6, kv_heads=2, head_dim=64, vocab=1024, intermediate=1024)
    draft = ModelShape("1 x 128", 1, 128, heads=2, kv_heads=1, head_dim=64, vocab=1024, intermediate=384)
    return tuple(Transformer(Decoder.random(shape, generator=generator)) for shape in (target, draft))  # type: ignore[return-value]


def _counted(seed: int) -> tuple[Model, Model]:
    generator = torch.Generator().manual_seed(seed)
    body = ModelShape("4 x 256", 4, 256, heads=4, kv_heads=4, head_dim=64, vocab=256, intermediate=768)
    target = Ngram.count(plays(), order=6)
    return Counted(target, Decoder.random(body, generator=generator)), Counted(Ngram.count(plays(), order=3))


PAIRS = (
    Pair("transformer drafter, imposed acceptance", _imposed, _geometric),
    Pair("byte n-gram drafter, real acceptance", _counted, None),
)
