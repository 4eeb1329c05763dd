"""The company that a kernel keeps: what its model's pass reads around it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from calibration.measure.points import Point
from specsim.cost.law import BYTES
from specsim.cost.shapes import ForwardShape

MOST_BESIDE = 8 << 20
"""Bytes of a product between two kernels that leave nothing of a processor's own caches; more takes longer."""


@dataclass(frozen=True)
class Company:
    """Bytes of weights that a pass reads in all, and that one of its products reads; its layers, each with a cache.

    most_bytes: what is larger than this leaves nothing in a cache.
    """

    pass_bytes: float
    product_bytes: float
    layers: int = 0
    most_bytes: float = float("inf")


def company(models: Sequence[ForwardShape], *, most: float) -> Callable[[Point], Company]:
    """The company of a point's kernel in its own model's pass, whose bytes count up to ``most``.

    A small model stays in a cache between its layers. What two models share has the larger one's company.
    """
    known: dict[tuple[object, ...], Company] = {}
    for model in sorted(models, key=read_bytes):
        products = sum(x.count for x in model.linears)
        one = min(most, MOST_BESIDE, read_bytes(model) / products)
        mine = Company(min(most, read_bytes(model)), one, model.layers, most)
        keys: list[tuple[object, ...]] = [("gemm", x.n, x.k) for x in model.linears]
        keys += [("heads", a.heads, a.kv_heads, a.head_dim) for a in model.attention]
        keys += [("hidden", model.hidden), ("vocab", model.vocab)]
        known |= dict.fromkeys(keys, mine)

    def of(point: Point) -> Company:
        named = dict(point.parameters)
        if point.kind == "gemm":
            key: tuple[object, ...] = ("gemm", named["n"], named["k"])
        elif point.kind in ("attention", "prefill"):
            key = ("heads", named["heads"], named["kv_heads"], named["head_dim"])
        else:
            key = next((x, named[x]) for x in ("hidden", "vocab") if x in named)
        return known[key]

    return of


def read_bytes(model: ForwardShape) -> float:
    """Bytes of weights that a pass reads in its products."""
    return sum(x.n * x.k * x.count for x in model.linears) * BYTES[model.weight_dtype]
