"""Drafts that no model makes: n-gram lookup in what was written so far, and a previous output used again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from specsim.errors import InputError


@dataclass(frozen=True)
class PromptLookup:
    """Propose what followed the last occurrence of the text's longest matching suffix.

    Suffix lengths from ``longest`` down to ``shortest`` are tried; of several matches the most recent is taken (vLLM
    takes the earliest of the longest; Saxena's prompt lookup the first: a choice, stated). Proposes up to ``k`` tokens
    and nothing without a match.
    """

    k: int
    longest: int = 3
    shortest: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.shortest <= self.longest or self.k < 1:
            raise InputError(
                f"k {self.k}, n-grams {self.shortest}..{self.longest}; give k >= 1 and 1 <= shortest <= longest",
                field="k, longest, shortest",
            )

    def propose(self, text: Sequence[int]) -> tuple[int, ...]:
        """Up to k tokens to draft after ``text`` (prompt and output so far)."""
        n = len(text)
        for size in range(min(self.longest, n - 1), self.shortest - 1, -1):
            suffix = tuple(text[n - size :])
            for start in range(n - size - 1, -1, -1):
                if tuple(text[start : start + size]) == suffix:
                    return tuple(text[start + size : start + size + self.k])
        return ()


@dataclass(frozen=True)
class PreviousOutput:
    """Propose the whole of an earlier output from where the new one stands (SSBD's drafts, arXiv 2509.21740)."""

    output: tuple[int, ...]

    def propose(self, written: Sequence[int]) -> tuple[int, ...]:
        """The rest of the previous output if the new one agrees with it so far, else nothing."""
        n = len(written)
        return self.output[n:] if tuple(written) == self.output[:n] else ()
