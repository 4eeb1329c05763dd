"""The reference of scenario files, made from the schema: ``python -m specsim.scenario.reference`` prints it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from specsim.scenario.drafters import Acceptance, Drafter
from specsim.scenario.fields import Section
from specsim.scenario.sections import Network, Price, Serving, Shown, Simulation, Slo, Target
from specsim.scenario.traffic import (
    ClosedArrivals,
    FixedTokens,
    GammaArrivals,
    LognormalTokens,
    PoissonArrivals,
    QuantileTokens,
    TraceArrivals,
    Workload,
)

TABLES: tuple[tuple[str, type[Section]], ...] = (
    ("`[target]`", Target),
    ("`[drafter]` or `[[drafter]]`", Drafter),
    ("`[acceptance]`, or `acceptance = { ... }` in a drafter", Acceptance),
    ("`[workload]`", Workload),
    ('`arrivals = { kind = "poisson", ... }`', PoissonArrivals),
    ('`arrivals = { kind = "gamma", ... }`', GammaArrivals),
    ('`arrivals = { kind = "trace", ... }`', TraceArrivals),
    ('`arrivals = { kind = "closed", ... }`', ClosedArrivals),
    ('`prompt_tokens` or `output_tokens = { kind = "fixed", ... }`', FixedTokens),
    ('`prompt_tokens` or `output_tokens = { kind = "lognormal", ... }`', LognormalTokens),
    ('`prompt_tokens` or `output_tokens = { kind = "quantiles", ... }`', QuantileTokens),
    ("`[serving]`", Serving),
    ("`[slo]`", Slo),
    ("`[price]`", Price),
    ("`[network]`", Network),
    ("`[shown]`", Shown),
    ("`[simulation]`", Simulation),
)


def reference() -> str:
    """Every table of a scenario file as Markdown: field, what it may be, default, meaning."""
    blocks = []
    for title, section in TABLES:
        lines = [f"### {title}", "", (section.__doc__ or "").strip().splitlines()[0], ""]
        lines += ["| field | value | default | meaning |", "|---|---|---|---|"]
        lines += [f"| {' | '.join(cells)} |" for cells in _rows(section)]
        blocks.append("\n".join(lines))
    return "\n\n".join((*blocks, _systems())) + "\n"


def _systems() -> str:
    """What the published systems take, one table for all."""
    from specsim.systems.catalogue import SYSTEMS

    lines = ["### `[systems.NAME]`", "", "Numbers of a published system's own, for `specsim compare`.", ""]
    lines += ["| field | default | meaning | default from |", "|---|---|---|---|"]
    for one in SYSTEMS:
        for p in one.inputs:
            default = "required" if p.default is None else f"`{p.default:g}`"
            lines.append(f"| `[systems.{one.key}]` `{p.name}` | {default} | {p.meaning} | {p.source} |")
        for c in one.choices:
            words = ", ".join(f'`"{option}"`' for option in c.options)
            lines.append(f"| `[systems.{one.key}]` `{c.name}`: {words} | the first | {c.meaning} | {c.source} |")
    return "\n".join(lines)


def _rows(section: type[Section]) -> Iterator[tuple[str, str, str, str]]:
    schema = section.model_json_schema()
    for name, info in section.model_fields.items():
        if name == "kind":
            continue
        value = _value(schema["properties"][name], schema.get("$defs", {}))
        default = "required" if info.is_required() else "-" if info.default is None else f"`{json.dumps(info.default)}`"
        yield f"`{name}`", value, default, str(info.description).replace("|", "\\|")


def _value(schema: dict[str, Any], definitions: dict[str, Any]) -> str:
    """What a field may hold, in words."""
    options = [one for one in schema.get("anyOf", [schema]) if one.get("type") != "null"]
    one = options[0]
    if "oneOf" in one or "$ref" in one or len(options) > 1:
        return "table"
    if "enum" in one:
        return ", ".join(f"`{json.dumps(choice)}`" for choice in one["enum"])
    if one.get("type") == "array":
        return f"list, each {_value(one['items'], definitions)}"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    return words[one["type"]] + _range(one)


def _range(schema: dict[str, Any]) -> str:
    low, high = schema.get("minimum"), schema.get("maximum")
    above, below = schema.get("exclusiveMinimum"), schema.get("exclusiveMaximum")
    parts = [
        f">= {low:,}" if low is not None else f"> {above:,}" if above is not None else "",
        f"<= {high:,}" if high is not None else f"< {below:,}" if below is not None else "",
    ]
    stated = " and ".join(part for part in parts if part)
    return f" {stated}" if stated else ""


if __name__ == "__main__":
    print(reference(), end="")
