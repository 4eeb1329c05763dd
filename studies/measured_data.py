"""Where the measured data for studies and data tests lies."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

from specsim.errors import InputError


def data_dir() -> Path:
    """The directory named by SPECSIM_DATA, else ``../shared/data`` beside the repository.

    Raises InputError where there is none: the data is not part of the package.
    """
    named = os.environ.get("SPECSIM_DATA")
    path = Path(named) if named else Path(__file__).resolve().parents[2] / "shared" / "data"
    if not path.is_dir():
        raise InputError(f"measured data not found at {path}; set SPECSIM_DATA to the directory that holds it")
    return path


def run_study(main: Callable[[], int | None]) -> None:
    """Run a study's ``main`` as a program: what it lacks is one line and exit status 2."""
    try:
        sys.exit(main() or 0)
    except InputError as missing:
        for line in missing.lines:
            print(f"error: {line}", file=sys.stderr)
        sys.exit(2)
