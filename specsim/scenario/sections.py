"""The smaller tables of a scenario file: every field with its meaning, unit, range and default."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator
from pydantic_core import PydanticCustomError

from specsim.scenario.fields import (
    Count,
    Counts,
    NonNegative,
    Positive,
    Section,
    Share,
    TpotMs,
    TtftMs,
)

Engine = Literal["vllm", "sglang", "trtllm"]
DEFAULT_UTILIZATION = 0.9
"""vLLM's long-standing default (EngineArgs.gpu_memory_utilization)."""


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
    replicas: Count | None = Field(
        default=None,
        description="replicas that share the requests, of which `simulate` and `compare` run one, at its share of the"
        " rate; one where not given (`plan` says how many it takes)",
    )
    seed: Annotated[int, Field(ge=0)] = Field(default=0, description="seed of every random stream")
