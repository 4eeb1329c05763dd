"""Which kernels one GPU is asked for, most valuable first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from calibration.measure.points import MOST_CACHED, Grid, Point, candidates
from specsim.cost.model_shape import ModelShape


@dataclass(frozen=True)
class Layout:
    """Query heads, cache heads and head width of a layer on one rank."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int


LAYOUTS = (
    Layout("Llama-3.1-8B", 32, 8, 128),
    Layout("Llama-3.1-70B", 64, 8, 128),
    Layout("Llama-3.1-70B TP4", 16, 2, 128),
    Layout("Llama-3.1-8B TP4", 8, 2, 128),
    Layout("Qwen2.5-7B", 28, 4, 128),
    Layout("Llama-3.2-1B", 32, 8, 64),
    Layout("Qwen3-0.6B", 16, 8, 128),
)
"""Heads that the surface is measured for; the first one before everything else."""


@dataclass(frozen=True)
class Surface:
    """Query tokens x sequences x cached tokens, the coarse ones first, with a bound on the cached tokens of all."""

    queries: tuple[int, ...] = Grid.queries
    batches: tuple[int, ...] = Grid.batches
    cached: tuple[int, ...] = Grid.cached
    coarse: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = (
        (1, 2, 4, 5, 8, 16),
        (1, 8, 32, 128),
        (512, 2048, 8192, 32768),
    )
    most_tokens: int = MOST_CACHED

    def points(self, layouts: Sequence[Layout]) -> Iterator[Point]:
        """A coarse grid for every layout, then all that is left of the fine one, layout by layout."""
        seen: set[Point] = set()
        for grid in (self.coarse, (self.queries, self.batches, self.cached)):
            for layout in layouts:
                for point in _attention(layout, grid, self.most_tokens):
                    if point not in seen:
                        seen.add(point)
                        yield point


def _attention(layout: Layout, grid: tuple[tuple[int, ...], ...], most_tokens: int) -> Iterator[Point]:
    heads = {"heads": layout.heads, "kv_heads": layout.kv_heads, "head_dim": layout.head_dim}
    for batch in grid[1]:
        for cached in grid[2]:
            for queries in grid[0]:
                if batch * cached <= most_tokens:
                    yield Point.of("attention", queries=queries, batch=batch, cached=cached, **heads)


def prefills(layouts: Sequence[Layout], prompts: Sequence[tuple[int, int]] = Grid.prompts) -> Iterator[Point]:
    """Causal attention of whole prompts: (sequences, tokens)."""
    for layout in layouts:
        heads = {"heads": layout.heads, "kv_heads": layout.kv_heads, "head_dim": layout.head_dim}
        for batch, tokens in prompts:
            yield Point.of("prefill", batch=batch, tokens=tokens, **heads)


def products(models: Sequence[tuple[ModelShape, int]], dtype: str, grid: Grid) -> list[Point]:
    """Every distinct product of (model, ranks), all rows of one model before the next."""
    points = [
        point
        for model, ranks in models
        for point in candidates([model], dtype=dtype, grid=grid, tensor_parallel=ranks)
        if point.kind == "gemm"
    ]
    return list(dict.fromkeys(points))


def around(model: ModelShape, dtype: str, grid: Grid) -> list[Point]:
    """What lies around products and attention of one model, and a stack of two layers, captured and eager."""
    points = candidates([model], dtype=dtype, grid=grid)
    return [point for point in points if point.kind not in ("gemm", "attention", "prefill")]
