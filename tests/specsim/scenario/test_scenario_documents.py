"""The documentation of scenario files is the schema's own, and its examples are scenarios."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from specsim.scenario import Scenario
from specsim.scenario.fields import Section
from specsim.scenario.reference import TABLES, reference
from specsim.systems.catalogue import system

DOCS = Path(__file__).parents[3] / "docs"
PAGE = (DOCS / "scenario.md").read_text()


def test_the_page_holds_the_reference_that_the_schema_makes() -> None:
    assert PAGE.endswith(reference()), "run: python -m specsim.scenario.reference, and paste it under Every field"


@pytest.mark.parametrize("section", [section for _, section in TABLES], ids=lambda section: section.__name__)
def test_every_field_says_what_it_means(section: type[Section]) -> None:
    for name, info in section.model_fields.items():
        assert info.description, name


def test_the_first_example_is_a_scenario() -> None:
    block = re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL)[0]
    scenario = Scenario.from_dict(tomllib.loads(block))
    assert scenario.price is not None
    assert scenario.drafters[0].acceptance is not None


def test_every_table_of_a_file_is_in_the_reference() -> None:
    from specsim.scenario.scenario import SECTIONS

    assert {section for _, section in TABLES} >= set(SECTIONS.values())


def test_the_page_of_systems_names_what_a_scenario_must_give() -> None:
    """Each row of its table lists the numbers without a default, no more and no fewer."""
    text = (DOCS / "systems.md").read_text(encoding="utf-8")
    _, table = text.split("| `[systems.NAME]` must give |\n|---|---|---|\n")
    rows = [line.strip("| ").split(" | ") for line in table.split("\n\n")[0].splitlines()]
    assert len(rows) >= 9
    for names, _, given in rows:
        for name in names.split(", "):
            required = [p.name for p in system(name.strip("`")).inputs if p.default is None]
            assert re.findall(r"`(.+?)`", given) == required, name
