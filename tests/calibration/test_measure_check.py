from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")

from small_model import written

import calibration.measure.device
from calibration.live.price import PARTS, EnginePass, priced_round, round_parts
from calibration.measure.check import Case, Checked, check
from calibration.measure.command import calibrate
from calibration.measure.points import TINY
from calibration.measure.reading import read_measured
from specsim.cli import main
from specsim.cost.model import load_model
from specsim.cost.profile import Profile
from specsim.errors import InputError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check")
    model = written(folder)
    calibrate(folder / "my.json", minutes=0.5, device="cpu", models=[model], threads=1, clock="processor", grid=TINY)
    return folder


@pytest.fixture(scope="module")
def profile(folder: Path) -> Profile:
    return read_measured(str(folder / "my.json"))


def case(error: dict[str, float], *, spread: float = 0.01, k: int = 2) -> Case:
    measured = dict.fromkeys(PARTS, 1e-3)
    return Case(1, k, 100, {p: 1e-3 * (1.0 + error.get(p, 0.0)) for p in PARTS}, measured, spread, 1.0 + 0.7 * k)


def test_the_verdict_names_the_part_that_explains_most() -> None:
    for part in PARTS:
        checked = Checked(
            "t", "d", (case({part: -0.9, "host": 0.2 if part != "host" else -0.9}, k=0), case({part: -0.9}))
        )
        assert f"most of it is {part}" in checked.verdict
        assert "too short" in checked.verdict
    assert "too long" in Checked("t", "d", (case({"draft": 0.9}),)).verdict


def test_an_error_within_the_spread_of_repeats_holds() -> None:
    assert Checked("t", "d", (case({"verify": 0.2}),)).verdict.startswith("the profile holds")
    assert Checked("t", "d", (case({"verify": 0.5}, spread=0.15),)).verdict.startswith("the profile holds")
    assert Checked("t", "d", (case({"verify": 1.0}, spread=0.3),)).verdict.startswith("nothing can be told")
    assert not Checked("t", "d", (case({"verify": 1.0}),)).verdict.startswith("the profile holds")


def test_speedup_is_tokens_over_time_against_plain_decoding() -> None:
    plain, two = case({}, k=0), case({"draft": 1.0})
    checked = Checked("t", "d", (plain, two))
    assert checked.speedup(two, "measured_s") == pytest.approx(2.4)
    assert checked.speedup(two, "predicted_s") == pytest.approx(2.4 * 5.0 / 6.0)
    assert checked.speedup(plain, "measured_s") == 1.0


@pytest.mark.slow
def test_a_round_costs_more_with_every_drafted_token(profile: Profile, folder: Path) -> None:
    assert profile.host is not None
    shape = load_model(str(folder / "config.json"))
    target, draft = (EnginePass(profile, profile.host, x) for x in (shape, replace(shape, layers=1)))
    rounds = [round_parts(priced_round(target, draft, k), 2, 100.0) for k in range(5)]
    totals = [sum(parts.values()) for parts in rounds]
    assert totals == sorted(totals)
    assert rounds[0]["draft"] == 0.0
    assert all(set(parts) == set(PARTS) for parts in rounds)
    assert all(value >= 0.0 for parts in rounds for value in parts.values())


@pytest.mark.slow
def test_a_check_runs_the_live_loop_beside_the_prediction(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model, mine = str(folder / "config.json"), str(folder / "my.json")
    arguments = [
        "--model",
        model,
        "--batch",
        "1,2",
        "--num-speculative-tokens",
        "2",
        "--context",
        "64",
        "--rounds",
        "3",
    ]
    assert main(["calibrate", "check", mine, "--device", "cpu", *arguments]) == 0
    said = capsys.readouterr().out
    assert "predicted" in said
    assert "measured" in said
    assert any(text in said for text in ("the profile holds", "most of it is", "nothing can be told"))
    checked = check(
        read_measured(mine),
        file=mine,
        target=model,
        batches=(2,),
        ks=(0, 1),
        context=32,
        rounds=2,
        repeats=2,
        device="cpu",
    )
    assert [(c.batch, c.k) for c in checked.cases] == [(2, 0), (2, 1)]
    assert all(sum(c.measured_s.values()) > 0.0 and sum(c.predicted_s.values()) > 0.0 for c in checked.cases)


@pytest.mark.slow
def test_a_profile_of_another_machine_or_kind_is_one_line(
    profile: Profile, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="no host to check"):
        check(replace(profile, host=None), file="my.json")
    with pytest.raises(InputError, match=r"--model: the profile's model '.*' does not ship; give --model PATH"):
        check(profile, file="my.json", device="cpu")
    monkeypatch.setattr(calibration.measure.device, "_processor", lambda: "another processor")
    with pytest.raises(InputError, match=r"my\.json: was measured on .*, and this is another processor"):
        check(profile, file="my.json", device="cpu")
    assert main(["calibrate", "check", str(folder / "absent.json")]) == 2
    assert "cannot read a profile" in capsys.readouterr().err


def test_the_command_says_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["calibrate"]) == 2
    assert "--out: is missing" in capsys.readouterr().err

    def without_torch(name: str, *rest: object) -> object:
        if name == "torch" or name.startswith("torch."):
            raise ImportError(name)
        return imported(name, *rest)

    import builtins

    imported = builtins.__import__
    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert main(["calibrate", "--out", str(tmp_path / "my.json")]) == 2
    error = capsys.readouterr().err
    assert error == "error: calibration needs PyTorch: pip install 'llm-specsim[calibrate]'\n"
