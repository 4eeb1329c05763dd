"""Whether what a scenario names exists and goes together: models, GPUs, profiles, acceptance files, traces."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path as FilePath
from typing import TYPE_CHECKING, Any

from specsim.errors import InputError
from specsim.scenario.drafters import Drafter
from specsim.scenario.sections import Serving, Target
from specsim.scenario.traffic import Tokens, Workload

if TYPE_CHECKING:
    from specsim.cost.hardware import Hardware
    from specsim.cost.model import ModelShape

Path = tuple[str | int, ...]
Problems = Iterator[tuple[Path, str]]


def target_problems(target: Target) -> Problems:
    """A model that does not ship, a GPU without the precision, a profile that is missing, a cut that is impossible."""
    from specsim.cost.model import load_model

    model = yield from _tried(("target", "model"), load_model, target.model)
    if model is not None:
        yield from _tried(("target", "tensor_parallel"), model.check_parallel, target.tensor_parallel)
        yield from _precision_problems(target, model)
    yield from _hardware_problems(target)


def _precision_problems(target: Target, model: ModelShape) -> Problems:
    """A precision without effect on the model, and one that is not what its checkpoint keeps."""
    from specsim.cost.hf_config import read_json, stored_weights

    where = ("target", "dtype")
    if target.dtype == "mxfp4" and not model.experts:
        yield where, f'"mxfp4" is 4-bit experts, and {model.name} has none: it would change nothing; give another'
    if not (target.model.endswith(".json") or FilePath(target.model).is_dir()):
        return
    stored = stored_weights(read_json(FilePath(target.model)))
    if stored is None or (stored.dtype is not None and stored.dtype[:3] == target.dtype[:3]):
        return  # 8 bits in blocks, with static or with dynamic scales: as the scenario says
    remedy = (
        "which no profile prices; give the config.json of the model that was quantised"
        if stored.dtype is None
        else f'so give dtype = "{stored.dtype}" (--dtype {stored.dtype})'
    )
    found = f'"{target.dtype}": quantization_config of {target.model} says {stored.words} weights, {remedy}'
    yield where, f"{found}, or take that field out to plan as if it were not there"


def _hardware_problems(target: Target) -> Problems:
    from specsim.cost.hardware import load_hardware
    from specsim.cost.law import ARITHMETIC
    from specsim.cost.profile import FILES, load_profile, profile_names

    where = ("target", "hardware")
    profile: Any = None
    if target.hardware.endswith(".json"):
        profile = yield from _tried(where, load_profile, target.hardware, engine=target.engine, dtype=target.dtype)
        gpu = profile.hardware if profile is not None else None
    else:
        gpu = yield from _tried(where, load_hardware, target.hardware)
    if gpu is None:
        return
    if ARITHMETIC[target.dtype] not in gpu.peak_flops_per_s:
        known = ", ".join(gpu.peak_flops_per_s)
        yield ("target", "dtype"), f'"{target.dtype}": {gpu.name} has no {target.dtype} arithmetic; it has {known}'
        return
    if target.tensor_parallel > gpu.gpus_per_node:
        problem = f"{target.tensor_parallel} GPUs: a node of {gpu.name} has {gpu.gpus_per_node}; cut over at most those"
        yield ("target", "tensor_parallel"), problem
    if profile is None:
        there = [name.removeprefix(f"{gpu.name}-") for name in profile_names() if name.startswith(f"{gpu.name}-")]
        if f"{target.engine}-{FILES.get(target.dtype, target.dtype)}" not in there:
            has = ", ".join(name.replace("-", " ") for name in there)
            yield where, f"no profile of {gpu.name} for {target.engine} at {target.dtype} ships; there is {has}"


def drafter_problems(drafter: Drafter, target: Target | None, where: Path) -> Problems:
    """A drafting model that does not ship or does not fit the target, acceptance evidence that cannot be read."""
    from specsim.scenario.resolve import process_of

    if target is not None and (shape := _model(target)) is not None:
        from specsim.cost.drafter import load_drafter

        yield from _tried((*where, "model"), load_drafter, drafter.method, target=shape, model=drafter.model)
    if drafter.acceptance is not None:
        yield from _tried((*where, "acceptance"), process_of, drafter.acceptance)


def workload_problems(workload: Workload) -> Problems:
    """A trace that is missing, empty or damaged."""
    from specsim.scenario.resolve import traffic_of

    where = ("workload", "arrivals", "file") if workload.arrivals.kind == "trace" else ("workload",)
    yield from _tried(where, traffic_of, workload)


def memory_problems(
    target: Target, drafters: Sequence[Drafter], serving: Serving, workload: Workload | None
) -> Problems:
    """Weights that leave no cache, and a cache that cannot hold one request.

    A request is too long for certain where the longest prompt with the shortest output, the shortest prompt with the
    longest output, or the mean of both doesn't fit. The simulator checks every request that it draws.
    """
    shape, gpu = _model(target), _gpu(target)
    if shape is None or gpu is None:
        return
    for drafter, k in [(None, 0), *((d, max(d.num_speculative_tokens or (1,))) for d in drafters)]:
        blocks = serving.num_gpu_blocks
        if blocks is None:
            try:
                blocks = _blocks(shape, gpu, drafter, k, target, serving)
            except InputError as error:
                yield ("target",), error.lines[0].removeprefix("target: ")
                return
        tokens = (blocks - 1) * serving.block_size
        for prompt, output in _certain_lengths(workload):
            if prompt + output + k > tokens:
                yield ("serving",), _too_long(blocks, serving.block_size, prompt, output, k)
                return


def _blocks(shape: ModelShape, gpu: Hardware, drafter: Drafter | None, k: int, target: Target, serving: Serving) -> int:
    from specsim.cost.drafter import load_drafter
    from specsim.cost.memory import cache_memory

    draft = None
    if drafter is not None:
        try:
            draft = load_drafter(drafter.method, target=shape, model=drafter.model)
        except InputError:
            k = 0  # said where the drafter is looked at
    return cache_memory(
        shape,
        draft,
        hardware=gpu,
        k=k,
        tensor_parallel=target.tensor_parallel,
        dtype=target.dtype,
        kv_dtype=target.kv_dtype,
        **serving.memory_limits,
    ).num_gpu_blocks


def _too_long(blocks: int, size: int, prompt: int, output: int, k: int) -> str:
    drafted = f" and {k} drafted" if k else ""
    return (
        f"the cache holds {(blocks - 1) * size:,} tokens ({blocks:,} blocks of {size}, one kept free) and a request of"
        f" {prompt:,} prompt and {output:,} output tokens{drafted} needs more; raise gpu_memory_utilization or"
        " num_gpu_blocks, use more GPUs, or shorten the requests"
    )


def _certain_lengths(workload: Workload | None) -> Iterator[tuple[int, int]]:
    """Prompt and output tokens of requests that the workload surely holds."""
    if workload is None:
        return
    laws = (workload.prompt_tokens, workload.output_tokens)
    if workload.arrivals.kind == "trace" and laws == (None, None):
        yield from _longest_recorded(workload)
    elif laws[0] is not None and laws[1] is not None:
        (p_low, p_mean, p_high), (o_low, o_mean, o_high) = (_range(law) for law in laws if law is not None)
        yield p_mean, o_mean
        yield p_high, o_low
        yield p_low, o_high


def _longest_recorded(workload: Workload) -> Iterator[tuple[int, int]]:
    from specsim.scenario.resolve import traffic_of
    from specsim.simulation.workload import Trace

    try:
        trace = traffic_of(workload).arrivals
    except InputError:
        return  # said where the workload is looked at
    if isinstance(trace, Trace):
        yield max(zip(trace.prompt_tokens, trace.output_tokens, strict=True), key=sum)


def _range(law: Tokens) -> tuple[int, int, int]:
    """Shortest, mean and longest length; a lognormal is cut to its mean."""
    if law.kind == "fixed":
        return law.tokens, law.tokens, law.tokens
    if law.kind == "lognormal":
        return 1, int(law.mean), int(law.mean)
    return law.tokens[0], law.tokens[len(law.tokens) // 2], law.tokens[-1]


def _model(target: Target) -> ModelShape | None:
    from specsim.cost.model import load_model

    try:
        model = load_model(target.model)
        model.check_parallel(target.tensor_parallel)
    except InputError:
        return None  # said where the target is looked at
    return model


def _gpu(target: Target) -> Hardware | None:
    from specsim.cost.hardware import load_hardware
    from specsim.cost.profile import load_profile

    try:
        if target.hardware.endswith(".json"):
            return load_profile(target.hardware, engine=target.engine, dtype=target.dtype).hardware
        return load_hardware(target.hardware)
    except InputError:
        return None  # said where the target is looked at


def _tried(where: Path, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """The call's result, or None with its complaint yielded at ``where``, without the field's own name before it."""
    try:
        return call(*args, **named)
    except InputError as error:
        for line in error.lines:
            yield where, re.sub(rf"^(?:(?:{where[0]}\.)?\w+: |acceptance\.)", "", line)
        return None
