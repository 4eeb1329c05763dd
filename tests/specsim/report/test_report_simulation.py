"""A simulation as text: what the replica was given comes first, and numbers stay whole."""

from __future__ import annotations

from typing import Any

import pytest

from specsim.report.layout import console
from specsim.report.numbers import stacked, written
from specsim.report.simulation import LATENCIES, print_summary


def a_summary(milliseconds: float, **changes: Any) -> dict[str, Any]:
    one = {"value": milliseconds / 1e3, "low": 0.98 * milliseconds / 1e3, "high": 1.02 * milliseconds / 1e3}
    statistics = dict.fromkeys(("mean", "p50", "p90", "p95", "p99"), one)
    figures = {"requests": 100, "runs": 5, "warm_up_requests": [5], "cool_down_requests": [0], "method": "t"}
    return dict.fromkeys(LATENCIES, statistics) | figures | {"notes": [], "warnings": [], "load_grows": False} | changes


def printed(capsys: pytest.CaptureFixture[str], summary: dict[str, Any], **changes: Any) -> str:
    console.cache_clear()
    given: dict[str, Any] = {"title": "m", "load": "One replica.", "slo_holds": None, "files": [], "assumed": []}
    print_summary(summary, **{**given, "notes": [], **changes})
    return capsys.readouterr().out


@pytest.mark.parametrize("milliseconds", [0.5, 27.3, 999.0, 34_500.0, 654_321.0, 979_000.0, 2_440_000.0, 87_654_321.0])
def test_an_interval_is_never_cut_within_a_number(capsys: pytest.CaptureFixture[str], milliseconds: float) -> None:
    out = printed(capsys, a_summary(milliseconds))
    assert max(map(len, out.splitlines())) <= 100
    unit = 1e3 if "users feel? (s)" in out else 1.0
    low, high = (float(end.replace(",", "")) for end in _first_interval(out))
    assert low * unit == pytest.approx(0.98 * milliseconds, rel=0.01)
    assert high * unit == pytest.approx(1.02 * milliseconds, rel=0.01)
    assert out.count("-".join(_first_interval(out))) == 5 * len(LATENCIES)


def _first_interval(out: str) -> list[str]:
    words = [line.split() for line in out.splitlines()]
    return next(w for w in words if len(w) == 5 and "-" in w[0])[0].split("-")


def test_what_must_be_known_comes_before_the_latencies(capsys: pytest.CaptureFixture[str]) -> None:
    out = printed(capsys, a_summary(10.0, warnings=["Requests pile up."], load_grows=True), slo_holds=True)
    assert out.splitlines()[:3] == ["m", "One replica.", "Requests pile up."]
    assert "Every limit" not in out
    assert printed(capsys, a_summary(10.0), slo_holds=True).splitlines()[2] == "Every limit of the SLO holds."
    assert "SLO" not in printed(capsys, a_summary(10.0), slo_holds=None)


def test_an_interval_whose_ends_read_the_same_shows_its_width_and_one_without_width_none() -> None:
    narrow = {"value": 4710.0, "low": 4708.0, "high": 4712.0}
    assert written(narrow, "ms") == "4,710 (±2) ms"
    assert stacked(narrow).plain == "4,710\n±2"
    assert stacked({"value": 4710.0, "low": 4690.0, "high": 4730.0}).plain == "4,710\n4,690-4,730"
    for width in (0.0, 1e-9):  # one run, or one outcome in all
        assert stacked({"value": 4710.0, "low": 4710.0 - width, "high": 4710.0 + width}).plain == "4,710"
