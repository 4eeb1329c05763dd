"""What a number in a scenario may be: shares, counts, times; and the rules that all sections share."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Section(BaseModel):
    """A table of a scenario file: unknown keys, NaN and look-alike types are mistakes; nothing changes afterwards."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False, protected_namespaces=())

    def table(self) -> dict[str, Any]:
        """The section as plain values, unset optional keys left out, as a file would hold it."""
        return self.model_dump(mode="json", exclude_none=True)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, int) and not isinstance(value, bool) else value


Share = Annotated[float, Field(ge=0, le=1)]
"""A fraction of one."""
Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Count = Annotated[int, Field(ge=1)]
Shares = Annotated[tuple[Share, ...], Field(strict=False, min_length=1)]
Counts = Annotated[tuple[Count, ...], Field(strict=False, min_length=1), BeforeValidator(_as_list)]
DraftLengths = Annotated[
    tuple[Annotated[int, Field(ge=0, le=64)], ...], Field(strict=False, min_length=1), BeforeValidator(_as_list)
]
TtftMs = Annotated[float, Field(ge=1, le=3_600_000)]
TpotMs = Annotated[float, Field(ge=0.1, le=60_000)]
