"""Intervals of a step's time: one shared draw per residual family, through the profile's empirical quantiles."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from specsim.cost.profile import Profile
from specsim.cost.shapes import Floats, StepTime, Trust

FAMILIES = ("gemm", "attention", "verify", "collectives", "experts", "elementwise", "host", "prefill")
"""Residual families; the errors of one family are one draw, those of two families independent.

``attention`` is of one query token over a cache, ``verify`` of several, ``prefill`` of a prompt: three kernels.
"""


def draw_uniforms(rng: np.random.Generator, n: int) -> Mapping[str, Floats]:
    """``n`` uniform draws for every family, to be shared by all times that are compared with each other."""
    return {family: rng.random(n) for family in FAMILIES}


def sample_seconds(time: StepTime, profile: Profile, uniforms: Mapping[str, Floats]) -> Floats:
    """Plausible totals of a step, in seconds, of shape ``time`` + (n,).

    Each term is multiplied by exp(q), q the quantile at its family's draw of ln(measured / predicted) for the layer of
    trust that answered. The same draws given to two times make them err together, so that their ratio is tighter than
    either. Residuals are not centred: where cross-validation finds a bias, the sample's median shows it against
    ``total_s``.
    """
    shape = np.shape(time.total_s)
    parts: dict[tuple[str, Trust], Floats] = {}
    for term in time.terms.values():
        trust = np.broadcast_to(term.trust, np.shape(term.seconds))
        for layer in map(Trust, np.unique(trust).tolist()):
            share = np.broadcast_to(np.where(trust == layer, term.seconds, 0.0), shape)
            parts[term.family, layer] = parts.get((term.family, layer), np.zeros(shape)) + share
    if not parts:
        return np.zeros((*shape, next(iter(uniforms.values())).size))
    factors = [np.exp(residual_quantiles(profile, family, layer, uniforms[family])) for family, layer in parts]
    return np.asarray(np.stack(list(parts.values()), axis=-1) @ np.stack(factors))


def residual_quantiles(profile: Profile, family: str, trust: Trust, at: Floats) -> Floats:
    """ln(measured / predicted) at probabilities ``at`` for a family and layer; the nearest worse layer if unlisted.

    Beyond the listed probabilities the outermost ones hold, so that no draw is wilder than what was seen.
    """
    layers = profile.residuals.get(family, {})
    known = {Trust[name]: values for name, values in layers.items()}
    if not known:
        return np.zeros(np.shape(at))
    worse = [layer for layer in known if layer >= trust]
    layer = min(worse) if worse else max(known)
    return np.asarray(np.interp(at, profile.probabilities, known[layer]))
