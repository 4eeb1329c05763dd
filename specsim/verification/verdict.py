"""What the oracle says of a sampler."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

Status = Literal["consistent", "rejected", "inconclusive"]


_SAID = {
    "consistent": "consistent:",
    "rejected": "rejected the claim that",
    "inconclusive": "inconclusive whether",
}


@dataclass(frozen=True)
class Finding:
    """One thing seen: a short name for programs and a line for people.

    ``weight`` is "rejects" (the claim is false), "stops" (nothing could be judged) or "note".
    """

    name: str
    line: str
    weight: Literal["rejects", "stops", "note"] = "rejects"


@dataclass(frozen=True)
class Witness:
    """Where the emitted law deviates most: in which case, after which prefix, which token.

    ``event`` says what was counted: rounds that "emit exactly" prefix and token, or the token that "follows" the
    prefix. ``observed`` and ``expected`` are its probabilities, ``deviation`` the standard errors between them:
    infinite for an impossible event, and by interception, which has no error. ``target`` and ``draft`` are the case's
    rows from the first position to the token's, as many as it has.
    """

    case: str
    prefix: tuple[int, ...]
    token: int
    observed: float
    expected: float
    deviation: float
    event: Literal["emits exactly", "follows"] = "emits exactly"
    target: tuple[tuple[float, ...], ...] = ()
    draft: tuple[tuple[float, ...], ...] = ()

    @property
    def away(self) -> str:
        """The deviation in words; nothing where it has no error."""
        return f" ({self.deviation:+.1f} standard errors)" if math.isfinite(self.deviation) else ""

    @property
    def described(self) -> str:
        """The event in words."""
        if self.event == "follows":
            return f"token {self.token} after {list(self.prefix)}"
        return f"a round emits exactly {[*self.prefix, self.token]}"


@dataclass(frozen=True)
class Range:
    """What a check tried, least and most: tokens of the cases' vocabularies, and drafts; tokens of the widest
    vocabulary that they were hidden in, and the smallest probability of a draft. It says nothing of more, or of less.
    """

    tokens: tuple[int, int]
    drafts: tuple[int, int]
    widest: int
    smallest_draft: float

    def __str__(self) -> str:
        tokens, drafts = (f"{a} to {b}" if a < b else str(a) for a, b in (self.tokens, self.drafts))
        among = f" (hidden among {self.widest})" if self.widest > self.tokens[1] else ""
        more = "" if self.drafts[1] == 1 else "s"
        return f"{tokens} tokens{among}, {drafts} draft{more} of probabilities from {self.smallest_draft:.2g}"


@dataclass(frozen=True)
class Verdict:
    """Whether a sampler is consistent with a claim, how sure that is, and what speaks against it.

    ``min_detectable_tv`` is the smallest total variation, in any case of the suite, that would have been rejected with
    probability ``power``: a pass says nothing about less. ``controls`` names deliberately broken samplers that the same
    budget rejected. ``explanation`` says which known mistakes fit what was emitted (``causes`` are their names, the
    likeliest first), or that none does. ``call`` was made with ``seed``, and gives the same again. ``covered`` is the
    range of what was tried. ``error`` is what the sampler raised, which is no part of the JSON.
    """

    status: Status
    claim: str
    findings: tuple[Finding, ...] = ()
    witness: Witness | None = None
    explanation: str | None = None
    min_detectable_tv: float | None = None
    p_value: float | None = None
    alpha: float = 1e-9
    power: float = 0.99
    rows: int = 0
    levels: tuple[str, ...] = ()
    controls: tuple[str, ...] = ()
    details: dict[str, Any] = field(default_factory=dict)
    causes: tuple[str, ...] = ()
    seed: int | None = None
    call: str | None = None
    covered: Range | None = None
    error: BaseException | None = field(default=None, compare=False, repr=False)

    @property
    def passed(self) -> bool:
        """Whether the sampler is consistent with the claim."""
        return self.status == "consistent"

    @property
    def exit_code(self) -> int:
        """0 consistent, 1 rejected, 3 inconclusive; 2 is left to mistakes in what was asked."""
        return {"consistent": 0, "rejected": 1, "inconclusive": 3}[self.status]

    def to_json(self) -> str:
        """The verdict as a JSON object; infinities and NaN as strings."""
        told = asdict(replace(self, error=None))
        del told["error"]
        return json.dumps({**_plain(told), "passed": self.passed}, indent=2)

    def __str__(self) -> str:
        lines = [f"{_SAID[self.status]} {self.claim}"]
        if self.witness is not None:
            w = self.witness
            lines.append(
                f"  witness: case {w.case}, {w.described}: observed {w.observed:.6g}, expected {w.expected:.6g}{w.away}"
            )
            for which, rows in (("target", w.target), ("draft", w.draft)):
                if rows:
                    told = ", ".join("[" + ", ".join(f"{x:.6g}" for x in row) + "]" for row in rows)
                    lines.append(f"    {which} rows there: {told}")
        lines += [f"  {finding.name}: {finding.line}" for finding in self.findings]
        if self.explanation:
            lines.append(f"  likeliest cause: {self.explanation}")
        if self.min_detectable_tv is not None:
            lines.append(
                f"  smallest detectable TV: {self.min_detectable_tv:.2g} (power {self.power:g}, false alarm"
                f" {self.alpha:g}, {self.rows:,} rows, levels: {', '.join(self.levels)})"
            )
        elif self.passed:
            lines.append(f"  levels: {', '.join(self.levels)}")
        if self.call and not self.passed:
            lines.append(f"  again: {self.call}")
        if self.passed and self.covered is not None:
            lines.append(f"  covered: {self.covered}")
        if self.controls:
            lines.append(f"  broken samplers rejected at the same budget: {', '.join(self.controls)}")
        return "\n".join(lines)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value.item() if hasattr(value, "item") else value
