"""A file appears complete or not at all."""

from __future__ import annotations

import pytest

from specsim.files import replace_file


def test_a_failed_write_changes_and_leaves_nothing(tmp_path):
    path = tmp_path / "table.csv"
    replace_file(path, lambda beside: beside.write_text("first"))

    def fails(beside):
        beside.write_text("half")
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
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
