"""``[systems.NAME]``: numbers and words of a published system's own, checked against what that system takes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from specsim.scenario.messages import nearest, shown

Path = tuple[str | int, ...]
Numbers = dict[str, dict[str, float | str]]


def system_numbers(tables: Any) -> tuple[Numbers, list[tuple[Path, str]]]:
    """The numbers by system and name, and every mistake as where it is and what would be right."""
    if not isinstance(tables, Mapping):
        return {}, [(("systems",), f"{shown(tables)} must hold tables: [systems.NAME]")]
    problems: list[tuple[Path, str]] = []
    read: Numbers = {}
    for name, table in tables.items():
        found = list(_problems(name, table))
        problems += found
        if not found:
            read[name] = {key: value if isinstance(value, str) else float(value) for key, value in table.items()}
    return read, problems


def _problems(name: str, table: Any) -> Iterator[tuple[Path, str]]:
    from specsim.systems.catalogue import SYSTEMS

    where = ("systems", name)
    known = {one.name: one for one in SYSTEMS}
    if name not in known:
        near = nearest(name, tuple(known))
        yield where, f"no such system; {f'did you mean {near}?' if near else 'specsim systems lists them'}"
        return
    if not isinstance(table, Mapping):
        yield where, f"{shown(table)} must be a table: [systems.{name}]"
        return
    words = {choice.name: choice.options for choice in known[name].choices}
    takes = (*(parameter.name for parameter in known[name].inputs), *words)
    for key, value in table.items():
        if key not in takes:
            near = nearest(key, takes)
            hint = f"did you mean {near}?" if near else f"{name} takes {', '.join(takes) or 'none'}"
            yield (*where, key), f"{shown(value)}: unknown key; {hint}"
        elif key in words:
            if value not in words[key]:
                yield (*where, key), f"{shown(value)}; give one of {', '.join(words[key])}"
        elif isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            yield (*where, key), f"{shown(value)} is not a number"
