"""Flags that override a scenario file."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from specsim.errors import InputError
from specsim.scenario.drafters import Method

Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Overrides:
    """What the command line says of a scenario; None where it says nothing. Fields carry the names of the flags."""

    target: str | None = None
    drafter: tuple[str, ...] = ()
    hardware: str | None = None
    engine: str | None = None
    dtype: str | None = None
    tensor_parallel: int | None = None
    num_speculative_tokens: tuple[int, ...] | None = None
    acceptance_rate: float | None = None
    acceptance_length: float | None = None
    acceptance_per_position: tuple[float, ...] | None = None
    acceptance_file: str | None = None
    request_rate: float | None = None
    replicas: int | None = None
    slo_ttft_ms: float | None = None
    slo_tpot_ms: float | None = None
    price_gpu_hour: float | None = None
    context: tuple[int, ...] | None = None
    seed: int | None = None


def flag_of(name: str) -> str:
    """The flag that fills a field of `Overrides`."""
    return "--" + name.replace("_", "-")


def overridden(
    document: Mapping[str, Any], flags: Overrides
) -> tuple[dict[str, Any], dict[Path, str], tuple[str, ...]]:
    """The file's tables under the flags, the flag that set each changed path, and notes on what followed from them.

    Evidence of acceptance belongs to a target and a drafter: where a flag changes one of them, the file's evidence no
    longer applies and is left out, with a note. Raises InputError where flags contradict each other.
    """
    tables = copy.deepcopy(dict(document))
    origins: dict[Path, str] = {}
    notes: list[str] = []

    def put(path: Path, value: Any, name: str) -> None:
        here: Any = tables
        for part in path[:-1]:
            if isinstance(here, dict) and not isinstance(here.get(part), dict | list):
                here[part] = {}
            here = here[part]
        here[path[-1]] = value
        origins[path] = flag_of(name)

    old_target = _get(tables, "target", "model")
    for name, path in DIRECT.items():
        value = getattr(flags, name)
        if value is not None:
            put(path, list(value) if isinstance(value, tuple) else value, name)
    _latency(tables, flags, put)
    _rate(tables, flags, put)
    _drafters(tables, flags, origins)
    if flags.target is not None and flags.target != old_target and (dropped := _drop_evidence(tables)):
        notes.append(
            f"--target {flags.target}: the acceptance of {dropped} was measured with {old_target} and is left out;"
            " give --acceptance-* for this pair"
        )
    _evidence(tables, flags, origins)
    return tables, origins, tuple(notes)


DIRECT: Mapping[str, Path] = {
    "target": ("target", "model"),
    "hardware": ("target", "hardware"),
    "engine": ("target", "engine"),
    "dtype": ("target", "dtype"),
    "tensor_parallel": ("target", "tensor_parallel"),
    "price_gpu_hour": ("price", "gpu_hour"),
    "context": ("shown", "context_tokens"),
    "replicas": ("simulation", "replicas"),
    "seed": ("simulation", "seed"),
}


def _latency(tables: dict[str, Any], flags: Overrides, put: Any) -> None:
    for name, quantity in (("slo_ttft_ms", "ttft"), ("slo_tpot_ms", "tpot")):
        if (value := getattr(flags, name)) is None:
            continue
        if isinstance(tables.get("slo"), dict):
            tables["slo"] = {key: limit for key, limit in tables["slo"].items() if not key.startswith(quantity + "_")}
        put(("slo", f"{quantity}_p95_ms"), value, name)


def _rate(tables: dict[str, Any], flags: Overrides, put: Any) -> None:
    if flags.request_rate is None:
        return
    arrivals = _get(tables, "workload", "arrivals")
    if isinstance(arrivals, dict) and arrivals.get("kind") in ("poisson", "gamma", "trace"):
        put(("workload", "arrivals", "rate_per_s"), flags.request_rate, "request_rate")
    else:
        put(("workload", "arrivals"), {"kind": "poisson", "rate_per_s": flags.request_rate}, "request_rate")


def _drafters(tables: dict[str, Any], flags: Overrides, origins: dict[Path, str]) -> None:
    """Choose among the file's drafters, or put others in their place; then the draft lengths."""
    if flags.drafter:
        given = tables.get("drafter")
        mine = [table for table in (given if isinstance(given, list) else [given]) if isinstance(table, dict)]
        chosen: list[dict[str, Any]] = []
        for word in flags.drafter:
            matches = [table for table in mine if word in (table.get("name"), table.get("model"), table.get("method"))]
            if not matches:
                for field in ("method", "model"):
                    origins[("drafter", len(chosen), field)] = "--drafter"
                    if len(flags.drafter) == 1:
                        origins[("drafter", field)] = "--drafter"
            chosen.extend(matches or [_new_drafter(word, mine)])
        _lift_evidence(tables, mine)
        tables["drafter"] = chosen
    if flags.num_speculative_tokens is None:
        return
    speculating = [(i, t) for i, t in enumerate(_tables(tables)) if t.get("method") != "none"]
    if not speculating:
        raise InputError(
            "there is no drafter to give lengths to; name one with --drafter", field="--num-speculative-tokens"
        )
    for index, table in speculating:
        table["num_speculative_tokens"] = list(flags.num_speculative_tokens)
        path = (
            ("drafter", index, "num_speculative_tokens")
            if isinstance(tables["drafter"], list)
            else ("drafter", "num_speculative_tokens")
        )
        origins[path] = "--num-speculative-tokens"


