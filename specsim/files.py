"""Files that appear complete or not at all, and the places that a user names for them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from specsim.errors import InputError


def replace_file(path: Path, write: Callable[[Path], object]) -> None:
    """Have ``write`` make a file beside ``path`` and give it that name; where it fails nothing is changed or left.

    Folders on the way are made. InputError where the file system refuses.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            write(beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turn what the file system refuses meanwhile into an InputError that names ``path``."""
    try:
        yield
    except OSError as error:
        raise InputError(f"cannot be written: {error.strerror or error}", file=str(path)) from error


def file_to_write(out: str) -> Path:
    """The file that ``--out`` names; InputError where it is a folder or a part of its path is a file."""
    path = Path(out)
    if path.is_dir():
        raise InputError(f"{out!r} is a directory; give a file", field="--out")
    _may_be_made(path.parent, out)
    return path


def folder_to_write(out: str) -> Path:
    """The folder that ``--out`` names; InputError where a part of its path is a file or nothing can be made in it."""
    _may_be_made(Path(out), out)
    return Path(out)


def _may_be_made(folder: Path, out: str) -> None:
    """Looked at before long work; what only shows when the file is made is an InputError then."""
    there = next(one for one in (folder, *folder.absolute().parents) if os.path.lexists(one))
    if not there.is_dir():
        what = repr(out) if there == Path(out) else f"{out!r}: {str(there)!r}"
        raise InputError(f"{what} is a file; give a directory", field="--out")
    if not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{out!r} cannot be written: no permission in {str(there)!r}", field="--out")
