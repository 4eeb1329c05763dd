"""The repository itself: import budget, public names, what the wheel carries, what the documents promise."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "pandas", "pyarrow", "matplotlib", "scipy.stats", "scipy.optimize")


def loaded_after(code: str) -> set[str]:
    out = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys; print(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(out.stdout.split())


@pytest.mark.parametrize("code", ["import specsim", "import specsim.cli"])
def test_importing_pulls_in_nothing_heavy(code: str) -> None:
    assert not loaded_after(code).intersection(HEAVY)


def test_torch_is_never_imported_at_module_level_in_the_package() -> None:
    offenders = [
        path
        for path in (ROOT / "specsim").rglob("*.py")
        if re.search(r"^(import|from) torch\b", path.read_text(), re.MULTILINE)
    ]
    assert offenders == []


def test_the_version_is_written_once() -> None:
    import specsim

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project.get("version", specsim.__version__) == specsim.__version__


def test_public_quantities_carry_a_unit() -> None:
    """A parameter named after a physical quantity says its unit: ``latency_s``, never ``latency``."""
    bare = re.compile(
        r"^\s+(latency|duration|bandwidth|memory|timeout|delay)\s*:\s*(float|int|ArrayLike)", re.MULTILINE
    )
    offenders = {
        f"{path.relative_to(ROOT)}: {match.group(1)}"
        for path in (ROOT / "specsim").rglob("*.py")
        for match in bare.finditer(path.read_text())
    }
    assert offenders == set()


def test_shipped_profiles_stay_small() -> None:
    profiles = list((ROOT / "specsim" / "cost" / "profiles").glob("*.json"))
    assert profiles
    for path in profiles:
        assert path.stat().st_size < 500_000, path.name


def test_the_change_log_names_the_version() -> None:
    import specsim

    assert specsim.__version__ in (ROOT / "CHANGELOG.md").read_text()
