"""The command, called in this process or in one of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from specsim import cli

GOOD = (Path(__file__).parents[1] / "scenario" / "good.toml").read_text()
SMALL = (
    GOOD.replace("num_speculative_tokens = [0, 1, 2, 3]", "num_speculative_tokens = 3")
    .replace("mean = 1024, cv = 1.0", "mean = 64, cv = 0.2")
    .replace("tokens = 256", "tokens = 16")
    + "\n[simulation]\nrequests = 20\nreplications = 5\n"
)


def specsim_process(*arguments: str, **named: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "specsim", *arguments], capture_output=True, text=True, timeout=120, **named
    )  # type: ignore[call-overload,no-any-return]


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    from specsim.report.layout import console

    console.cache_clear()
    status = cli.main(arguments)
    out, err = capsys.readouterr()
    return status, out, err
