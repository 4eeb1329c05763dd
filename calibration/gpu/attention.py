"""The verify surface: attention of a few query tokens over a long cache, causal within them, by kernel."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

from calibration.gpu.session import Session
from calibration.gpu.timing import Call, Timer

SPAN_MULTIPLE = 16


@dataclass(frozen=True)
class Layout:
    """Query heads, cache heads and head width of a layer on one rank."""

    name: str
    heads: int
    kv_heads: int
    head_dim: int


@dataclass(frozen=True)
class Surface:
    """Points to measure, the coarse ones first, with a bound on the tokens of cache that fit."""

    queries: tuple[int, ...]
    batches: tuple[int, ...]
    cached: tuple[int, ...]
    coarse: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    most_tokens: int

    def points(self) -> Iterator[tuple[int, int, int]]:
        """(batch, cached, queries): a coarse grid, then all that is left of the fine one."""
        seen: set[tuple[int, int, int]] = set()
        for queries, batches, cached in (self.coarse, (self.queries, self.batches, self.cached)):
            for batch in batches:
                for length in cached:
                    for query in queries:
                        point = (batch, length, query)
                        if point not in seen and batch * (length + query) <= self.most_tokens:
                            seen.add(point)
                            yield point


def measure_surface(session: Session, surface: Surface, layouts: Sequence[Layout], until_s: float) -> None:
    """Rows of table ``verify`` for every layout, kernel and point, until the clock says stop."""
    for layout in layouts:
        broken: dict[str, int] = {}
        pool = _pool(session, layout, surface)
        for batch, cached, queries in surface.points():
            if session.elapsed_s > until_s:
                session.note(f"verify surface: out of time in {layout.name} at batch {batch}, cached {cached}")
                return
            for kernel in kernels(session.timer):
                if broken.get(kernel, 0) < 3:  # a kernel that fails thrice does not exist here
                    work = partial(_point, session, layout, pool, kernel, batch, cached, queries)
                    if session.attempt(f"{kernel} attention, {layout.name}, {batch} x {cached} x {queries}", work):
                        broken[kernel] = broken.get(kernel, 0) + 1
        del pool
        session.free()


def kernels(timer: Timer) -> tuple[str, ...]:
    """Kernels that PyTorch ships for this device."""
    return ("flash", "cudnn", "efficient") if timer.cuda else ("default",)


def measure_prefill(session: Session, layouts: Sequence[Layout], lengths: Sequence[int], until_s: float) -> None:
    """Rows of table ``verify`` without a cache: causal attention of whole prompts, by the kernel PyTorch chooses."""
    dtype = torch.bfloat16 if session.timer.cuda else torch.float32
    for layout in layouts:
        for length in lengths:
            if session.elapsed_s > until_s:
                return
            shape = (1, layout.heads, length, layout.head_dim)
            q = torch.randn(shape, dtype=dtype, device=session.device)
            k, v = (torch.randn(1, layout.kv_heads, *shape[2:], dtype=dtype, device=session.device) for _ in range(2))

            def call(_: int, q: Tensor = q, k: Tensor = k, v: Tensor = v) -> Tensor:
                return scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)

            timing = session.timer.time(call)
            session.add("verify", **_row(layout, "prefill", 1, 0, length), copies=1, **timing.row())


def measure_flex(session: Session, layout: Layout, points: Sequence[tuple[int, int, int]], until_s: float) -> None:
    """Rows of table ``verify`` with FlexAttention, compiled for each point: slow to prepare, so a few points."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    compiled = torch.compile(flex_attention, dynamic=False)
    for batch, cached, queries in points:
        if session.elapsed_s > until_s:
            session.note("flex attention: out of time")
            return

        def measure(batch: int = batch, cached: int = cached, queries: int = queries) -> None:
            span = cached + queries
            q = torch.randn(batch, layout.heads, queries, layout.head_dim, dtype=torch.bfloat16, device=session.device)
            k, v = torch.randn(
                2, batch, layout.kv_heads, span, layout.head_dim, dtype=torch.bfloat16, device=session.device
            )

            def lower_right(_b: Tensor, _h: Tensor, row: Tensor, column: Tensor) -> Tensor:
                return column <= row + cached

            block = create_block_mask(lower_right, None, None, queries, span, device=str(session.device))
            timing = session.timer.time(lambda _: compiled(q, k, v, block_mask=block, enable_gqa=True))
            session.add("verify", **_row(layout, "flex", batch, cached, queries), **timing.row())

        session.attempt(f"flex attention {batch} x {cached} x {queries}", measure)


