"""What is worth measuring for a set of models: points, their sizes, and where they lie for a predictor."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.cost.model_shape import ModelShape
from specsim.cost.shapes import Floats

ROWS = (*range(1, 18), 32, 33, 64, 65, 128, 129, 256, 257, 512, 1024)
"""Token counts of products: up to a round's, and both sides of where tiles step."""
QUERIES = (1, 2, 3, 4, 5, 6, 8, 9, 12, 16)
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128)
CACHED = (512, 1024, 2048, 4096, 8192, 16384, 32768)
MOST_CACHED = 1 << 19
"""Cached tokens of all sequences: 1 GB of one layer with 8 cache heads of 128 in 16 bits, twice that in copies."""
PROMPTS = (
    (1, 16),
    (1, 64),
    (1, 256),
    (1, 512),
    (1, 1024),
    (1, 2048),
    (1, 4096),
    (1, 8192),
    (4, 64),
    (4, 512),
    (8, 256),
)
"""Sequences and tokens of prefills without a cache."""
AROUND = ((1, 1), (4, 1), (16, 1), (64, 1), (256, 1), (1, 4), (4, 4), (16, 4), (64, 4))
"""Sequences and query tokens of what lies between products and attention."""
ENDS = ((1, 1, 512), (8, 1, 512), (1, 4, 512), (8, 4, 512), (8, 4, 2048), (1, 8, 4096), (32, 4, 512))
"""Sequences, query tokens and cached tokens of what lies around the layers of a pass."""
HOST = ((1, 0), (1, 1), (1, 2), (1, 4), (1, 8), (4, 0), (4, 2), (4, 8), (16, 0), (16, 4), (64, 0), (64, 4))
"""Sequences and drafted tokens a sequence of rounds without passes."""
LOGITS = (1, 4, 16, 64, 256)
"""Rows of logits that become laws."""
ROUNDS = 4
"""Rounds without passes that a sample of the host is the median of, after a first."""
STACKS = (1, 4, 16, 64, 128, 256)
"""Rows of a stack of two layers as a whole, captured and eager."""


@dataclass(frozen=True)
class Grid:
    """Which values of each axis are candidates."""

    rows: tuple[int, ...] = ROWS
    queries: tuple[int, ...] = QUERIES
    batches: tuple[int, ...] = BATCHES
    cached: tuple[int, ...] = CACHED
    prompts: tuple[tuple[int, int], ...] = PROMPTS
    around: tuple[tuple[int, int], ...] = AROUND
    ends: tuple[tuple[int, int, int], ...] = ENDS
    host: tuple[tuple[int, int], ...] = HOST
    logits: tuple[int, ...] = LOGITS
    stacks: tuple[int, ...] = STACKS


TINY = Grid(
    (1, 2, 4, 17, 64),
    (1, 2, 4),
    (1, 2),
    (16, 64),
    ((1, 16), (1, 64), (2, 32), (2, 16)),
    ((1, 1), (4, 1), (1, 3), (4, 3)),
    ((1, 1, 16), (2, 1, 16), (1, 4, 64), (2, 4, 64)),
    HOST[:6],
    (1, 4),
    (1, 4),
)
"""For tests and for looking whether everything runs."""


@dataclass(frozen=True)
class Point:
    """One thing to time: ``kind`` and its parameters by name, all integers."""

    kind: str
    parameters: tuple[tuple[str, int], ...]

    @classmethod
    def of(cls, kind: str, **parameters: int) -> Point:
        """A point from parameters by name."""
        return cls(kind, tuple(parameters.items()))

    @property
    def key(self) -> str:
        """The point as text, equal for equal points; what sample files hold."""
        return json.dumps([self.kind, dict(self.parameters)], separators=(",", ":"))

    def __getitem__(self, name: str) -> int:
        return dict(self.parameters)[name]

    @property
    def family(self) -> tuple[Any, ...]:
        """Points whose times tell of each other."""
        named = dict(self.parameters)
        kept = ("head_dim", "vocab", "hidden", "graph")
        return (self.kind, *(named[name] for name in kept if name in named))

    @property
    def place(self) -> Floats:
        """Coordinates in which times vary smoothly, and a distance of 1 is a different kernel."""
        p = dict(self.parameters)
        if self.kind == "gemm":
            return np.array([stepped(p["m"]), np.log(p["n"]) / 2.0, np.log(p["k"]) / 2.0])
        if self.kind == "attention":
            sizes = (p["batch"], p["cached"] + p["queries"], p["kv_heads"], p["heads"] / p["kv_heads"])
            return np.array([stepped(p["queries"]), *(np.log(x) / 3.0 for x in sizes)])
        smooth = ("batch", "queries", "cached", "tokens", "rows", "k", "kv_heads", "heads")
        return np.array([np.log1p(p[name]) / 1.5 for name in smooth if name in p])


