"""Samplers that are right row by row and take part of another row's inputs."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from specsim.verification import chains
from specsim.verification.batched import Emitted, Floats, Ints
from specsim.verification.chains import ChainRule, Rows, Stop
from specsim.verification.coins import Coins
from specsim.verification.lookup import RuleSampler


@dataclass(frozen=True)
class BatchMutant:
    """A sampler that is right row by row and takes part of another row's inputs: ``wrong`` says which."""

    name: str
    wrong: str
    seen: str
    mixes: str

    def __call__(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, rng: np.random.Generator
    ) -> Emitted:
        """Verify a batch with one input taken from the row before."""
        return _TOKEN(*self._mixed(target_probs, draft_probs), draft_tokens, rng)

    def inject(
        self, target_probs: Floats, draft_probs: Floats | None, draft_tokens: Ints, uniforms: Floats, final: Floats
    ) -> Emitted:
        """The same with the caller's coins."""
        if self.mixes == "coins":
            return _TOKEN.inject(
                target_probs, draft_probs, draft_tokens, np.tile(uniforms[:1], (len(uniforms), 1)), final
            )
        return _TOKEN.inject(*self._mixed(target_probs, draft_probs), draft_tokens, uniforms, final)

    def _mixed(self, target: Floats, draft: Floats | None) -> tuple[Floats, Floats | None]:
        if self.mixes == "target":
            return np.roll(target, 1, axis=0), draft
        if self.mixes == "draft" and draft is not None:
            return target, np.roll(draft, 1, axis=0)
        if self.mixes == "first":
            return np.repeat(target[:1], len(target), axis=0), draft
        return target, draft

    def rule(self, p: Rows, q: Rows, other_p: Rows, other_q: Rows) -> ChainRule:
        """The rule that a row goes through when (other_p, other_q) is the row it is mixed with."""
        del p, q

        def mixed(p: Rows, q: Rows | None, d: tuple[int, ...], coins: Coins) -> Stop:
            return chains.token(
                p if self.mixes == "draft" else other_p, other_q if self.mixes == "draft" else q, d, coins
            )

        return mixed


_TOKEN = RuleSampler(chains.token, "token")

BATCH_MUTANTS = (
    BatchMutant("another row's target", "p is the previous row's", "vllm PR 10863", "target"),
    BatchMutant("another row's draft law", "q is the previous row's", "TensorRT-LLM PR 12588", "draft"),
    BatchMutant("first row's target", "p is the first row's for the whole batch", "", "first"),
)
"""Wrong batch handling around a right rule."""
