"""The flags that override a scenario: declared once, taken by several commands, parsed into ``Overrides``."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from inspect import Parameter, Signature, signature
from typing import TYPE_CHECKING, Annotated, Any, get_type_hints

import typer

if TYPE_CHECKING:
    from specsim.scenario import Overrides

FILE = "FILE"


def takes_overrides(*, without: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command the flags that override a scenario, but for some; it gets them parsed, as ``flags``."""
    more = [
        Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=flag)
        for name, flag in FLAGS.items()
        if name not in without
    ]

    def widen(command: Callable[..., None]) -> Callable[..., None]:
        # The parser never sees ``flags``, so a help text need not wait for the import of its type.
        hints = get_type_hints(command, localns={"Overrides": object}, include_extras=True)
        own = [p.replace(annotation=hints[p.name]) for p in signature(command).parameters.values() if p.name != "flags"]

        @wraps(command)
        def run(**given: Any) -> None:
            flags = _parsed({p.name: given.pop(p.name) for p in more})
            command(**given, flags=flags)

        run.__annotations__ = {p.name: p.annotation for p in (*own, *more)}
        run.__signature__ = Signature([*own, *more])  # type: ignore[attr-defined]
        return run

    return widen


def _flag(metavar: str, meaning: str, *, panel: str = "Override the scenario", kind: Any = str) -> Any:
    return Annotated[kind | None, typer.Option(metavar=metavar, help=meaning, rich_help_panel=panel)]


def _evidence(metavar: str, meaning: str) -> Any:
    return _flag(metavar, meaning, panel="Acceptance evidence (replaces the scenario's; give one kind)")


FLAGS = {
    "target": _flag("MODEL", "Shipped name or config.json."),
    "drafter": _flag("NAME", "A drafter of the file, a method, or method:model. Repeats.", kind=list[str]),
    "hardware": _flag("GPU", "Shipped name or profile file."),
    "engine": _flag("NAME", "vllm, sglang or trtllm."),
    "dtype": _flag(
        "NAME",
        "Of the weights: bf16, fp8, fp8_static, fp8_block, mxfp4 or fp32 (see `specsim hardware`).",
    ),
    "tensor_parallel": _flag("N", "GPUs of one replica."),
    "num_speculative_tokens": _flag("K", "Draft lengths: 3, or 0,1,2,4, or 1-8."),
    "context": _flag("TOKENS", "Context lengths, as 1024,8192."),
    "request_rate": _flag("PER_S", "Requests a second, all replicas."),
    "replicas": _flag("N", "Replicas that share the requests; one of them is run."),
    "slo_ttft_ms": _flag("MS", "95th percentile of time to first token."),
    "slo_tpot_ms": _flag("MS", "95th percentile of time per output token after the first."),
    "price_gpu_hour": _flag("PRICE", "Of one GPU."),
    "seed": _flag("N", "Seed of every random stream."),
    "acceptance_rate": _evidence("0..1", "One conditional rate for every position."),
    "acceptance_length": _evidence("TOKENS", "Tokens a round, bonus included, at the one K given."),
    "acceptance_per_position": _evidence("RATES", "Conditional rates, as 0.70,0.66,0.64."),
    "acceptance_file": _evidence(FILE, "Written by `specsim acceptance`."),
}

NOT_OF = {
    "plan": ("replicas",),
    "simulate": ("context", "price_gpu_hour"),
    "compare": ("context", "slo_ttft_ms", "slo_tpot_ms", "price_gpu_hour"),
}
"""Flags that would have no effect, by command."""

READ_AS = {
    "tensor_parallel": "whole_number",
    "seed": "whole_number",
    "replicas": "whole_number",
    "num_speculative_tokens": "whole_numbers",
    "context": "whole_numbers",
    "acceptance_per_position": "numbers",
    **dict.fromkeys(
        ("acceptance_rate", "acceptance_length", "request_rate", "slo_ttft_ms", "slo_tpot_ms", "price_gpu_hour"),
        "number",
    ),
}
"""Which reader turns a flag's text into numbers; the parser's own would not say what it found."""


def _parsed(given: Mapping[str, Any]) -> Overrides:
    from specsim.scenario import overrides
    from specsim.scenario.overrides import Overrides

    flags = {name: value for name, value in given.items() if value is not None}
    for name, read in READ_AS.items():
        if name in flags:
            flags[name] = getattr(overrides, read)(flags[name], name)
    if "drafter" in flags:
        flags["drafter"] = tuple(flags["drafter"])
    return Overrides(**flags)
