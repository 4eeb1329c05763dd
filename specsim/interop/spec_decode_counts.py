"""What an engine's counters say of speculation, summed over rounds, and the evidence they make."""

from __future__ import annotations

from dataclasses import dataclass

from specsim.acceptance.chains import MeasuredLength, Sample
from specsim.acceptance.conversions import conditional_from_survival
from specsim.acceptance.evidence import AcceptanceEvidence
from specsim.errors import InputError


@dataclass(frozen=True)
class SpecDecodeCounts:
    """Sums over rounds: rounds that drafted, tokens drafted, tokens accepted, and acceptances of each position.

    accepted_per_position is None where a source has totals only.
    """

    drafts: float
    draft_tokens: float
    accepted_tokens: float
    accepted_per_position: tuple[float, ...] | None

    def __add__(self, other: SpecDecodeCounts) -> SpecDecodeCounts:
        """Both sources together; positions are summed where both have them."""
        mine, its = self.accepted_per_position, other.accepted_per_position
        positions = None
        if mine is not None and its is not None:
            n = max(len(mine), len(its))
            padded = [(*p, *(0.0,) * (n - len(p))) for p in (mine, its)]
            positions = tuple(a + b for a, b in zip(*padded, strict=True))
        return SpecDecodeCounts(
            self.drafts + other.drafts,
            self.draft_tokens + other.draft_tokens,
            self.accepted_tokens + other.accepted_tokens,
            positions,
        )


def evidence_from_counts(
    counts: SpecDecodeCounts, *, source: str, file: str | None = None, method: str | None = None
) -> AcceptanceEvidence:
    """Evidence from counts: conditional rates where positions are known, else the acceptance length alone.

    Where rounds drafted fewer tokens than there are positions (adaptive drafting, ends of requests), rates by position
    are shares of all rounds and a note says so.
    """
    if counts.drafts <= 0 or counts.draft_tokens <= 0:
        raise InputError(
            "counts no drafts; send requests to a server with --speculative-config first (two scrapes: in between)",
            file=file,
        )
    if counts.accepted_tokens > counts.draft_tokens:
        problem = f"accepted {counts.accepted_tokens:g} of {counts.draft_tokens:g} drafted tokens; is the file damaged?"
        raise InputError(problem, file=file)
    drafted = counts.draft_tokens / counts.drafts
    rounds = max(1, round(counts.drafts))
    if counts.accepted_per_position is None:
        k = round(drafted)
        if abs(drafted - k) > 0.02 * drafted:
            raise InputError(
                f"drafts {drafted:.3g} tokens a round on average and gives no positions, so no curve can be inferred;"
                " fix num_speculative_tokens, or scrape a newer server",
                file=file,
            )
        length = 1.0 + counts.accepted_tokens / counts.drafts
        return AcceptanceEvidence(source=source, length=(length, k, Sample(rounds)), method=method, engine="vllm")
    survival = [min(1.0, n / counts.drafts) for n in counts.accepted_per_position]
    notes: tuple[str, ...] = ()
    if drafted < 0.98 * len(survival):
        note = (
            f"{drafted:.3g} tokens were drafted a round, of {len(survival)} positions: rounds differ in length, and"
            " rates by position count a position that was not drafted as not accepted"
        )
        notes = (note,)
    try:
        conditional = conditional_from_survival(survival)
    except InputError as bad:
        raise InputError(f"acceptance by position {bad}; is the file damaged?", file=file) from bad
    row = MeasuredLength(tuple(conditional.tolist()), Sample(rounds))
    return AcceptanceEvidence(source=source, rows=(row,), method=method, engine="vllm", notes=notes)
