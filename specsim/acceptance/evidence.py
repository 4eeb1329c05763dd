"""Acceptance evidence: measured figures with their source, and the process they make."""

from __future__ import annotations

from dataclasses import dataclass

from specsim.acceptance.chains import ByDraftLength, LengthOnly, MeasuredLength, PerPosition, Sample
from specsim.acceptance.process import AcceptanceProcess
from specsim.errors import InputError


@dataclass(frozen=True)
class AcceptanceEvidence:
    """What was measured of one drafter on one kind of text, and where that comes from.

    rows: conditional rates by draft length, K rising. length: instead of rows, an acceptance length (bonus included)
    with the K it belongs to and what it was counted on.
    """

    source: str
    rows: tuple[MeasuredLength, ...] = ()
    length: tuple[float, int, Sample | None] | None = None
    method: str | None = None
    dataset: str | None = None
    engine: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if bool(self.rows) == (self.length is not None):
            raise InputError("give rows of rates by position, or one acceptance length, and not both", field="evidence")

    @property
    def label(self) -> str:
        """Drafter and text, for a report's line."""
        return ", ".join(part for part in (self.method, self.dataset) if part)

    def process(self) -> AcceptanceProcess:
        """The process that the evidence makes: by draft length, by position, or inferred from a length."""
        if self.length is not None:
            return LengthOnly(*self.length)
        if len(self.rows) == 1:
            return PerPosition(self.rows[0].conditional, self.rows[0].sample)
        return ByDraftLength(self.rows, self.label)
