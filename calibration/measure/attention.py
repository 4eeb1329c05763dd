"""Attention of a few query tokens over a long cache, causal among themselves, through the kernels PyTorch ships."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention

MASKED = {"cudnn": SDPBackend.CUDNN_ATTENTION, "efficient": SDPBackend.EFFICIENT_ATTENTION}
"""Backends on CUDA that take a mask; flash takes none."""

Caches = Sequence[tuple[Tensor, Tensor]]
Run = Callable[[int], Tensor]


def masked(query: Tensor, caches: Caches, length: int) -> Callable[[SDPBackend | None], Run]:
    """Attention of ``query`` [batch, heads, q, d], the last of ``length`` tokens in a cache, through a mask.

    caches: keys and values [batch, kv_heads, span >= length, d] to rotate over. Heads that share a cache head are query
    rows of it, so that the cache is read once a group. The run's output is [batch, kv_heads, group * q, d].
    """
    packed, mask = _packed(query, caches, length)

    def through(backend: SDPBackend | None) -> Run:
        def run(i: int) -> Tensor:
            if backend is None:
                return scaled_dot_product_attention(packed, *caches[i], attn_mask=mask)
            with sdpa_kernel(backend):
                return scaled_dot_product_attention(packed, *caches[i], attn_mask=mask)

        return run

    return through


def chosen(query: Tensor, caches: Caches, length: int) -> str:
    """The kernel that PyTorch takes by itself for ``masked``: cudnn, efficient, flash, math, or unknown."""
    packed, mask = _packed(query, caches, length)
    try:
        choice = int(torch._fused_sdp_choice(packed, *caches[0], attn_mask=mask))
    except (AttributeError, RuntimeError):  # not a public call; no measurement may fail for its sake
        return "unknown"
    known = {int(backend.value): name for name, backend in SDPBackend.__members__.items()}
    return known.get(choice, "unknown").removesuffix("_ATTENTION").lower()


def _packed(query: Tensor, caches: Caches, length: int) -> tuple[Tensor, Tensor]:
    """Query rows by cache head, and the additive mask of the lower right triangle."""
    batch, heads, queries, dim = query.shape
    kv, span = caches[0][0].shape[1:3]
    seen = (
        torch.arange(span, device=query.device) <= torch.arange(length - queries, length, device=query.device)[:, None]
    )
    mask = torch.zeros(queries, span, dtype=query.dtype, device=query.device).masked_fill_(~seen, float("-inf"))
    return query.reshape(batch, kv, -1, dim), mask.repeat(heads // kv, 1).expand(batch, kv, -1, -1)


def flash(query: Tensor, caches: Caches, length: int) -> Run:
    """FlashAttention as PyTorch ships it: it groups the heads itself, and its triangle is the lower right one."""
    exact = [(k[:, :, :length], v[:, :, :length]) for k, v in caches]
    causal = query.shape[2] > 1

    def run(i: int) -> Tensor:
        # What torch.nn.attention.bias.causal_lower_right calls, without its checks in every call.
        out = torch.ops.aten._scaled_dot_product_flash_attention(query, *exact[i], 0.0, causal)
        return out[0]  # type: ignore[no-any-return]

    return run


def flex(query: Tensor, caches: Caches, length: int, *, compiled: bool = True) -> Run:
    """FlexAttention, compiled once for all sizes of a head layout (uncompiled it materialises every score)."""
    from torch.nn.attention.flex_attention import create_block_mask, flex_attention

    queries, span = query.shape[2], caches[0][0].shape[2]
    before = torch.tensor(length - queries, device=query.device)  # a number would be compiled in

    def lower_right(_b: Tensor, _h: Tensor, row: Tensor, column: Tensor) -> Tensor:
        return column <= row + before

    block = create_block_mask(lower_right, None, None, queries, span, device=str(query.device))
    call = _compiled() if compiled else flex_attention

    def run(i: int) -> Tensor:
        return call(query, *caches[i], block_mask=block, enable_gqa=True)  # type: ignore[no-any-return]

    return run


def runs(run: Run) -> bool:
    """Whether a kernel exists for these shapes in this build and on this device; lack of memory is raised."""
    try:
        with torch.inference_mode():  # as it is timed: what is compiled is compiled for that
            run(0)
    except torch.cuda.OutOfMemoryError:
        raise
    except Exception:  # backends, compilers and drivers refuse in many ways
        return False
    return True


@cache
def _compiled() -> Callable[..., Any]:
    from torch.nn.attention.flex_attention import flex_attention

    # fullgraph: when too many variants were compiled it fails, instead of going on uncompiled.
    return torch.compile(flex_attention, dynamic=True, fullgraph=True)
