"""Whether what a scenario names exists and goes together: models, GPUs, profiles, acceptance files, traces."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from specsim.errors import InputError
from specsim.scenario.sections import Drafter, Target
from specsim.scenario.traffic import Workload

Path = tuple[str | int, ...]
Problems = Iterator[tuple[Path, str]]


def target_problems(target: Target) -> Problems:
    """A model that does not ship, a GPU without the precision, a profile that is missing, a cut that is impossible."""
    from specsim.cost.model import load_model

    model = yield from _tried(("target", "model"), load_model, target.model)
    if model is not None:
        yield from _tried(("target", "tensor_parallel"), model.check_parallel, target.tensor_parallel)
    yield from _hardware_problems(target)


def _hardware_problems(target: Target) -> Problems:
    from specsim.cost.hardware import load_hardware
    from specsim.cost.profile import load_profile

    where = ("target", "hardware")
    profile: Any = None
    if target.hardware.endswith(".json"):
        profile = yield from _tried(where, load_profile, target.hardware, engine=target.engine, dtype=target.dtype)
        gpu = profile.hardware if profile is not None else None
    else:
        gpu = yield from _tried(where, load_hardware, target.hardware)
    if gpu is None:
        return
    if target.dtype not in gpu.peak_flops_per_s:
        known = ", ".join(gpu.peak_flops_per_s)
        yield ("target", "dtype"), f'"{target.dtype}": {gpu.name} has no {target.dtype} arithmetic; it has {known}'
        return
    if target.tensor_parallel > gpu.gpus_per_node:
        problem = f"{target.tensor_parallel} GPUs: a node of {gpu.name} has {gpu.gpus_per_node}; cut over at most those"
        yield ("target", "tensor_parallel"), problem
    if profile is None:
        yield from _tried(where, load_profile, target.hardware, engine=target.engine, dtype=target.dtype)


def drafter_problems(drafter: Drafter, where: Path) -> Problems:
    """A drafting model that does not ship, acceptance evidence that cannot be read."""
    from specsim.scenario.resolve import process_of

    if drafter.model is not None:
        from specsim.cost.model import load_model

        yield from _tried((*where, "model"), load_model, drafter.model)
    if drafter.acceptance is not None:
        yield from _tried((*where, "acceptance"), process_of, drafter.acceptance)


def workload_problems(workload: Workload) -> Problems:
    """A trace that is missing, empty or damaged."""
    from specsim.scenario.resolve import traffic_of

    where = ("workload", "arrivals", "file") if workload.arrivals.kind == "trace" else ("workload",)
    yield from _tried(where, traffic_of, workload)


def _tried(where: Path, call: Callable[..., Any], *args: Any, **named: Any) -> Any:
    """The call's result, or None with its complaint yielded at ``where``."""
    try:
        return call(*args, **named)
    except InputError as error:
        for line in error.lines:
            yield where, line.removeprefix(f"{where[-1]}: ").removeprefix("acceptance.")
        return None
