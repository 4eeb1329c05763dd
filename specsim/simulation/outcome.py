"""What a run on servers and links leaves behind."""

from __future__ import annotations

from dataclasses import dataclass

from specsim.simulation.links import LinkUse
from specsim.simulation.result import Result
from specsim.simulation.servers import ServerUse


@dataclass(frozen=True)
class Outcome:
    """A run: one row a request, and what servers and links did. ``result`` counts batches as iterations.

    by_prefill: tokens of each request that its prefill emitted (0 where prompts were cached). recomputed: tokens that
    the recomputations of preempted requests emitted, all together.
    """

    result: Result
    servers: tuple[ServerUse, ...]
    links: tuple[LinkUse, ...]
    by_prefill: int = 1
    recomputed: int = 0

    @property
    def tokens_per_s(self) -> float:
        """Output tokens over the time from the first arrival to the last finish."""
        return float(self.result.output_tokens.sum()) / self.result.duration_s

    @property
    def tokens_per_round(self) -> float:
        """Tokens that rounds emitted (cut at the requested length) over rounds; prompts' own tokens not counted."""
        by_rounds = (self.result.output_tokens - self.by_prefill).sum() - self.recomputed
        return float(by_rounds / self.result.rounds.sum())

    @property
    def wasted_tokens(self) -> int:
        """Drafted tokens that did not survive, and those drafted ahead in vain as far as the rule says how many."""
        return int((self.result.drafted - self.result.accepted).sum())