def _new_drafter(word: str, mine: list[dict[str, Any]]) -> dict[str, Any]:
    """A drafter that the file does not hold: a method, ``method:model``, or the model of a draft_model."""
    methods = get_args(Method)
    method, _, model = word.partition(":")
    if method not in methods and ("/" in word or word.endswith(".json")):
        method, model = "draft_model", word
    table: dict[str, Any] = {"method": method, **({"model": model} if model else {})}
    lengths = [t["num_speculative_tokens"] for t in mine if t.get("num_speculative_tokens") is not None]
    if lengths and method != "none" and all(length == lengths[0] for length in lengths):
        table["num_speculative_tokens"] = lengths[0]
    return table


def _lift_evidence(tables: dict[str, Any], mine: list[dict[str, Any]]) -> None:
    """Move a top-level [acceptance] into the drafter that it is about, before drafters are chosen."""
    speculating = [table for table in mine if table.get("method") != "none"]
    if "acceptance" in tables and len(speculating) == 1 and "acceptance" not in speculating[0]:
        speculating[0]["acceptance"] = tables.pop("acceptance")


def _drop_evidence(tables: dict[str, Any]) -> str:
    names = []
    for table in _tables(tables):
        if table.pop("acceptance", None) is not None:
            names.append(str(table.get("name") or table.get("method")))
    if tables.pop("acceptance", None) is not None:
        names.append("the drafter")
    return " and ".join(names)


def _evidence(tables: dict[str, Any], flags: Overrides, origins: dict[Path, str]) -> None:
    kinds = ("acceptance_rate", "acceptance_length", "acceptance_per_position", "acceptance_file")
    given = [name for name in kinds if getattr(flags, name) is not None]
    if not given:
        return
    flag = flag_of(given[0])
    if len(given) > 1:
        raise InputError(
            f"contradicts {', '.join(flag_of(name) for name in given[1:])}; give one kind of acceptance", field=flag
        )
    speculating = [(i, table) for i, table in enumerate(_tables(tables)) if table.get("method") != "none"]
    if len(speculating) != 1:
        found = ", ".join(str(table.get("name") or table.get("method")) for _, table in speculating) or "none"
        raise InputError(
            f"is about one drafter, and there are {len(speculating)} ({found}); choose one with --drafter", field=flag
        )
    index, table = speculating[0]
    value = getattr(flags, given[0])
    kind = given[0].removeprefix("acceptance_")
    acceptance: dict[str, Any] = {kind: list(value) if isinstance(value, tuple) else value}
    if kind == "length":
        acceptance["at_k"] = _single_length(table.get("num_speculative_tokens"))
    tables.pop("acceptance", None)
    table["acceptance"] = acceptance
    origins[("drafter", index, "acceptance")] = flag
    origins[("drafter", "acceptance")] = flag


def _single_length(lengths: Any) -> int:
    positive = [lengths] if isinstance(lengths, int) else [k for k in lengths or () if k != 0]
    if len(positive) != 1:
        found = ", ".join(map(str, positive)) or "none"
        raise InputError(
            f"belongs to one draft length, and the scenario considers {found}; give --num-speculative-tokens K",
            field="--acceptance-length",
        )
    return int(positive[0])


def _tables(tables: Mapping[str, Any]) -> list[dict[str, Any]]:
    drafters = tables.get("drafter")
    return [t for t in (drafters if isinstance(drafters, list) else [drafters]) if isinstance(t, dict)]


def _get(tables: Mapping[str, Any], *path: str) -> Any:
    here: Any = tables
    for part in path:
        here = here.get(part) if isinstance(here, Mapping) else None
    return here


def whole_numbers(text: str, name: str) -> tuple[int, ...]:
    """``3``, ``0,1,2`` or ``1-8`` as numbers; InputError naming the flag otherwise."""
    found: list[int] = []
    for part in text.split(","):
        ends = part.strip().split("-") if not part.strip().startswith("-") else [part.strip()]
        try:
            first, last = int(ends[0]), int(ends[-1])
        except ValueError:
            raise InputError(f"{text!r} must be whole numbers, as 3 or 0,1,2,4 or 1-8", field=flag_of(name)) from None
        if len(ends) > 2 or last < first:
            raise InputError(f"{part.strip()!r} must be a range from low to high, as 1-8", field=flag_of(name))
        if last - first > 1000:
            raise InputError(f"{part.strip()!r} is more than 1000 numbers; list those you want", field=flag_of(name))
        found.extend(range(first, last + 1))
    return tuple(found)


def numbers(text: str, name: str) -> tuple[float, ...]:
    """``0.7,0.66`` as numbers; InputError naming the flag otherwise."""
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError:
        raise InputError(f"{text!r} must be numbers with commas between, as 0.70,0.66", field=flag_of(name)) from None


def whole_number(text: str, name: str) -> int:
    """One whole number; InputError naming the flag otherwise."""
    try:
        return int(text)
    except ValueError:
        raise InputError(f"{text!r} must be a whole number", field=flag_of(name)) from None


def number(text: str, name: str) -> float:
    """One number; InputError naming the flag otherwise."""
    try:
        return float(text)
    except ValueError:
        raise InputError(f"{text!r} must be a number", field=flag_of(name)) from None
