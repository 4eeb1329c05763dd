"""The workload of a scenario file: when requests arrive and how long they are."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from specsim.scenario.fields import Count, Positive, Section, Share


class PoissonArrivals(Section):
    """Independent requests at a mean rate."""

    kind: Literal["poisson"] = Field(description="independent arrivals")
    rate_per_s: Positive = Field(description="mean requests a second, at all replicas together")


class GammaArrivals(Section):
    """Gamma-distributed gaps, as vLLM's benchmark draws them."""

    kind: Literal["gamma"] = Field(description="gamma-distributed gaps")
    rate_per_s: Positive = Field(description="mean requests a second, at all replicas together")
    burstiness: Positive = Field(
        description="shape of the gaps, as in vLLM's benchmark: 1 is Poisson, below 1 burstier"
    )


class TraceArrivals(Section):
    """Recorded requests: arrival times, and lengths unless the scenario gives others."""

    kind: Literal["trace"] = Field(description="recorded requests")
    file: Annotated[str, Field(min_length=1)] = Field(
        description="path of the trace: CSV with the columns of Splitwise, Azure or BurstGPT, or Mooncake's JSON lines"
    )
    rate_per_s: Positive | None = Field(
        default=None, description="stretch the trace to this mean rate, requests a second"
    )


class ClosedArrivals(Section):
    """A fixed number of users, each sending the next request when the last one is done."""

    kind: Literal["closed"] = Field(description="a fixed number of users in a loop")
    concurrency: Count = Field(description="users, at one replica")


class FixedTokens(Section):
    """One length."""

    kind: Literal["fixed"] = Field(description="always the same length")
    tokens: Count = Field(description="the length, in tokens")


class LognormalTokens(Section):
    """Lognormal lengths."""

    kind: Literal["lognormal"] = Field(description="lognormal, rounded to whole tokens")
    mean: Annotated[float, Field(ge=1, le=10_000_000)] = Field(description="mean length, in tokens")
    cv: Annotated[float, Field(ge=0, le=20)] = Field(
        description="coefficient of variation: standard deviation over mean"
    )


class QuantileTokens(Section):
    """Lengths by their quantiles, straight lines between them."""

    kind: Literal["quantiles"] = Field(description="quantiles of recorded lengths, straight lines between them")
    levels: Annotated[tuple[Share, ...], Field(strict=False, min_length=2)] = Field(
        description="shares of requests, rising from 0 to 1"
    )
    tokens: Annotated[tuple[Count, ...], Field(strict=False, min_length=2)] = Field(
        description="the length at each level, in tokens, never falling"
    )

    @model_validator(mode="after")
    def _a_law(self) -> QuantileTokens:
        if len(self.levels) != len(self.tokens):
            raise PydanticCustomError(
                "quantiles",
                "{n} levels and {m} tokens; give one length for each level",
                {"n": len(self.levels), "m": len(self.tokens)},
            )
        if self.levels[0] != 0 or self.levels[-1] != 1 or any(b <= a for a, b in pairwise(self.levels)):
            raise PydanticCustomError("quantiles", "levels must rise from 0 (the shortest) to 1 (the longest)", {})
        if any(b < a for a, b in pairwise(self.tokens)):
            raise PydanticCustomError("quantiles", "tokens must not fall from one level to the next", {})
        return self


Arrivals = Annotated[PoissonArrivals | GammaArrivals | TraceArrivals | ClosedArrivals, Field(discriminator="kind")]
Tokens = Annotated[FixedTokens | LognormalTokens | QuantileTokens, Field(discriminator="kind")]


class Workload(Section):
    """The requests."""

    arrivals: Arrivals = Field(description="when requests arrive")
    prompt_tokens: Tokens | None = Field(
        default=None, description="prompt lengths; a trace brings its own unless given"
    )
    output_tokens: Tokens | None = Field(
        default=None, description="output lengths; a trace brings its own unless given"
    )

    @model_validator(mode="after")
    def _lengths(self) -> Workload:
        if self.arrivals.kind != "trace":
            for name in ("prompt_tokens", "output_tokens"):
                if getattr(self, name) is None:
                    raise PydanticCustomError(
                        "lengths", "{name} is missing; only a trace brings its own lengths", {"name": name}
                    )
        return self
