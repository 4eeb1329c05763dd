"""A Llama-shaped decoder in PyTorch with random weights and a contiguous cache that can be rolled back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from calibration.live.stopwatch import NO_LAPS, Laps
from specsim.cost.model_shape import ModelShape

SPAN_MULTIPLE = 16
"""Attended spans are rounded up to this: masked attention kernels want rows of the mask aligned to 16 bytes."""

ROTARY_BASE = 500_000.0
"""Llama 3's base; it costs the same whatever its value."""


@dataclass(frozen=True)
class Layer:
    """Weights of one layer, with q, k, v and gate, up in one matrix each, as serving engines hold them."""

    attention_norm: Tensor
    qkv: Tensor
    output: Tensor
    mlp_norm: Tensor
    gate_up: Tensor
    down: Tensor
    query_norm: Tensor | None = None
    key_norm: Tensor | None = None


@dataclass(frozen=True)
class Place:
    """Where new tokens go: sequence [batch, 1] and positions [batch, q] in the cache, and their rotations."""

    sequence: Tensor
    positions: Tensor
    cosine: Tensor
    sine: Tensor


@dataclass(eq=False)
class Decoder:
    """A decoder of ``shape`` whose passes read and write its own cache.

    ``forward`` takes any number of query tokens a sequence, each sequence at its own position. Rolling back needs no
    call: entries past a sequence's position are never attended to, and the next pass overwrites them.
    """

    shape: ModelShape
    layers: tuple[Layer, ...]
    embedding: Tensor
    norm: Tensor
    head: Tensor
    cosine: Tensor
    sine: Tensor
    cache: Tensor | None = field(default=None, repr=False)
    """[layers, key or value, batch, kv_heads, capacity, head_dim]"""

    @classmethod
    def random(
        cls,
        shape: ModelShape,
        *,
        generator: torch.Generator,
        dtype: torch.dtype = torch.float32,
        max_positions: int = 4096,
    ) -> Decoder:
        """A decoder with normal weights of standard deviation 1/sqrt(width), on the generator's device."""

        def weights(rows: int, columns: int) -> Tensor:
            out = torch.empty(rows, columns, dtype=dtype, device=generator.device)
            return out.normal_(std=columns**-0.5, generator=generator)

        return cls.of(shape, weights, dtype=dtype, device=generator.device, max_positions=max_positions)

    @classmethod
    def of(
        cls,
        shape: ModelShape,
        weights: Callable[[int, int], Tensor],
        *,
        dtype: torch.dtype,
        device: torch.device,
        max_positions: int,
    ) -> Decoder:
        """A decoder whose matrices ``weights`` gives, asked for (rows, columns) in a pass's order."""

        def ones(width: int) -> Tensor:
            return torch.ones(width, dtype=dtype, device=device)

        width, heads, kv = shape.hidden, shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
        layers = tuple(
            Layer(
                attention_norm=ones(width),
                qkv=weights(heads + 2 * kv, width),
                output=weights(width, heads),
                mlp_norm=ones(width),
                gate_up=weights(2 * shape.intermediate, width),
                down=weights(width, shape.intermediate),
                query_norm=ones(shape.head_dim) if shape.qk_norm else None,
                key_norm=ones(shape.head_dim) if shape.qk_norm else None,
            )
            for _ in range(shape.layers)
        )
        embedding = weights(shape.vocab, width)
        half = torch.arange(0, shape.head_dim, 2, dtype=torch.float32, device=device) / shape.head_dim
        angle = torch.arange(max_positions, dtype=torch.float32, device=device)[:, None] / ROTARY_BASE**half
        return cls(
            shape=shape,
            layers=layers,
            embedding=embedding,
            norm=ones(width),
            head=embedding if shape.tied_embeddings else weights(shape.vocab, width),
            cosine=angle.cos().to(dtype),
            sine=angle.sin().to(dtype),
        )

    @property
    def vocab(self) -> int:
        """Tokens that the model knows."""
        return self.shape.vocab

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.embedding.device

    @property
    def weight_bytes(self) -> int:
        """Bytes that a pass reads of the weights: everything but the rows of the embedding that it skips."""
        matrices = [w for layer in self.layers for w in (layer.qkv, layer.output, layer.gate_up, layer.down)]
        return sum(matrix.nbytes for matrix in (*matrices, self.head))

    def allocate(self, batch: int, capacity: int) -> None:
        """Make room in the cache for ``batch`` sequences of ``capacity`` tokens; what it held is lost."""
        capacity = -(-capacity // SPAN_MULTIPLE) * SPAN_MULTIPLE
        size = (self.shape.layers, 2, batch, self.shape.kv_heads, capacity, self.shape.head_dim)
        if self.cache is None or self.cache.shape != size:
            self.cache = None  # give the old one back before taking the new one
            # Written, not merely mapped: a page that was never written reads as one shared page, all too fast.
            self.cache = torch.empty(size, dtype=self.embedding.dtype, device=self.device).zero_()

    @torch.inference_mode()
    def forward(self, tokens: Tensor, start: Tensor, *, span: int, rows: Literal["all", "last"] = "all") -> Tensor:
        """Logits [batch, rows, vocab] of ``tokens`` [batch, q] at positions ``start`` [batch] and on.

        ``span`` bounds every position from above (exclusive): the cache that attention reads. Keys and values of the
        new tokens are in the cache afterwards.
        """
        x = self.hidden(tokens, start, span=span)
        return self.logits(x[:, -1:] if rows == "last" else x)

    def logits(self, x: Tensor) -> Tensor:
        """Logits [batch, rows, vocab] of what ``hidden`` returned."""
        return linear(rms_norm(x, x.shape[-1:], self.norm), self.head)

    def hidden(self, tokens: Tensor, start: Tensor, *, span: int) -> Tensor:
        """The layers' output [batch, q, hidden]; arguments as of ``forward``."""
        assert self.cache is not None, "allocate first"
        batch, queries = tokens.shape
        span = min(-(-span // SPAN_MULTIPLE) * SPAN_MULTIPLE, self.cache.shape[4])
        positions = start[:, None] + torch.arange(queries, device=tokens.device)
        sequence = torch.arange(batch, device=tokens.device)[:, None]
        place = Place(sequence, positions, self.cosine[positions][:, :, None], self.sine[positions][:, :, None])
        mask = self._mask(positions, span).expand(-1, self.shape.kv_heads, -1, -1)
        x = self.embedding[tokens]
        for index, layer in enumerate(self.layers):
            x = self.layer(layer, x, self.cache[index], place, mask, span)
        return x

    def layer(
        self,
        layer: Layer,
        x: Tensor,
        cache: Tensor,
        place: Place,
        mask: Tensor | None,
        span: int,
        around: Laps | None = None,
    ) -> Tensor:
        """A layer over ``x`` [batch, q, hidden] and its ``cache``; ``around`` times all but products and attention."""
        watch = around or NO_LAPS
        keys, values = cache
        with watch:
            normed = rms_norm(x, x.shape[-1:], layer.attention_norm)
        packed = linear(normed, layer.qkv)
        with watch:
            query = self.enter(layer, packed, keys, values, place)
        mixed = scaled_dot_product_attention(query, keys[:, :, :span], values[:, :, :span], attn_mask=mask)
        with watch:
            mixed = self.leave(mixed, x.shape[1])
        added = linear(mixed, layer.output)
        with watch:
            x = x + added
            normed = rms_norm(x, x.shape[-1:], layer.mlp_norm)
        added = linear(normed, layer.gate_up)
        with watch:
            added = gated(added)
        added = linear(added, layer.down)
        with watch:
            return x + added

    def enter(self, layer: Layer, packed: Tensor, keys: Tensor, values: Tensor, place: Place) -> Tensor:
        """Query rows [batch, kv_heads, group * q, head_dim] of ``packed`` [batch, q, width]; keys and values written.

        The heads that share a cache head become query rows of it, so that the cache is read once a group.
        """
        shape = self.shape
        batch, queries, _ = packed.shape
        heads, kv, dim = shape.heads, shape.kv_heads, shape.head_dim
        query, key, value = packed.view(batch, queries, heads + 2 * kv, dim).split([heads, kv, kv], dim=2)
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = rms_norm(query, (dim,), layer.query_norm), rms_norm(key, (dim,), layer.key_norm)
        query, key = _rotate(query, place.cosine, place.sine), _rotate(key, place.cosine, place.sine)
        keys.transpose(1, 2)[place.sequence, place.positions] = key
        values.transpose(1, 2)[place.sequence, place.positions] = value
        return query.view(batch, queries, kv, heads // kv, dim).permute(0, 2, 3, 1, 4).reshape(batch, kv, -1, dim)

    def leave(self, mixed: Tensor, queries: int) -> Tensor:
        """Attention's output as rows [batch, q, heads * head_dim]."""
        batch, kv, rows, dim = mixed.shape
        group = rows // queries
        return mixed.view(batch, kv, group, queries, dim).permute(0, 3, 1, 2, 4).reshape(batch, queries, -1)

    def _mask(self, positions: Tensor, span: int) -> Tensor:
        """Additive mask [batch, 1, group * q, span]: a query sees the positions up to its own."""
        hidden = torch.arange(span, device=positions.device) > positions[:, :, None]
        mask = torch.zeros(hidden.shape, dtype=self.embedding.dtype, device=positions.device)
        mask.masked_fill_(hidden, float("-inf"))
        return mask.repeat(1, self.shape.heads // self.shape.kv_heads, 1)[:, None]


def gated(gate_up: Tensor) -> Tensor:
    """The gated activation of both halves of ``gate_up``."""
    gate, up = gate_up.chunk(2, dim=-1)
    return silu(gate) * up


def _rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding over the two halves of each head."""
    first, second = x.chunk(2, dim=-1)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
