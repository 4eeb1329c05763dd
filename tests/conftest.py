"""Shared fixtures: the measured data, where it is present."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from specsim.errors import InputError
from studies.measured_data import data_dir

os.environ.setdefault("OMP_NUM_THREADS", "1")  # tests run on every core already; PyTorch's threads would fight for them


@pytest.fixture(scope="session")
def shared_data() -> Path:
    try:
        return data_dir()
    except InputError as absent:
        pytest.skip(f"the measured data is absent: {absent}")
