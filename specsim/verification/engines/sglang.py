"""SGLang's rejection kernel for chains as a sampler: its Triton source, from its published wheel, run as Python."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from specsim.verification.batched import Emitted, Floats, Ints, leading
from specsim.verification.engines.interpreter import Interpreted, interpreted_triton
from specsim.verification.engines.published import Published, published, required, without_draft_rows
from specsim.verification.guarded import as_array

TESTED = "0.5.23"
KERNEL = "sglang/kernels/ops/speculative/reject_sampling.py"

_FUNCTION = "chain_speculative_sampling_triton"


@dataclass(frozen=True)
class SGLangChain:
    """SGLang's ``chain_speculative_sampling_triton``, token by token or, with ``block``, by block verification.

    ``verify(block, target, draft, drafts, uniforms, final) -> (tokens, counts)`` runs the kernel, which takes its
    random numbers as arguments: the law is found exactly. Probabilities and random numbers go in as float32, as the
    server's do. The interpreter takes about 15 ms a row.
    """

    verify: Callable[..., Emitted]
    block: bool = False

    @classmethod
    def published(cls, path: Path | str | None = None, *, block: bool = False) -> SGLangChain:
        """From the directory that a wheel was unpacked into, or from the installed package if ``path`` is None.

        Only the kernel's file is loaded, in a process of its own; it needs torch and triton, nothing else of SGLang.
        Raises InputError.
        """
        package = cls.package(path)
        package.file(KERNEL)
        return cls(Interpreted(f"{__name__}:_chain", str(package.root)), block)

    @staticmethod
    def package(path: Path | str | None = None) -> Published:
        """The files that ``published`` loads from, with their version. Raises InputError."""
        return published("sglang", path, TESTED)

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Run the kernel on float32 random numbers from ``rng``."""
        rows, drafts = draft_tokens.shape
        uniforms, final = (rng.random(shape, dtype=np.float32) for shape in ((rows, drafts), rows))
        return self.inject(target_probs, draft_probs, draft_tokens, uniforms.astype(float), final.astype(float))

    def inject(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        """Run the kernel on the caller's random numbers."""
        if draft_probs is None:
            raise without_draft_rows("SGLang's chain kernel")
        tokens, counts = (
            np.full(target_probs.shape[:2], -1, dtype=np.int64),
            np.zeros(len(draft_tokens), dtype=np.int64),
        )
        lengths = leading(draft_tokens >= 0)
        for g in np.unique(lengths):  # the kernel's rows are of one length
            rows = np.flatnonzero(lengths == g)
            parts = (target_probs[rows, : g + 1], draft_probs[rows, :g], draft_tokens[rows, :g], uniforms[rows, :g])
            tokens[rows, : g + 1], counts[rows] = self.verify(self.block, *parts, final[rows])
        return tokens, counts


def _chain(root: str) -> Callable[..., Emitted]:
    """The kernel as a function of arrays."""
    torch = required("torch", "pip install torch")
    interpreted_triton()
    kernel = getattr(SGLangChain.package(root).module(KERNEL, needs=_FUNCTION), _FUNCTION)

    def verify(block: bool, p: Floats, q: Floats, drafts: Ints, uniforms: Floats, final: Floats) -> Emitted:  # noqa: FBT001
        rows, width, _ = p.shape
        slots = torch.arange(rows * width, dtype=torch.int32).reshape(rows, width)
        predicts, accepted = torch.full((rows * width,), -1, dtype=torch.int32), torch.full_like(slots, -1)
        count = torch.zeros(rows, dtype=torch.int32)
        candidates = torch.from_numpy(np.pad(drafts, ((0, 0), (1, 0))))  # slot 0 is the last verified token
        float32 = [torch.from_numpy(array).float() for array in (uniforms, final, p, q)]
        kernel(
            predicts,
            accepted,
            count,
            candidates,
            slots,
            None,  # the links of a tree, which a chain has not
            None,
            *float32,
            threshold_single=1.0,
            threshold_acc=1.0,
            deterministic=True,
            block_verification=block,
        )
        counts = as_array(count).astype(np.int64) + 1
        tokens = as_array(predicts).astype(np.int64).reshape(rows, width)
        return np.where(np.arange(width) < counts[:, None], tokens, -1), counts

    return verify
