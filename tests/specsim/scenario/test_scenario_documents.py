"""The documentation of scenario files is the schema's own, and its examples are scenarios."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from specsim.scenario import Scenario
from specsim.scenario.fields import Section
from specsim.scenario.reference import TABLES, reference

PAGE = (Path(__file__).parents[3] / "docs" / "scenario.md").read_text()


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
