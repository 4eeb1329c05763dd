"""Points as kernels with buffers, the way an engine runs them: through PyTorch's own products and attention."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from calibration.live.micro import Idle
from calibration.measure.device import Device
from calibration.measure.points import ROUNDS, Point
from calibration.measure.timers import Prepared

MOST_COPIES = 64
SPAN_MULTIPLE = 16
"""Attended spans are rounded up to this (masked kernels want rows of the mask aligned), as the live engine does."""


@dataclass
class Workshop:
    """Makes kernels for one device and element type.

    rotate_bytes: inputs that rotate amount to this much, so that no kernel finds them in a cache: twice the largest
    cache, but no more than the model's own weights (a small model does stay in a cache between its layers).
    """

    device: Device
    dtype: torch.dtype
    rotate_bytes: float
    seed: int = 0
    _noise: Tensor | None = field(default=None, repr=False)

    def prepare(self, point: Point) -> dict[str, Prepared]:
        """The kernels of a point by variant (a backend, mostly); an engine is taken to use the fastest."""
        return {
            "gemm": self._gemm,
            "attention": self._attention,
            "prefill": self._prefill,
            "around_layer": self._around_layer,
            "around_pass": self._around_pass,
            "host": self._round,
            "drawing": self._round,
            "softmax": self._softmax,
            "stack": self._stack,
        }[point.kind](point)

    def _on(self) -> torch.device:
        return torch.device(self.device.kind)

    def _random(self, *size: int) -> Tensor:
        """Normal numbers of unit variance over the last axis, cheaply: a block of noise repeated."""
        if self._noise is None:
            generator = torch.Generator(device=self._on()).manual_seed(self.seed)
            self._noise = torch.empty((1 << 16) + 37, dtype=self.dtype, device=self._on()).normal_(generator=generator)
        count = 1
        for length in size:
            count *= length
        out = self._noise.repeat(-(-count // self._noise.numel()))[:count]
        return out.view(size) * size[-1] ** -0.5

    def _copies(self, one: float) -> int:
        return int(min(MOST_COPIES, max(1.0, -(-self.rotate_bytes // one))))

    def _gemm(self, point: Point) -> dict[str, Prepared]:
        m, n, k = point["m"], point["n"], point["k"]
        copies = self._copies(float(n * k * self.dtype.itemsize))
        weights, x = [self._random(n, k) for _ in range(copies)], self._random(m, k)
        if (
            self.device.kind == "cpu"
        ):  # the call that models make: it chooses other kernels than a product into a buffer
            return {"linear": Prepared(lambda i: linear(x, weights[i]), copies)}
        out = torch.empty(m, n, dtype=self.dtype, device=self._on())
        return {"linear": Prepared(lambda i: torch.mm(x, weights[i].t(), out=out), copies, out)}

    def _attention(self, point: Point) -> dict[str, Prepared]:
        b, q, d = point["batch"], point["queries"], point["head_dim"]
        h, kv, length = point["heads"], point["kv_heads"], point["cached"] + point["queries"]
        group, span = h // kv, -(-length // SPAN_MULTIPLE) * SPAN_MULTIPLE
        copies = self._copies(2.0 * b * span * kv * d * self.dtype.itemsize)
        caches = [(self._random(b, kv, span, d), self._random(b, kv, span, d)) for _ in range(copies)]
        packed = self._random(b, kv, group * q, d)
        hidden = torch.arange(span, device=self._on()) > torch.arange(length - q, length, device=self._on())[:, None]
        mask = torch.zeros(q, span, dtype=self.dtype, device=self._on()).masked_fill_(hidden, float("-inf"))
        mask = mask.repeat(group, 1).expand(b, kv, -1, -1)

        def grouped(i: int) -> Tensor:
            # Heads that share a cache head are query rows of it, so that the cache is read once a group.
            return scaled_dot_product_attention(packed, *caches[i], attn_mask=mask)

        out = {"masked": Prepared(grouped, copies)}
        if self.device.kind == "cuda":
            out |= self._flash(self._random(b, h, q, d), caches, length, copies)
        return out

    def _flash(
        self, query: Tensor, caches: list[tuple[Tensor, Tensor]], length: int, copies: int
    ) -> dict[str, Prepared]:
        from torch.nn.attention import SDPBackend, sdpa_kernel
        from torch.nn.attention.bias import causal_lower_right

        exact = [(k[:, :, :length], v[:, :, :length]) for k, v in caches]
        bias = causal_lower_right(query.shape[2], length) if query.shape[2] > 1 else None

        def through(backend: Any) -> Prepared:
            def run(i: int) -> Tensor:
                with sdpa_kernel(backend):
                    return scaled_dot_product_attention(query, *exact[i], attn_mask=bias, enable_gqa=True)

            return Prepared(run, copies)

        found = {"flash": SDPBackend.FLASH_ATTENTION, "cudnn": SDPBackend.CUDNN_ATTENTION}
        return {name: kernel for name, b in found.items() if _runs(kernel := through(b))}

    def _prefill(self, point: Point) -> dict[str, Prepared]:
        b, n, d, h, kv = (point[x] for x in ("batch", "tokens", "head_dim", "heads", "kv_heads"))
        copies = self._copies(float(b * n * (h + 2 * kv) * d * self.dtype.itemsize))
        sets = [[self._random(b, x, n, d) for x in (h, kv, kv)] for _ in range(copies)]
        gqa = h != kv

        def run(i: int) -> Tensor:
            return scaled_dot_product_attention(*sets[i], is_causal=True, enable_gqa=gqa)

        return {"causal": Prepared(run, copies)}

    def _around_layer(self, point: Point) -> dict[str, Prepared]:
        """Everything of a layer that isn't a product or attention: norms, rotary, cache write, activation, residual."""
        rows, width, wide = point["rows"], point["hidden"], point["intermediate"]
        h, kv, d = point["heads"], point["kv_heads"], point["head_dim"]
        x, weight = self._random(rows, 1, width), self._random(width)
        packed, gate_up = self._random(rows, 1, (h + 2 * kv) * d), self._random(rows, 1, 2 * wide)
        mixed = self._random(rows, kv, h // kv, d)
        keys, values = self._random(rows, kv, 64, d), self._random(rows, kv, 64, d)
        cosine, sine = self._random(rows, 1, 1, d // 2), self._random(rows, 1, 1, d // 2)
        sequence = torch.arange(rows, device=self._on())[:, None]
        position = torch.zeros(rows, 1, dtype=torch.long, device=self._on())

        def rotate(y: Tensor) -> Tensor:
            first, second = y.chunk(2, dim=-1)
            return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)

        def run(_: int) -> Tensor:
            y = rms_norm(x, (width,), weight)
            query, key, value = packed.view(rows, 1, h + 2 * kv, d).split([h, kv, kv], dim=2)
            query, key = rotate(query), rotate(key)
            keys.transpose(1, 2)[sequence, position] = key
            values.transpose(1, 2)[sequence, position] = value
            query = query.view(rows, 1, kv, h // kv, d).permute(0, 2, 3, 1, 4).reshape(rows, kv, -1, d)
            back = mixed.view(rows, kv, h // kv, 1, d).permute(0, 3, 1, 2, 4).reshape(rows, 1, h * d)
            y = x + y
            y = rms_norm(y, (width,), weight)
            gate, up = gate_up.chunk(2, dim=-1)
            act = silu(gate) * up
            return x + y + act[..., :1] + back[..., :1] + query[:, :1, :1, :1].reshape(rows, 1, 1)

        return {"eager": Prepared(run)}

    def _around_pass(self, point: Point) -> dict[str, Prepared]:
        """Around the layers of a pass: embedding, positions, mask, last norm. A decoder without layers."""
        from calibration.live.decoder import Decoder
        from specsim.cost.model_shape import ModelShape

        shape = ModelShape("none", 0, point["hidden"], 1, 1, 64, 64, 64)
        decoder = Decoder.random(
            shape, generator=torch.Generator(device=self._on()).manual_seed(0), dtype=self.dtype, max_positions=2048
        )
        b, q = point["batch"], point["queries"]
        decoder.allocate(b, 1024)
        tokens = torch.zeros(b, q, dtype=torch.long, device=self._on())
        start = torch.full((b,), 512, device=self._on())
        return {"eager": Prepared(lambda _: decoder.forward(tokens, start, span=512 + q), eager=True)}

    def _round(self, point: Point) -> dict[str, Prepared]:
        """One phase of the live engine's rounds whose models do nothing: bookkeeping, or drawing and rejecting."""
        from calibration.live.engine import decode

        scratch = min(self.device.cache_bytes, 16 << 20) if self.device.kind == "cpu" else 4
        target, draft = (Idle(point["vocab"], scratch, self._on()) for _ in range(2))
        prompts, rng, rounds = np.ones((point["batch"], 32), dtype=np.int64), np.random.default_rng(0), ROUNDS + 1
        phase = {"host": "host", "drawing": "sampling"}[point.kind]

        def run(_: int) -> float:
            phases = decode(target, draft, prompts, k=point["k"], rounds=rounds, rng=rng).phases_s
            return float(np.median(phases[phase][1:]))

        return {"round": Prepared(run, eager=True, reports=True)}

    def _softmax(self, point: Point) -> dict[str, Prepared]:
        logits = self._random(point["rows"], point["vocab"])
        return {"softmax": Prepared(lambda _: logits.float().softmax(dim=-1))}

    def _stack(self, point: Point) -> dict[str, Prepared]:
        """Two layers' products and what lies around them, captured or eager: what a graph saves."""
        rows, width, wide = point["rows"], point["hidden"], point["intermediate"]
        heads = (point["heads"] + 2 * point["kv_heads"]) * point["head_dim"]
        own = point["heads"] * point["head_dim"]
        if self.device.kind == "cpu" and point["graph"]:
            return {}
        layers = [
            [self._random(*size) for size in ((heads, width), (width, own), (2 * wide, width), (width, wide))]
            for _ in range(point["layers"])
        ]
        x, norm = self._random(rows, width), self._random(width)

        def run(_: int) -> Tensor:
            y = x
            for qkv, output, gate_up, down in layers:
                y = y + linear(linear(rms_norm(y, (width,), norm), qkv)[:, :own], output)
                gate, up = linear(rms_norm(y, (width,), norm), gate_up).chunk(2, dim=-1)
                y = y + linear(silu(gate) * up, down)
            return y

        return {"graph" if point["graph"] else "eager": Prepared(run, eager=not point["graph"])}


def _runs(kernel: Prepared) -> bool:
    try:
        kernel.run(0)
    except (RuntimeError, ValueError, TypeError):
        return False  # this build or GPU lacks the backend for these shapes
    return True