def _point(session: Session, layout: Layout, pool: Tensor, kernel: str, batch: int, cached: int, queries: int) -> None:
    timer = session.timer
    span = -(-(cached + queries) // SPAN_MULTIPLE) * SPAN_MULTIPLE
    size = 2 * batch * layout.kv_heads * span * layout.head_dim
    copies = max(1, min(timer.copies(size * pool.element_size()), pool.numel() // size))
    caches = [
        pool[i * size : (i + 1) * size].view(2, batch, layout.kv_heads, span, layout.head_dim) for i in range(copies)
    ]
    call = _call(layout, kernel, caches, batch, cached, queries, span)
    timing = timer.time(call, copies=copies)
    session.add("verify", **_row(layout, kernel, batch, cached, queries), copies=copies, **timing.row())


def _call(layout: Layout, kernel: str, caches: list[Tensor], batch: int, cached: int, queries: int, span: int) -> Call:
    """The kernel over rotating caches. Flash takes heads and the lower-right triangle as they are; the kernels with a
    mask take the heads of a group as rows of their cache head, so that the cache is read once a group.
    """
    q = torch.randn(batch, layout.heads, queries, layout.head_dim, dtype=caches[0].dtype, device=caches[0].device)
    if kernel == "flash":
        whole = cached + queries

        def flash(index: int) -> Tensor:
            key, value = caches[index]
            out = torch.ops.aten._scaled_dot_product_flash_attention(
                q, key[:, :, :whole], value[:, :, :whole], 0.0, queries > 1
            )
            return out[0]

        return flash
    packed = q.view(batch, layout.kv_heads, -1, layout.head_dim)
    seen = torch.arange(span, device=q.device) <= cached + torch.arange(queries, device=q.device)[:, None]
    mask = torch.zeros(queries, span, dtype=q.dtype, device=q.device).masked_fill_(~seen, -math.inf)
    mask = mask.repeat(layout.heads // layout.kv_heads, 1).expand(batch, layout.kv_heads, -1, -1)
    backend = {
        "cudnn": SDPBackend.CUDNN_ATTENTION,
        "efficient": SDPBackend.EFFICIENT_ATTENTION,
    }.get(kernel)

    def masked(index: int) -> Tensor:
        key, value = caches[index]
        if backend is None:
            return scaled_dot_product_attention(packed, key, value, attn_mask=mask)
        with sdpa_kernel(backend):
            return scaled_dot_product_attention(packed, key, value, attn_mask=mask)

    return masked


def _pool(session: Session, layout: Layout, surface: Surface) -> Tensor:
    """Memory that all caches are cut from: the largest point, or several last-level caches."""
    largest = max(b * (length + q + SPAN_MULTIPLE) for b, length, q in surface.points())
    elements = 2 * layout.kv_heads * layout.head_dim * largest
    if session.timer.cuda:
        elements = max(elements, 3 * session.timer.last_level_cache_bytes // 2)
    dtype = torch.bfloat16 if session.timer.cuda else torch.float32
    return torch.empty(elements, dtype=dtype, device=session.device).normal_()


def _columns(layout: Layout) -> dict[str, object]:
    return {
        "layout": layout.name,
        "heads": layout.heads,
        "kv_heads": layout.kv_heads,
        "head_dim": layout.head_dim,
    }


def _row(layout: Layout, kernel: str, batch: int, cached: int, queries: int) -> dict[str, object]:
    return {**_columns(layout), "kernel": kernel, "batch": batch, "cached": cached, "queries": queries}
