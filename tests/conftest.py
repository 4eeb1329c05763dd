"""Shared fixtures: the measured data, where it is present."""

from __future__ import annotations

from pathlib import Path

import pytest

from specsim.errors import InputError
from studies.measured_data import data_dir


@pytest.fixture(scope="session")
def shared_data() -> Path:
    try:
        return data_dir()
    except InputError as absent:
        pytest.skip(f"the measured data is absent: {absent}")
