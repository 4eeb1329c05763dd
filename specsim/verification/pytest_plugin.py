"""pytest plugin: the fixture ``spec_oracle`` and the options ``--spec-alpha`` and ``--spec-detect-tv``."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from specsim.verification.chains import ChainRule
    from specsim.verification.verdict import Verdict


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the oracle's budget to pytest's options."""
    group = parser.getgroup("specsim", "verification of speculative samplers")
    group.addoption(
        "--spec-alpha", type=_share, default=1e-9, metavar="P", help="false alarm of one spec_oracle check (1e-9)"
    )
    group.addoption(
        "--spec-detect-tv", type=_share, default=0.01, metavar="TV", help="total variation to be detected (0.01)"
    )


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0.0 < value < 1.0:
        raise argparse.ArgumentTypeError(f"{text!r}: give a number between 0 and 1")
    return value


@dataclass(frozen=True)
class SpecOracle:
    """The oracle with the session's budget; methods take ``check_sampler``'s arguments."""

    alpha: float
    detect_tv: float

    def check(
        self, sampler: Callable[..., Any], algorithm: str | ChainRule | None = "token", **arguments: Any
    ) -> Verdict:
        """Judge without failing."""
        from specsim.verification.oracle import check_sampler

        return check_sampler(sampler, algorithm, **self._budget(arguments))

    def assert_lossless(self, sampler: Callable[..., Any], **arguments: Any) -> Verdict:
        """Fail unless the completed text has the target's law."""
        from specsim.verification.oracle import assert_lossless

        __tracebackhide__ = True
        return assert_lossless(sampler, **self._budget(arguments))

    def assert_law(self, sampler: Callable[..., Any], algorithm: str | ChainRule, **arguments: Any) -> Verdict:
        """Fail unless counts and tokens have the rule's joint law."""
        from specsim.verification.oracle import assert_law

        __tracebackhide__ = True
        return assert_law(sampler, algorithm, **self._budget(arguments))

    def _budget(self, arguments: dict[str, Any]) -> dict[str, Any]:
        return {"alpha": self.alpha, "detect_tv": self.detect_tv, **arguments}


@pytest.fixture(scope="session")
def spec_oracle(request: pytest.FixtureRequest) -> SpecOracle:
    """The oracle with the budget of ``--spec-alpha`` and ``--spec-detect-tv``."""
    return SpecOracle(request.config.getoption("--spec-alpha"), request.config.getoption("--spec-detect-tv"))
