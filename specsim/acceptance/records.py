"""What one request reports of its speculation: AIPerf's record, which vLLM's per-request metrics fit too."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from specsim.errors import InputError


@dataclass(frozen=True)
class SpecDecodeAcceptanceRecord:
    """One request's acceptance, with the field names of AIPerf's record of the same name.

    mean_acceptance_length: emitted tokens per round, bonus included (None with no round). draft_acceptance_rate:
    accepted over drafted tokens (None with nothing drafted). acceptance_histogram: rounds by accepted count,
    sparse. num_spec_steps: rounds. num_spec_tokens: K, where it was constant. per_step_accepted, per_step_drafted:
    round by round, where the engine was asked for details.
    """

    engine: str
    mean_acceptance_length: float | None
    draft_acceptance_rate: float | None
    acceptance_histogram: Mapping[int, int]
    num_accepted_draft_tokens: int
    num_draft_tokens: int
    num_spec_steps: int
    num_spec_tokens: int | None = None
    completion_tokens: int | None = None
    per_step_accepted: tuple[int, ...] | None = None
    per_step_drafted: tuple[int, ...] | None = None

    @classmethod
    def from_dict(
        cls, given: Mapping[str, Any], *, file: str | None = None, field: str | None = None
    ) -> SpecDecodeAcceptanceRecord:
        """Read and cross-check a record: AIPerf's ``spec_decode_acceptance`` or vLLM's ``speculative_decoding``.

        The histogram may be a sparse mapping (AIPerf) or a dense list (vLLM). Counts that the histogram implies must
        agree with those given; differences raise InputError.
        """
        where = field or "spec_decode_acceptance"
        histogram = _histogram(given, file=file, field=f"{where}.acceptance_histogram")
        steps, accepted = sum(histogram.values()), sum(j * n for j, n in histogram.items())
        for name, implied in (("num_spec_steps", steps), ("num_accepted_draft_tokens", accepted)):
            stated = given.get(name, implied)
            if stated != implied:
                raise InputError(
                    f"is {stated}, but the histogram counts {implied}; one of them is not from this request",
                    file=file,
                    field=f"{where}.{name}",
                )
        k, drafted = given.get("num_spec_tokens"), given.get("num_draft_tokens")
        if drafted is None:
            if k is None:
                raise InputError(
                    "is absent, and so is num_spec_tokens; one of them is needed to know what was drafted",
                    file=file,
                    field=f"{where}.num_draft_tokens",
                )
            drafted = k * steps
        per_step = {
            name: tuple(int(n) for n in given[name])
            for name in ("per_step_accepted", "per_step_drafted")
            if given.get(name) is not None
        }
        return cls(
            engine=str(given.get("engine", "vllm")),
            mean_acceptance_length=1.0 + accepted / steps if steps else None,
            draft_acceptance_rate=accepted / drafted if drafted else None,
            acceptance_histogram=histogram,
            num_accepted_draft_tokens=accepted,
            num_draft_tokens=int(drafted),
            num_spec_steps=steps,
            num_spec_tokens=k,
            completion_tokens=given.get("completion_tokens"),
            per_step_accepted=per_step.get("per_step_accepted"),
            per_step_drafted=per_step.get("per_step_drafted"),
        )

    def to_dict(self) -> dict[str, Any]:
        """The record as JSON holds it: histogram keys as text, absent fields left out."""
        written = {name: value for name, value in asdict(self).items() if value is not None}
        written["acceptance_histogram"] = {str(j): n for j, n in sorted(self.acceptance_histogram.items())}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in written.items()}

    @property
    def drafted_per_step(self) -> int | None:
        """The draft length, where every round had the same; None where it varied and only totals are known."""
        if self.per_step_drafted is not None:
            lengths = set(self.per_step_drafted)
            return lengths.pop() if len(lengths) == 1 else None
        if self.num_spec_tokens is not None and self.num_draft_tokens == self.num_spec_tokens * self.num_spec_steps:
            return self.num_spec_tokens
        return None


def read_records(path: Path) -> list[SpecDecodeAcceptanceRecord]:
    """The records of a JSON Lines file, one request a line, those without speculation left out.

    Accepts AIPerf's ``profile_export.jsonl`` (``spec_decode_acceptance``), responses of vLLM with per-request metrics
    (``metrics.speculative_decoding``), and bare records. InputError names the file and line of what cannot be read.
    """
    records = [
        SpecDecodeAcceptanceRecord.from_dict(given, file=str(path), field=f"line {number}")
        for number, given in _lines(path)
    ]
    records = [record for record in records if record.num_spec_steps > 0]
    if not records:
        raise InputError(
            "holds no request that drafted anything; run the benchmark with per-request speculation metrics on",
            file=str(path),
        )
    return records


def _lines(path: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as bad:
        raise InputError(f"cannot be read: {bad}", file=str(path)) from bad
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as bad:
            raise InputError(f"line {number} is not JSON ({bad.msg}); is the file cut short?", file=str(path)) from bad
        found = row
        if isinstance(row, Mapping):
            metrics = row.get("metrics")
            nested = metrics.get("speculative_decoding") if isinstance(metrics, Mapping) else None
            found = row.get("spec_decode_acceptance", nested) if ("metrics" in row or "metadata" in row) else row
            found = row.get("spec_decode_acceptance", found)
        if isinstance(found, Mapping):
            yield number, found


def _histogram(given: Mapping[str, Any], *, file: str | None, field: str) -> dict[int, int]:
    raw = given.get("acceptance_histogram")
    if raw is None and given.get("per_step_accepted") is not None:
        steps = list(given["per_step_accepted"])
        raw = {j: steps.count(j) for j in set(steps)}
    try:
        items = raw.items() if isinstance(raw, Mapping) else enumerate(raw or ())
        histogram = {int(j): int(n) for j, n in items if int(n) != 0}
    except (TypeError, ValueError) as bad:
        raise InputError(f"{raw!r} is not a histogram of accepted counts", file=file, field=field) from bad
    if raw is None or any(j < 0 or n < 0 for j, n in histogram.items()):
        raise InputError("needs counts >= 0 for 0, 1, ... accepted tokens", file=file, field=field)
    return dict(sorted(histogram.items()))