def stepped(count: int) -> float:
    """ln(count), with a jump from one to two (a vector becomes a matrix) and at every tile of 64 up to 256."""
    return float(np.log(count) + 0.7 * (count > 1) + 0.3 * min((count - 1) // 64, 4))


def candidates(models: Sequence[ModelShape], *, dtype: str, grid: Grid, tensor_parallel: int = 1) -> list[Point]:
    """Every point of the grid for the models' shapes on one rank, without repeats."""
    points: list[Point] = []
    for model in models:
        forward = model.forward(tensor_parallel=tensor_parallel, dtype=dtype, kv_dtype=dtype)
        for linear in forward.linears:
            points += [Point.of("gemm", m=m, n=linear.n, k=linear.k) for m in grid.rows]
        for a in forward.attention:
            heads = {"heads": a.heads, "kv_heads": a.kv_heads, "head_dim": a.head_dim}
            points += [
                Point.of("attention", queries=q, batch=b, cached=c, **heads)
                for q in grid.queries
                for b in grid.batches
                for c in grid.cached
                if b * c <= MOST_CACHED
            ]
            points += [Point.of("prefill", batch=b, tokens=n, **heads) for b, n in grid.prompts]
        a, wide = forward.attention[0], model.intermediate // tensor_parallel
        layer = {
            "hidden": model.hidden,
            "heads": a.heads,
            "kv_heads": a.kv_heads,
            "head_dim": a.head_dim,
            "intermediate": wide or model.expert_intermediate * model.top_k // tensor_parallel,
        }
        norms = {"qk_norm": int(model.qk_norm)}
        points += [Point.of("around_layer", batch=b, queries=q, **layer, **norms) for b, q in grid.around]
        ends = {"hidden": model.hidden, "group": a.heads // a.kv_heads}
        points += [Point.of("around_pass", batch=b, queries=q, cached=c, **ends) for b, q, c in grid.ends]
        points += [Point.of(x, batch=b, k=k, vocab=model.vocab) for x in ("host", "drawing") for b, k in grid.host]
        points += [Point.of("softmax", rows=r, vocab=model.vocab) for r in grid.logits]
        points += [Point.of("stack", rows=r, graph=g, layers=2, **layer) for r in grid.stacks for g in (0, 1)]
    return list(dict.fromkeys(points))


def bytes_needed(point: Point, size: int) -> float:
    """Memory that measuring takes, roughly, at ``size`` bytes an element."""
    p = dict(point.parameters)
    if point.kind == "gemm":
        return size * (p["n"] * p["k"] + p["m"] * (p["n"] + p["k"]))
    if point.kind == "attention":
        group = p["heads"] // p["kv_heads"]
        cache = 2.0 * p["kv_heads"] * p["head_dim"] + group * p["queries"]
        return size * p["batch"] * (p["cached"] + p["queries"]) * cache * 1.1
    if point.kind == "prefill":
        return size * p["batch"] * p["tokens"] * (6.0 * p["heads"] * p["head_dim"])
    if point.kind in ("host", "drawing"):  # and caches that are emptied in a pass's place
        return 4.0 * p["batch"] * (6 * p["k"] + 6) * p["vocab"] + 8e6 * (p["k"] + 2)
    if point.kind == "softmax":
        return 12.0 * p["rows"] * p["vocab"]
    rows = p.get("rows") or p["batch"] * p["queries"]
    if point.kind == "around_pass":
        return rows * (8.0 * size * p["hidden"] + (p["cached"] + p["queries"]) * (1.0 + size * (1 + p["group"])))
    layer = 3.0 * p["hidden"] * p["intermediate"] + 4.0 * p["hidden"] ** 2 if point.kind == "stack" else 0.0
    return size * (p.get("layers", 1) * layer + rows * 8.0 * (p["hidden"] + p["intermediate"]))


def roofline_s(point: Point, size: int, *, bandwidth: float, peak: float) -> float:
    """A rough time at rates of bytes/s and operations/s: which points a budget can afford at all."""
    p = dict(point.parameters)
    flops = 0.0
    if point.kind == "gemm":
        flops = 2.0 * p["m"] * p["n"] * p["k"]
    elif point.kind == "attention":
        flops = 4.0 * p["queries"] * p["batch"] * p["cached"] * p["heads"] * p["head_dim"]
    elif point.kind == "prefill":
        flops = 2.0 * p["batch"] * p["tokens"] ** 2 * p["heads"] * p["head_dim"]
    elif point.kind == "stack":
        flops = 2.0 * p["rows"] * p["layers"] * (3 * p["hidden"] * p["intermediate"] + 4 * p["hidden"] ** 2)
    rounds = ROUNDS if point.kind in ("host", "drawing") else 1
    return rounds * max(bytes_needed(point, size) / bandwidth, flops / peak)
