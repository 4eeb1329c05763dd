"""The scenario that planning and simulation read: checked sections, with every path resolved."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from specsim.scenario.drafters import Drafter
from specsim.scenario.fields import Section
from specsim.scenario.sections import DEFAULT_UTILIZATION, Network, Price, Serving, Shown, Simulation, Slo, Target
from specsim.scenario.traffic import Workload

SECTIONS: Mapping[str, type[Section]] = {
    "target": Target,
    "drafter": Drafter,
    "workload": Workload,
    "serving": Serving,
    "slo": Slo,
    "price": Price,
    "network": Network,
    "shown": Shown,
    "simulation": Simulation,
}
"""Tables of a scenario file by name; ``[acceptance]`` at the top belongs to the single drafter and moves into it, and
``[systems.NAME]`` holds numbers of a published system's own."""


@dataclass(frozen=True)
class Scenario:
    """One question: a target on its hardware, ways to draft, traffic, limits, and what it must hold.

    drafters: none at all, or only the method ``none``, is a question about plain decoding.
    workload, slo, price, network: None where not given; what needs them is left out, never invented. systems: numbers
    by system and name.
    """

    target: Target
    drafters: tuple[Drafter, ...]
    workload: Workload | None = None
    serving: Serving = field(default_factory=Serving)
    slo: Slo | None = None
    price: Price | None = None
    network: Network | None = None
    shown: Shown = field(default_factory=Shown)
    simulation: Simulation = field(default_factory=Simulation)
    systems: Mapping[str, Mapping[str, float | str]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain values with every default filled in; `Scenario.from_dict` of them is an equal scenario."""
        tables: dict[str, Any] = {"target": self.target.table(), "drafter": [d.table() for d in self.drafters]}
        for name in ("workload", "serving", "slo", "price", "network", "shown", "simulation"):
            section: Section | None = getattr(self, name)
            if section is not None and (table := section.table()):
                tables[name] = table
        if self.systems:
            tables["systems"] = {name: dict(numbers) for name, numbers in self.systems.items()}
        return tables

    def to_toml(self) -> str:
        """The same as a scenario file."""
        return _toml(self.to_dict())

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Scenario:
        """A scenario from plain values, checked as a file is; raises InputError with every mistake."""
        from specsim.scenario.loading import scenario_of

        return scenario_of(document)

    @property
    def assumed(self) -> tuple[str, ...]:
        """Fields that the scenario left to their default, as ``section.field = value``; a plan reports them."""
        lines = []
        for name in ("target", "serving", "simulation"):
            section: Section = getattr(self, name)
            for key in type(section).model_fields:
                value = getattr(section, key)
                if key not in section.model_fields_set and value is not None:
                    lines.append(f"{name}.{key} = {json.dumps(value)}")
        if self.serving.num_gpu_blocks is None and self.serving.gpu_memory_utilization is None:
            lines.append(f"serving.gpu_memory_utilization = {DEFAULT_UTILIZATION}")
        return tuple(lines)


def _toml(tables: Mapping[str, Any]) -> str:
    blocks = []
    for name, value in tables.items():
        many = isinstance(value, list)
        for table in value if many else [value]:
            header = f"[[{name}]]" if many else f"[{name}]"
            blocks.append("\n".join([header, *(f"{_key(key)} = {_inline(item)}" for key, item in table.items())]))
    return "\n\n".join(blocks) + "\n"


def _key(name: str) -> str:
    return name if re.fullmatch(r"[A-Za-z0-9_-]+", name) else _inline(name)


def _inline(value: Any) -> str:
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{_key(key)} = {_inline(item)}" for key, item in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(_inline(item) for item in value) + "]"
    if isinstance(value, float):
        return repr(value)
    # TOML knows JSON's escapes, but no surrogate pairs, and wants DEL escaped.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
