"""What the list of systems promises, and that the committed pages are what the command writes."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest

from specsim.cli import main
from specsim.commands.systems import run
from specsim.systems.catalogue import SYSTEMS, system

PAGES = Path(__file__).parents[3] / "studies" / "papers"
NAMES = [one.name for one in SYSTEMS]


@pytest.mark.parametrize("name", NAMES)
def test_parameters_are_those_of_the_simulation(name):
    one = system(name)
    taken = inspect.signature(one.simulate).parameters if one.simulate else {}
    for parameter in one.parameters:
        assert parameter.default == taken[parameter.name].default, parameter.name
    assert one.simulate or one.compose
    assert one.assumptions
    assert one.pipeline
    assert one.rule


def test_the_list_and_its_pages(capsys):
    assert main(["systems"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in NAMES)
    for name in NAMES:
        assert main(["systems", "show", name]) == 0
    assert main(["systems", "--json"]) == 0


def test_an_unknown_system_is_named_with_the_nearest(capsys):
    assert main(["systems", "show", "leviatan"]) == 2
    assert "did you mean 'leviathan'" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", [one.name for one in SYSTEMS if one.study])
def test_the_committed_page_is_what_the_command_writes(name):
    made = run(name)
    assert made.missed == ()
    assert (PAGES / f"{name}.md").read_text(encoding="utf-8") == made.markdown()


def test_every_study_belongs_to_one_system_and_the_others_say_that_there_is_none(capsys):
    modules = {path.stem for path in PAGES.glob("*.py")} - {"__init__"}
    assert sorted(one.study for one in SYSTEMS if one.study) == sorted(modules)
    assert main(["reproduce", "eagle"]) == 2
    assert "no published table with its inputs is known" in capsys.readouterr().err


def test_reproduce_writes_pages(tmp_path, capsys):
    assert main(["reproduce", "leviathan", "--out", str(tmp_path / "new")]) == 0
    written = (tmp_path / "new" / "leviathan.md").read_text(encoding="utf-8")
    assert written.startswith("# leviathan")
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["leviathan.md"]
    assert main(["reproduce", "leviathan", "--out", str(tmp_path / "new" / "leviathan.md")]) == 2
    capsys.readouterr()
