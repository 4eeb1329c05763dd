"""Where the measured data for studies and data tests lies."""

from __future__ import annotations

import os
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
