"""The tables of a scenario file: every field with its meaning, unit, range and default."""

from __future__ import annotations

from itertools import pairwise
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from specsim.scenario.fields import (
    Count,
    Counts,
    DraftLengths,
    NonNegative,
    Positive,
    Section,
    Share,
    Shares,
    TpotMs,
    TtftMs,
)

Engine = Literal["vllm", "sglang", "trtllm"]
Method = Literal["draft_model", "eagle", "eagle3", "mtp", "medusa", "ngram", "none"]
DEFAULT_UTILIZATION = 0.9
"""vLLM's long-standing default (EngineArgs.gpu_memory_utilization)."""
NEEDS_MODEL = ("draft_model",)
TAKES_MODEL = ("draft_model", "eagle", "eagle3", "mtp")


class Target(Section):
    """The model that answers, and what it runs on."""

    model: Annotated[str, Field(min_length=1)] = Field(
        description="target model: a name that `specsim models` lists, or the path of a Hugging Face config.json"
    )
    hardware: Annotated[str, Field(min_length=1)] = Field(
        description="GPU: a name that `specsim hardware` lists, or the path of a profile file"
    )
    engine: Engine = Field(default="vllm", description="serving engine whose measured kernels price a step")
    dtype: Literal["bf16", "fp8", "fp8_static", "fp8_block", "mxfp4", "fp32"] = Field(
        default="bf16",
        description="precision of weights and products; fp8 scales activations as they come, fp8_static as the "
        "checkpoint says, fp8_block scales blocks of 128 x 128 weights; mxfp4 is 4-bit experts between 16-bit layers; "
        "fp32 for profiles measured on a CPU",
    )
    kv_dtype: Literal["bf16", "fp8", "fp32"] = Field(
        default="bf16", description="precision of the cache (fp32 where the weights are)"
    )
    tensor_parallel: Count = Field(default=1, description="GPUs that one replica is cut over")

    @model_validator(mode="before")
    @classmethod
    def _cache_of_full_precision(cls, given: Any) -> Any:
        if isinstance(given, dict) and given.get("dtype") == "fp32" and "kv_dtype" not in given:
            return {**given, "kv_dtype": "fp32"}
        return given


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


KINDS = ("rate", "per_position", "survival", "length", "file", "shipped")


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


class Serving(Section):
    """Limits of one replica, in vLLM's names."""

    max_num_seqs: Count = Field(default=256, description="most requests that run at once")
    max_num_batched_tokens: Count = Field(
        default=8192, description="most tokens in an iteration, K+1 a drafting request"
    )
    gpu_memory_utilization: Annotated[float, Field(gt=0, le=1)] | None = Field(
        default=None,
        description="share of GPU memory that the engine may take (0.9 where neither this nor num_gpu_blocks is given)",
    )
    num_gpu_blocks: Annotated[int, Field(ge=2)] | None = Field(
        default=None, description="cache blocks, instead of gpu_memory_utilization"
    )
    block_size: Count = Field(default=16, description="tokens in a cache block")

    @model_validator(mode="after")
    def _one_size(self) -> Serving:
        if self.gpu_memory_utilization is not None and self.num_gpu_blocks is not None:
            raise PydanticCustomError(
                "memory", "gpu_memory_utilization and num_gpu_blocks both set the cache; give one of them", {}
            )
        if self.max_num_batched_tokens < self.max_num_seqs:
            raise PydanticCustomError(
                "budget",
                "max_num_batched_tokens {t} is below max_num_seqs {s}; every running request needs a token",
                {"t": self.max_num_batched_tokens, "s": self.max_num_seqs},
            )
        return self

    @property
    def memory_limits(self) -> dict[str, Any]:
        """What decides how much of a GPU's memory the cache has, as ``cost.memory.cache_memory`` takes it."""
        return {
            "gpu_memory_utilization": self.gpu_memory_utilization or DEFAULT_UTILIZATION,
            "max_num_batched_tokens": self.max_num_batched_tokens,
            "max_num_seqs": self.max_num_seqs,
            "block_size": self.block_size,
        }


class Slo(Section):
    """Limits of latency, all of which must hold."""

    ttft_p50_ms: TtftMs | None = Field(default=None, description="median time to first token, in milliseconds")
    ttft_p90_ms: TtftMs | None = Field(
        default=None, description="90th percentile of time to first token, in milliseconds"
    )
    ttft_p95_ms: TtftMs | None = Field(
        default=None, description="95th percentile of time to first token, in milliseconds"
    )
    ttft_p99_ms: TtftMs | None = Field(
        default=None, description="99th percentile of time to first token, in milliseconds"
    )
    tpot_p50_ms: TpotMs | None = Field(
        default=None, description="median over requests of time per output token after the first, in milliseconds"
    )
    tpot_p90_ms: TpotMs | None = Field(
        default=None,
        description="90th percentile over requests of time per output token after the first, in milliseconds",
    )
    tpot_p95_ms: TpotMs | None = Field(
        default=None,
        description="95th percentile over requests of time per output token after the first, in milliseconds",
    )
    tpot_p99_ms: TpotMs | None = Field(
        default=None,
        description="99th percentile over requests of time per output token after the first, in milliseconds",
    )

    @model_validator(mode="after")
    def _some_limit(self) -> Slo:
        if not self.table():
            raise PydanticCustomError(
                "limits", "holds no limit; give one, as tpot_p95_ms = 50, or remove the table", {}
            )
        return self

    @property
    def limits(self) -> tuple[tuple[str, float, float], ...]:
        """Each limit as (quantity "ttft" or "tpot", quantile, seconds)."""
        return tuple(
            (name.split("_")[0], int(name.split("_")[1][1:]) / 100.0, value / 1000.0)
            for name, value in self.table().items()
        )


class Price(Section):
    """What a GPU costs; without it no cost is printed."""

    gpu_hour: Positive = Field(description="price of one GPU for one hour, in any currency; costs come in the same")


class Network(Section):
    """The links between devices, for systems that draft elsewhere than they verify; without it these don't apply."""

    latency_s: NonNegative = Field(description="one-way latency, in seconds")
    bandwidth_bytes_per_s: Positive = Field(description="bandwidth of each link, in bytes a second")
    jitter: Share = Field(
        default=0.0, description="the latency is multiplied by 1 + a uniform number in -jitter..jitter"
    )
    loss: Annotated[float, Field(ge=0, lt=1)] = Field(default=0.0, description="share of messages that are lost")
    retry_s: Positive | None = Field(default=None, description="seconds until a lost message is sent again; with loss")
    draft_hardware: Annotated[str, Field(min_length=1)] | None = Field(
        default=None,
        description="GPU that drafts at the other end: a name or a profile file; the target's if not given",
    )

    @model_validator(mode="after")
    def _lost_messages_come_again(self) -> Network:
        if (self.loss > 0) != (self.retry_s is not None):
            raise PydanticCustomError("retry", "loss and retry_s need each other; give both or none", {})
        return self


class Shown(Section):
    """What the tables of a plan show; derived from the scenario where not given."""

    batch_sizes: Counts | None = Field(
        default=None, description="batch sizes of the table: requests that decode at once"
    )
    context_tokens: Counts | None = Field(
        default=None, description="context lengths to consider: cached tokens a request"
    )


class Simulation(Section):
    """How much is simulated, and from which seed."""

    requests: Annotated[int, Field(ge=20, le=10_000_000)] = Field(default=2000, description="requests in a replication")
    replications: Annotated[int, Field(ge=5, le=1000)] = Field(
        default=5, description="independent repetitions that confidence intervals are made from"
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="seed of every random stream")
