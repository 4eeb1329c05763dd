"""The drafters of a scenario file, and what is known of their acceptance: every field with its meaning and range."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from specsim.scenario.fields import Count, DraftLengths, Section, Share, Shares

Method = Literal["draft_model", "eagle", "eagle3", "mtp", "medusa", "ngram", "none"]
NEEDS_MODEL = ("draft_model",)
TAKES_MODEL = ("draft_model", "eagle", "eagle3", "mtp")
KINDS = ("rate", "per_position", "survival", "length", "file", "shipped")
"""Kinds of evidence of acceptance."""


class Acceptance(Section):
    """What survives verification: exactly one kind of evidence, and optionally how requests and rounds differ."""

    rate: Share | None = Field(
        default=None, description="one conditional rate for every position: P(accepted | all before it accepted)"
    )
    per_position: Shares | None = Field(
        default=None, description="conditional rate of each position: P(accepted | all before it accepted)"
    )
    survival: Shares | None = Field(
        default=None,
        description="P(this position and all before it accepted), never rising; vLLM's per-position acceptance rate",
    )
    length: Annotated[float, Field(ge=1)] | None = Field(
        default=None, description="acceptance length: tokens a round emits, bonus token included; needs at_k"
    )
    at_k: Count | None = Field(default=None, description="the num_speculative_tokens that `length` was measured at")
    file: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="path of an acceptance model written by `specsim acceptance`"
    )
    shipped: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="measured acceptance that ships, by the name that `specsim models` lists"
    )
    method: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="drafter whose set is read, where `file` or `shipped` holds several"
    )
    dataset: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="text whose set is read, where `file` or `shipped` holds several"
    )
    by_rank: Shares | None = Field(
        default=None,
        description="for systems that draft trees, beside the one kind: P(the i-th likeliest child of an accepted token"
        " is the accepted one), summing to 1 at most",
    )
    between_requests_sd: Annotated[float, Field(ge=0, le=4)] | None = Field(
        default=None, description="spread between requests: standard deviation on the logit scale"
    )
    within_requests_sd: Annotated[float, Field(ge=0, le=4)] | None = Field(
        default=None, description="spread between rounds of a request: standard deviation on the logit scale"
    )
    round_correlation: Annotated[float, Field(ge=0, lt=1)] | None = Field(
        default=None, description="correlation of that spread from one round to the next; needs within_requests_sd"
    )

    @field_validator("survival")
    @classmethod
    def _never_rises(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value and any(b > a for a, b in pairwise(value)):
            raise PydanticCustomError(
                "survival", "{value} must never rise; conditional rates go into per_position", {"value": list(value)}
            )
        return value

    @field_validator("by_rank")
    @classmethod
    def _at_most_one_child(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value and sum(value) > 1.0 + 1e-9:
            raise PydanticCustomError(
                "by_rank",
                "{value} sums to {total}; at most one child is accepted, so it must not exceed 1",
                {"value": list(value), "total": round(sum(value), 6)},
            )
        return value

    @model_validator(mode="after")
    def _one_kind(self) -> Acceptance:
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none"
            raise PydanticCustomError(
                "kinds", "{found} given; give exactly one of {kinds}", {"found": found, "kinds": ", ".join(KINDS)}
            )
        if self.length is not None and self.at_k is None:
            raise PydanticCustomError(
                "at_k",
                "length {length} needs at_k, the num_speculative_tokens that it was measured at",
                {"length": self.length},
            )
        if self.at_k is not None and self.length is None:
            raise PydanticCustomError("at_k", "at_k has no effect without length; remove it or give length", {})
        if self.length is not None and self.at_k is not None and self.length > self.at_k + 1:
            raise PydanticCustomError(
                "length",
                "length {length} at at_k {k} is above {most}, the most that a round emits (K and the bonus)",
                {"length": self.length, "k": self.at_k, "most": self.at_k + 1},
            )
        if (self.method or self.dataset) and self.file is None and self.shipped is None:
            name = "method" if self.method else "dataset"
            problem = "{name} has no effect without file or shipped, whose sets it chooses from; remove it"
            raise PydanticCustomError("set", problem, {"name": name})
        if self.round_correlation and not self.within_requests_sd:
            raise PydanticCustomError(
                "memory", "round_correlation has no effect without within_requests_sd; give both", {}
            )
        return self


class Drafter(Section):
    """One way to draft; ``[[drafter]]`` repeats to compare several."""

    method: Method = Field(description="how tokens are drafted; none is plain decoding")
    name: Annotated[str, Field(min_length=1)] | None = Field(
        default=None, description="label in reports, unique among the drafters; the method (and model) where not given"
    )
    model: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="drafting model: a shipped name or a config.json; draft_model needs it, a head without one is the"
        " head published for the target, else a layer like the target's",
    )
    num_speculative_tokens: DraftLengths | None = Field(
        default=None, description="draft lengths to consider, a number or a list; 0 is always considered"
    )
    acceptance: Acceptance | None = Field(
        default=None, description="acceptance of this drafter; with a single drafter a top-level [acceptance] will do"
    )

    @field_validator("num_speculative_tokens")
    @classmethod
    def _sorted(cls, value: tuple[int, ...] | None) -> tuple[int, ...] | None:
        return None if value is None else tuple(sorted(set(value)))

    @model_validator(mode="after")
    def _fits_method(self) -> Drafter:
        if self.method in NEEDS_MODEL and self.model is None:
            raise PydanticCustomError(
                "model", "method {m} needs model: a shipped name or a path to a config.json", {"m": self.method}
            )
        if self.method not in TAKES_MODEL and self.model is not None:
            raise PydanticCustomError(
                "model",
                "model {model} has no effect with method {m}; remove it",
                {"model": f'"{self.model}"', "m": self.method},
            )
        if self.method == "none" and any(self.num_speculative_tokens or ()):
            raise PydanticCustomError(
                "none", "method none drafts nothing; remove num_speculative_tokens or choose a method", {}
            )
        if self.method == "none" and self.acceptance is not None:
            raise PydanticCustomError("none", "method none has no acceptance; remove it or choose a method", {})
        return self

    @property
    def label(self) -> str:
        """The name, or what it is made from."""
        return self.name or (f"{self.method}:{self.model}" if self.model else self.method)
