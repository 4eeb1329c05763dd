"""transformers' verifier as a sampler: one row at a time, from logits, on torch's global random numbers."""

from __future__ import annotations

import importlib.metadata
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np

from specsim.errors import InputError
from specsim.verification.batched import Emitted, Floats, Ints, leading
from specsim.verification.engines.published import required, without_draft_rows
from specsim.verification.guarded import as_array

TESTED = "5.23.0"

_TAKES = ("candidate_input_ids", "candidate_logits", "candidate_length", "new_logits")


@dataclass(frozen=True)
class HuggingFace:
    """transformers' ``_speculative_sampling(candidate_input_ids, candidate_logits, candidate_length, new_logits)``.

    ``function`` takes ids [1, G], float32 logits [1, G, V], G and float32 logits [1, G+1, V], and returns the emitted
    tokens [1, n+1] with the number of matches. Probabilities go in as their logarithms, the draft's plus
    ``draft_offset``, which changes no law. ``inject`` replaces ``torch.rand_like`` and ``torch.multinomial`` while it
    runs, so the law is found exactly.
    """

    function: Callable[..., Any]
    draft_offset: float = 0.0

    @classmethod
    def installed(cls, *, draft_offset: float = 0.0) -> HuggingFace:
        """That of the installed transformers. Raises InputError if it is absent or takes other arguments."""
        utils = required("transformers.generation.utils", f"pip install transformers=={TESTED}")
        function = getattr(utils, "_speculative_sampling", None)
        if function is None:
            raise _other_version("has no _speculative_sampling")
        parameters = list(inspect.signature(function).parameters.values())
        needed = tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)
        if needed != _TAKES:
            raise _other_version(f"_speculative_sampling takes {', '.join(needed)}")
        return cls(function, draft_offset)

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Run row by row, torch's global generator seeded from ``rng``."""
        import torch

        torch.manual_seed(int(rng.integers(2**62)))
        return self._rows(target_probs, draft_probs, draft_tokens, lambda _: nullcontext())

    def inject(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        """Run row by row with the caller's coins."""
        return self._rows(
            target_probs, draft_probs, draft_tokens, lambda row: _torch_coins(uniforms[row], float(final[row]))
        )

    def _rows(self, p: Floats, q: Floats | None, drafts: Ints, coins: Callable[[int], Any]) -> Emitted:
        import torch

        if q is None:
            raise without_draft_rows("transformers")
        tokens, counts = np.full(p.shape[:2], -1, dtype=np.int64), np.zeros(len(p), dtype=np.int64)
        with np.errstate(divide="ignore"):
            target = torch.from_numpy(np.log(p)).float()
            draft = torch.from_numpy(np.log(q)).float() + self.draft_offset
        ids = torch.from_numpy(drafts)
        for row, length in enumerate(leading(drafts >= 0).tolist()):
            one = slice(row, row + 1)
            with coins(row):
                valid, _ = self.function(ids[one, :length], draft[one, :length], length, target[one, : length + 1])
            emitted = as_array(valid)[0]
            tokens[row, : len(emitted)], counts[row] = emitted, len(emitted)
        return tokens, counts


def _other_version(found: str) -> InputError:
    try:
        version = importlib.metadata.version("transformers")
    except importlib.metadata.PackageNotFoundError:
        version = "of an unknown version"
    return InputError(
        f"{version}: {found}; the adapter calls it with {', '.join(_TAKES)}: install {TESTED}", field="transformers"
    )


@contextmanager
def _torch_coins(uniforms: Floats, final: float) -> Iterator[None]:
    """Let torch's ``rand_like`` give ``uniforms``, its ``multinomial`` invert the cumulative weights at ``final``.

    Weights that can't be drawn from go to torch's own ``multinomial``, for the error that its callers get.
    """
    import torch

    kept = torch.rand_like, torch.multinomial

    def rand_like(like: Any, **_: Any) -> Any:
        return torch.as_tensor(uniforms[: like.numel()], dtype=like.dtype).reshape(like.shape)

    def multinomial(weights: Any, *more: Any, **options: Any) -> Any:
        if not bool(torch.isfinite(weights).all()) or not float(weights.sum()) > 0:
            return kept[1](weights, *more, **options)
        reached = torch.cumsum(weights, dim=-1)
        found = torch.searchsorted(reached, final * reached[..., -1:], right=True)
        return found.clamp(max=weights.shape[-1] - 1)

    torch.rand_like, torch.multinomial = rand_like, multinomial  # type: ignore[assignment]
    try:
        yield
    finally:
        torch.rand_like, torch.multinomial = kept
