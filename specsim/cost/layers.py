"""All attention layers of a pass that see one window, as one pair of surfaces."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from specsim.cost.attention import AttentionTable, Surface
from specsim.cost.law import BYTES, Law
from specsim.cost.profile import Profile
from specsim.cost.shapes import Attention, Trust
from specsim.cost.verify import VerifySurface


@dataclass(frozen=True, eq=False)
class Layers:
    """All attention layers of a pass that see one window: their decode and prefill surfaces, summed."""

    window: int | None
    window_measured: bool
    decode: Surface
    prefill: Surface
    attentions: tuple[Attention, ...]
    cache_bytes_per_token: float
    verify: VerifySurface | None = None
    """Several query tokens over the cache, where the profile measured that."""

    @property
    def flops_per_pair(self) -> float:
        """Operations for one query token and one key that it sees, all layers."""
        return sum(4.0 * a.count * a.heads * a.head_dim for a in self.attentions)


def sum_layers(profile: Profile, attentions: Sequence[Attention], kv_dtype: str) -> Layers:
    """The layers of one window, summed; the profile's tables at the cache's precision."""
    surfaces = [_sum_surfaces(table, attentions) for table in (profile.decode[kv_dtype], profile.prefill[kv_dtype])]
    window = attentions[0].window
    measured = any(g.window == window for g in profile.decode[kv_dtype].groups)
    return Layers(
        window=window,
        window_measured=measured,
        decode=surfaces[0],
        prefill=surfaces[1],
        attentions=tuple(attentions),
        cache_bytes_per_token=sum(2.0 * a.count * a.kv_heads * a.head_dim for a in attentions) * BYTES[kv_dtype],
        verify=_sum_verify(profile, attentions, kv_dtype),
    )


def _sum_verify(profile: Profile, attentions: Sequence[Attention], kv_dtype: str) -> VerifySurface | None:
    table = profile.verify.get(kv_dtype)
    if table is None:
        return None
    surfaces = [table.surface(a.heads, a.kv_heads, a.head_dim) for a in attentions]
    seconds = sum(a.count * surface.seconds for a, surface in zip(attentions, surfaces, strict=True))
    return VerifySurface(table, np.asarray(seconds), max(surface.trust for surface in surfaces))


def _sum_surfaces(table: AttentionTable, attentions: Sequence[Attention]) -> Surface:
    seconds, trust, law = np.zeros(()), Trust.MEASURED, None
    for a in attentions:
        surface = table.surface(a.heads, a.kv_heads, a.head_dim, a.window)
        seconds = seconds + a.count * surface.seconds
        trust, law = max(trust, surface.trust), law or surface.law
    assert isinstance(law, Law)
    return Surface(table, np.asarray(seconds), trust, law)
