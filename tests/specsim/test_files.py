"""A file appears complete or not at all."""

from __future__ import annotations

import pytest

from specsim.errors import InputError
from specsim.files import file_to_write, folder_to_write, replace_file


def test_a_failed_write_changes_and_leaves_nothing(tmp_path):
    path = tmp_path / "table.csv"
    replace_file(path, lambda beside: beside.write_text("first"))

    def fails(beside):
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(InputError, match=r"table.csv: cannot be written: disk full"):
        replace_file(path, fails)
    assert path.read_text() == "first"
    assert list(tmp_path.iterdir()) == [path]


def test_the_old_file_stands_until_the_new_one_is_written(tmp_path):
    path = tmp_path / "table.csv"
    path.write_text("old")

    def write(beside):
        beside.write_text("new")
        assert path.read_text() == "old"

    replace_file(path, write)
    assert path.read_text() == "new"


def test_folders_on_the_way_are_made_and_refusals_are_the_users(tmp_path):
    replace_file(tmp_path / "a" / "b.csv", lambda beside: beside.write_text("x"))
    assert (tmp_path / "a" / "b.csv").read_text() == "x"
    with pytest.raises(InputError, match="cannot be written"):
        replace_file(tmp_path / "a" / "b.csv" / "c.csv", lambda beside: beside.write_text("x"))


def test_places_to_write_are_judged_before_the_work(tmp_path):
    (tmp_path / "file").write_text("x")
    assert folder_to_write(str(tmp_path / "new" / "er")) == tmp_path / "new" / "er"
    assert file_to_write(str(tmp_path / "new" / "er.json")) == tmp_path / "new" / "er.json"
    for refuse, place in (
        (file_to_write, tmp_path),
        (file_to_write, tmp_path / "file" / "a.json"),
        (folder_to_write, tmp_path / "file"),
        (folder_to_write, tmp_path / "file" / "a"),
    ):
        with pytest.raises(InputError, match=r"--out: .* is a (file|directory); give a (file|directory)"):
            refuse(str(place))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file"]
