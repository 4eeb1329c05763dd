"""Points as kernels with buffers, the way an engine runs them: through PyTorch's own products and attention."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention

from calibration.live.decoder import SPAN_MULTIPLE, Decoder, Place, gated
from calibration.live.engine import decode
from calibration.live.micro import Idle
from calibration.live.stopwatch import Laps
from calibration.measure import attention
from calibration.measure.company import Company, read_bytes
from calibration.measure.device import Device
from calibration.measure.points import ROUNDS, Point
from calibration.measure.timers import Prepared
from specsim.cost.law import BYTES
from specsim.cost.model_shape import ModelShape

MOST_COPIES = 64
MOST_ROWS_BESIDE = 16
"""Rows of a product between two kernels; more would only take longer."""


@dataclass
class Workshop:
    """Makes kernels for one device and element type.

    company: what a pass of a point's model reads around its kernel. flex_s: seconds that may be spent on compiling
    FlexAttention, on CUDA; without any it is no variant. idle_bytes: memory that rounds without models read in place of
    a target's and a drafter's pass.
    """

    device: Device
    dtype: torch.dtype
    company: Callable[[Point], Company]
    flex_s: float = 0.0
    idle_bytes: tuple[int, int] | None = None
    seed: int = 0
    _block: Tensor | None = field(default=None, repr=False)
    _arena: Tensor | None = field(default=None, repr=False)
    _pool: Tensor | None = field(default=None, repr=False)
    _read: int = 0

    def prepare(self, point: Point) -> dict[str, Prepared]:
        """The kernels of a point by variant (a backend, mostly); an engine is taken to use the fastest."""
        made = {
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
        if self._pool is not None:
            self._pool.sum()  # whatever was used last is in a processor's cache, where no pass would find it
        return made

    def release(self) -> None:
        """Give back the memory that inputs rotate over, which is as large as the largest point's."""
        self._arena = None

    def _on(self) -> torch.device:
        return torch.device(self.device.kind)

    def _random(self, *size: int) -> Tensor:
        """Normal numbers of unit variance over the last axis, cheaply: a block of noise repeated."""
        return self._noise(math.prod(size)).view(size) * size[-1] ** -0.5

    def _noise(self, count: int) -> Tensor:
        if self._block is None:
            generator = torch.Generator(device=self._on()).manual_seed(self.seed)
            self._block = torch.empty((1 << 16) + 37, dtype=self.dtype, device=self._on()).normal_(generator=generator)
        return self._block.repeat(-(-count // self._block.numel()))[:count]

    def _rotating(self, copies: int, *size: int) -> list[Tensor]:
        """That many tensors of normal numbers, views of one memory that is filled once for all points."""
        count = math.prod(size)
        if self._arena is None or self._arena.numel() < copies * count:
            self._arena = None  # give the old one back before taking the new one
            self._arena = self._noise(copies * count)
        return [self._arena[i * count : (i + 1) * count].view(size) for i in range(copies)]

    def _copies(self, point: Point, one: float, *, layers: float = 0.0) -> int:
        """How many inputs of ``one`` bytes rotate: as much as a pass reads, with a cache of that size in its layers."""
        company = self.company(point)
        reads = min(company.most_bytes, company.pass_bytes + layers * one)
        return int(min(MOST_COPIES, max(1.0, -(-reads // one))))

    def _beside(self, point: Point, rows: int) -> Callable[[], object] | None:
        """A product of ``rows`` as large as those of the point's model, its weights the next of what its pass reads."""
        if self.device.kind != "cpu":
            return None
        company, width = self.company(point), 128
        total, each = (max(width, int(size) // 4) for size in (company.pass_bytes, company.product_bytes))
        if self._pool is None or self._pool.numel() < total:
            self._pool = torch.full((total,), 1e-3)
        pool, each = self._pool, each // width * width
        x = torch.full((1, min(rows, MOST_ROWS_BESIDE), width), 1e-3)

        def read() -> Tensor:
            at = self._read % max(1, total - each)
            self._read = at + each
            return linear(x, pool[at : at + each].view(-1, width))

        return read

    def _gemm(self, point: Point) -> dict[str, Prepared]:
        m, n, k = point["m"], point["n"], point["k"]
        copies = self._copies(point, float(n * k * self.dtype.itemsize))
        weights, x = self._rotating(copies, n, k), self._random(1, m, k)
        # The call that models make.
        return {"linear": Prepared(lambda i: linear(x, weights[i]), copies, beside=self._beside(point, 1))}

    def _attention(self, point: Point) -> dict[str, Prepared]:
        b, q, d = point["batch"], point["queries"], point["head_dim"]
        h, kv, length = point["heads"], point["kv_heads"], point["cached"] + point["queries"]
        span = -(-length // SPAN_MULTIPLE) * SPAN_MULTIPLE
        one = 2.0 * b * span * kv * d * self.dtype.itemsize
        copies = self._copies(point, one, layers=self.company(point).layers)
        caches = [(both[0], both[1]) for both in self._rotating(copies, 2, b, kv, span, d)]
        query = self._random(b, h, q, d)
        masked = attention.masked(query, caches, length)
        if self.device.kind == "cpu":
            return {"masked": Prepared(masked(None), copies, beside=self._beside(point, b * q), default=True)}
        own = attention.chosen(query, caches, length)
        found = {
            name: Prepared(masked(backend), copies, default=name == own) for name, backend in attention.MASKED.items()
        }
        found["flash"] = Prepared(attention.flash(query, caches, length), copies)
        found = {name: kernel for name, kernel in found.items() if attention.runs(kernel.run)}
        if self.flex_s > 0.0:
            begin = time.monotonic()
            flex = Prepared(attention.flex(query, caches, length), copies)
            found |= {"flex": flex} if attention.runs(flex.run) else {}
            self.flex_s -= time.monotonic() - begin
        return found or {"masked": Prepared(masked(None), copies, default=True)}

    def _prefill(self, point: Point) -> dict[str, Prepared]:
        b, n, d, h, kv = (point[x] for x in ("batch", "tokens", "head_dim", "heads", "kv_heads"))
        copies = self._copies(point, float(b * n * (h + 2 * kv) * d * self.dtype.itemsize))
        sets = [both.split([h, kv, kv], dim=1) for both in self._rotating(copies, b, h + 2 * kv, n, d)]
        gqa = h != kv

        def run(i: int) -> Tensor:
            return scaled_dot_product_attention(*sets[i], is_causal=True, enable_gqa=gqa)

        return {"causal": Prepared(run, copies)}

    def _around_layer(self, point: Point) -> dict[str, Prepared]:
        """All of the engine's layer that isn't a product or attention: norms, rotary, cache write, activation, sums.

        On a CPU it is timed inside layers as they are, products and attention between: what lies around them runs from
        cold caches, which in a loop of its own it would not.
        """
        b, q, width = point["batch"], point["queries"], point["hidden"]
        h, kv, d = point["heads"], point["kv_heads"], point["head_dim"]
        shape = ModelShape("one", 1, width, h, kv, d, 1, point["intermediate"], qk_norm=bool(point["qk_norm"]))
        cpu = self.device.kind == "cpu"
        bytes_ = read_bytes(shape.forward(dtype="fp32", kv_dtype="fp32")) * self.dtype.itemsize / BYTES["fp32"]
        layers = self._copies(point, bytes_) if cpu else 1
        decoder = self._decoder(replace(shape, layers=layers), b, 64 + q)
        assert decoder.cache is not None
        positions = torch.arange(64, 64 + q, device=self._on()).expand(b, q)
        place = Place(
            torch.arange(b, device=self._on())[:, None],
            positions,
            decoder.cosine[positions][:, :, None],
            decoder.sine[positions][:, :, None],
        )
        x, (layer, *_), (keys, values) = self._random(b, q, width), decoder.layers, decoder.cache[0]
        packed, product = self._random(b, q, (h + 2 * kv) * d), self._random(b, q, width)
        gate_up, mixed = self._random(b, q, 2 * point["intermediate"]), self._random(b, kv, h // kv * q, d)

        def run(_: int) -> tuple[Tensor, ...]:
            query, rows = decoder.enter(layer, packed, keys, values, place), decoder.leave(mixed, q)
            normed = rms_norm(x, (width,), layer.attention_norm)
            y = x + product
            again, active = rms_norm(y, (width,), layer.mlp_norm), gated(gate_up)
            return y + product, normed, query, rows, again, active

        def inside(_: int) -> tuple[float, float]:
            watch, y = Laps(), x
            for index, own in enumerate(decoder.layers):
                y = decoder.layer(own, y, decoder.cache[index], place, None, 64 + q, watch)
            return watch.wall_s / layers, watch.busy_s / layers

        return {"eager": Prepared(inside, reports=True) if cpu else Prepared(run)}

    def _around_pass(self, point: Point) -> dict[str, Prepared]:
        """Around the layers of the engine's pass: embedding, positions, mask, last norm."""
        b, q, width = point["batch"], point["queries"], point["hidden"]
        span = point["cached"] + q
        decoder = self._decoder(ModelShape("none", 0, width, point["group"], 1, 64, 64, 64), b, span)
        tokens = torch.zeros(b, q, dtype=torch.long, device=self._on())
        start = torch.full((b,), point["cached"], device=self._on())

        def run(_: int) -> Tensor:
            x = decoder.hidden(tokens, start, span=span)
            return rms_norm(x, (width,), decoder.norm)

        return {"eager": Prepared(run, eager=True, beside=self._beside(point, b * q))}

    def _decoder(self, shape: ModelShape, batch: int, capacity: int) -> Decoder:
        wanted: list[tuple[int, int]] = []
        how: dict[str, Any] = {"dtype": self.dtype, "device": self._on(), "max_positions": capacity + SPAN_MULTIPLE}

        def asked(rows: int, columns: int) -> Tensor:
            wanted.append((rows, columns))
            return torch.empty(0, dtype=self.dtype, device=self._on())

        Decoder.of(shape, asked, **how)
        (memory,) = self._rotating(1, sum(rows * columns for rows, columns in wanted))
        parts = iter(memory.split([rows * columns for rows, columns in wanted]))
        decoder = Decoder.of(shape, lambda rows, columns: next(parts).view(rows, columns), **how)
        decoder.allocate(batch, capacity)
        return decoder

    def _round(self, point: Point) -> dict[str, Prepared]:
        """One phase of the live engine's rounds whose models do nothing: bookkeeping, or drawing and rejecting."""
        one = min(self.device.cache_bytes, 16 << 20) if self.device.kind == "cpu" else 4
        target, draft = (Idle(point["vocab"], size, self._on()) for size in self.idle_bytes or (one, one))
        prompts, rng, rounds = np.ones((point["batch"], 32), dtype=np.int64), np.random.default_rng(0), ROUNDS + 1
        phase = {"host": "host", "drawing": "sampling"}[point.kind]

        def run(_: int) -> float:
            phases = decode(target, draft, prompts, k=point["k"], rounds=rounds, rng=rng).phases_s
            return float(np.median(phases[phase][1:]))

        return {"round": Prepared(run, eager=True, reports=True)}

    def _softmax(self, point: Point) -> dict[str, Prepared]:
        logits = self._random(point["rows"], point["vocab"])
        return {
            "softmax": Prepared(lambda _: logits.float().softmax(dim=-1), beside=self._beside(point, point["rows"]))
        }

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
                y = y + linear(gated(linear(rms_norm(y, (width,), norm), gate_up)), down)
            return y

        return {"graph" if point["graph"] else "eager": Prepared(run, eager=not point["graph"])}
