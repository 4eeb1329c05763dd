"""A measured profile from its file, whatever engine and precision it is for."""

from __future__ import annotations

from pathlib import Path

from specsim.cost.profile import Profile, read_profile
from specsim.errors import InputError


def read_measured(path: str) -> Profile:
    """The profile in a file; InputError where it can't be read or is no profile."""
    try:
        content = Path(path).read_bytes()
    except OSError as error:
        raise InputError(f"cannot read a profile: {error.strerror or error}", file=path) from error
    return read_profile(content, file=path)
