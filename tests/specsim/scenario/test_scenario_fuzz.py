"""Whatever stands in a scenario, it is a scenario or a list of one-line mistakes; nothing else escapes."""

from __future__ import annotations

import copy
import math
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.scenario import Scenario

GOOD = tomllib.loads((Path(__file__).parent / "good.toml").read_text())
KEYS = [
    "kind",
    "rate",
    "model",
    "method",
    "mean",
    "tokens",
    "levels",
    "file",
    "acceptance",
    "length",
    "at_k",
    "x.y",
    "",
]

scalars = st.one_of(
    st.integers(-3, 10**7),
    st.floats(allow_nan=True, allow_infinity=True),
    st.booleans(),
    st.sampled_from(["", "x", "vllm", "ngram", "none", "trace", "h100_sxm", "no.json", "[red]", "{", "\n"]),
)
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=3),
    max_leaves=5,
)


def places(table: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    items = table.items() if isinstance(table, dict) else enumerate(table) if isinstance(table, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


changes = st.lists(
    st.tuples(
        st.sampled_from(list(places(GOOD))), st.sampled_from(["set", "drop", "add"]), st.sampled_from(KEYS), values
    ),
    min_size=1,
    max_size=3,
)


def changed(document: dict[str, Any], edits: list[tuple[tuple[Any, ...], str, str, Any]]) -> dict[str, Any]:
    made = copy.deepcopy(document)
    for path, how, key, value in edits:
        here: Any = made
        try:
            for part in path[:-1]:
                here = here[part]
            if how == "set":
                here[path[-1]] = value
            elif how == "drop":
                del here[path[-1]]
            elif isinstance(here[path[-1]], dict):
                here[path[-1]][key] = value
        except (KeyError, IndexError, TypeError):
            continue  # an earlier edit took the place away
    return made


def read(document: dict[str, Any]) -> tuple[Scenario | None, tuple[str, ...]]:
    try:
        return Scenario.from_dict(document), ()
    except InputError as error:
        return None, error.lines


@pytest.mark.slow
@given(edits=changes)
@settings(max_examples=150, deadline=None)
def test_a_document_is_a_scenario_or_a_list_of_mistakes(edits: list[tuple[tuple[Any, ...], str, str, Any]]) -> None:
    scenario, lines = read(changed(GOOD, edits))
    assert (scenario is None) == bool(lines)
    assert len(set(lines)) == len(lines)
    assert all(line and "\n" not in line for line in lines)
    if scenario is not None:
        assert Scenario.from_dict(scenario.to_dict()) == scenario
        assert Scenario.from_dict(tomllib.loads(scenario.to_toml())) == scenario
        assert all(math.isfinite(limit) for _, _, limit in (scenario.slo.limits if scenario.slo else ()))
