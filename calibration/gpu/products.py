"""Matrix products of whole models' shapes at the token counts where tiles step, element-wise work, and sampling."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, silu

from calibration.gpu.session import Session
from calibration.gpu.timing import Call
from calibration.live.rule import Coins, reject, sample
from specsim.cost.model_shape import ModelShape


def measure_products(
    session: Session, models: Sequence[tuple[ModelShape, int]], rows: Sequence[int], until_s: float
) -> None:
    """Rows of table ``gemm`` for every distinct product of ``models`` (shape, tensor-parallel ranks)."""
    dtype, device = _dtype(session), session.device
    done: set[tuple[int, int]] = set()
    for model, ranks in models:
        for item in model.forward(tensor_parallel=ranks).linears:
            if (item.n, item.k) in done:
                continue
            done.add((item.n, item.k))
            copies = session.timer.copies(item.n * item.k * dtype.itemsize)

            where = {"model": model.name, "tensor_parallel": ranks, "product": item.name}

            def measure(
                n: int = item.n, k: int = item.k, copies: int = copies, where: dict[str, object] = where
            ) -> None:
                weights = torch.randn(copies, n, k, dtype=dtype, device=device) * k**-0.5
                for m in rows:
                    if session.elapsed_s > until_s:
                        session.note(f"products: out of time in {where['model']} {where['product']}")
                        return
                    x = torch.randn(m, k, dtype=dtype, device=device)

                    def call(index: int, x: Tensor = x) -> Tensor:
                        return linear(x, weights[index])

                    timing = session.timer.time(call, copies=copies)
                    session.add("gemm", **where, m=m, n=n, k=k, dtype=str(dtype)[6:], copies=copies, **timing.row())

            session.attempt(f"product {item.n} x {item.k}", measure)
            if session.elapsed_s > until_s:
                return


def measure_small(session: Session, model: ModelShape, rows: Sequence[int], until_s: float) -> None:
    """Rows of table ``small``: norm, activation, rotary-sized traffic, residual add at each number of tokens."""
    dtype, device = _dtype(session), session.device
    weight = torch.ones(model.hidden, dtype=dtype, device=device)
    for m in rows:
        if session.elapsed_s > until_s:
            return
        x, y = torch.randn(2, m, model.hidden, dtype=dtype, device=device)
        gates = torch.randn(m, 2 * model.intermediate, dtype=dtype, device=device)

        def gated(_: int, gates: Tensor = gates) -> Tensor:
            gate, up = gates.chunk(2, dim=-1)
            return silu(gate) * up

        kinds: dict[str, Call] = {
            "rms_norm": lambda _, x=x: rms_norm(x, (model.hidden,), weight),
            "residual": lambda _, x=x, y=y: x + y,
            "gated": gated,
        }
        for name, call in kinds.items():
            for mode in ("graph", "eager") if session.timer.cuda else ("eager",):
                timing = session.timer.time(call, mode=mode)  # type: ignore[arg-type]
                session.add("small", model=model.name, kind=name, rows=m, **timing.row())


def measure_sampling(
    session: Session, vocab: int, batches: Sequence[int], drafted: Sequence[int], until_s: float
) -> None:
    """Rows of table ``small``: softmax, drawing and a rejection step, as the live engine executes them (eagerly)."""
    device = session.device
    coins = Coins.of(np.random.default_rng(0), device)
    for batch in batches:
        for k in drafted:
            if session.elapsed_s > until_s:
                return

            def measure(batch: int = batch, k: int = k) -> None:
                logits = torch.randn(batch, k + 1, vocab, device=device)
                laws = logits.softmax(dim=-1)
                tokens = torch.randint(0, vocab, (batch, k), device=device)
                kinds: dict[str, Call] = {
                    "softmax": lambda _: logits.softmax(dim=-1),
                    "sample": lambda _: sample(laws[:, 0], coins.device).float(),
                }
                if k:
                    kinds["reject"] = lambda _: reject(laws, laws[:, :k], tokens, coins)[1].float()
                for name, call in kinds.items():
                    timing = session.timer.time(call, mode="eager")
                    session.add("small", kind=name, rows=batch, drafted=k, vocab=vocab, **timing.row())

            session.attempt(f"sampling {batch} x {k}", measure)


def _dtype(session: Session) -> torch.dtype:
    return torch.bfloat16 if session.timer.cuda else torch.float32
