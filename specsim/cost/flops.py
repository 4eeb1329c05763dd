"""Floating-point operations of a forward pass, counted from what it executes."""

from __future__ import annotations

import numpy as np

from specsim.cost.shapes import Attention, Floats, ForwardShape, Segment, StepShape


def pass_flops(forward: ForwardShape, shape: StepShape) -> Floats:
    """Operations of a pass on all its ranks: two for each multiply-add of products, experts and attention.

    Products: 2 n k a row. Attention: 4 heads head_dim for each pair of a query token and a key that it sees, causal
    among the new tokens (a tree counted as a chain of as many), at most ``window`` keys where there is one. Padding,
    norms, activations and sampling are not counted. Shape: what the segments' fields broadcast to.
    """
    tokens = np.zeros(())
    rows = np.zeros(())
    total = np.zeros(())
    for segment in shape.segments:
        tokens = tokens + np.asarray(segment.query_tokens, dtype=np.float64)
        rows = rows + np.asarray(segment.logit_rows, dtype=np.float64)
        for attention in forward.attention:
            per_pair = 4.0 * attention.count * attention.heads * attention.head_dim
            total = total + per_pair * _pairs(segment, attention)
    for linear in forward.linears:
        total = total + 2.0 * linear.n * linear.k * linear.count * (tokens if linear.rows == "tokens" else rows)
    for layer in forward.experts:
        width = layer.intermediate / layer.tensor_parallel
        total = total + 6.0 * layer.hidden * width * layer.top_k * layer.count * tokens
    return np.asarray(total * forward.tensor_parallel, dtype=np.float64)


def _pairs(segment: Segment, attention: Attention) -> Floats:
    """Query tokens times the keys they see, summed over the segment's sequences, each taken at the mean."""
    n = np.asarray(segment.sequences, dtype=np.float64)
    each = np.asarray(segment.query_tokens, dtype=np.float64) / np.maximum(n, 1.0)
    cached = np.asarray(segment.kv_tokens, dtype=np.float64) / np.maximum(n, 1.0)
    return np.asarray(n * (_seen(cached + each, attention.window) - _seen(cached, attention.window)))


def _seen(length: Floats, window: int | None) -> Floats:
    """Pairs of query and visible key in a causal pass over ``length`` tokens: x (x + 1) / 2, capped by the window."""
    if window is None:
        return np.asarray(0.5 * length * (length + 1.0))
    short = np.minimum(length, float(window))
    return np.asarray(0.5 * short * (short + 1.0) + (length - short) * float(window))
