"""The command from outside: exit codes, one-line errors, pipes, terminals, and what is imported when."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

import specsim
from specsim import cli
from specsim.errors import InputError

GOOD = (Path(__file__).parents[1] / "scenario" / "good.toml").read_text()
SMALL = (
    GOOD.replace("num_speculative_tokens = [0, 1, 2, 3]", "num_speculative_tokens = 3")
    .replace("mean = 1024, cv = 1.0", "mean = 64, cv = 0.2")
    .replace("tokens = 256", "tokens = 16")
    + "\n[simulation]\nrequests = 20\nreplications = 5\n"
)
HEAVY = {"torch", "pandas", "pyarrow", "matplotlib", "scipy", "numpy", "simpy"}


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


def test_version_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, "--version") == (0, f"specsim {specsim.__version__}\n", "")


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["--version"]])
def test_help_imports_nothing_heavy(arguments: list[str]) -> None:
    code = f"import sys; from specsim.cli import main; main({arguments}); print(*sys.modules, file=sys.stderr)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60)
    assert not HEAVY.intersection(done.stderr.split())
    assert "specsim" in done.stdout


@pytest.mark.parametrize("command", ["plan", "simulate", "acceptance", "models", "hardware"])
def test_every_command_has_help(capsys: pytest.CaptureFixture[str], command: str) -> None:
    status, out, err = run(capsys, command, "--help")
    assert (status, err) == (0, "")
    assert f"specsim {command}" in out


MISTAKES = {
    "unknown option": (["plan", "--foo"], "--foo"),
    "unknown command": (["plann"], "plann"),
    "no whole number": (["plan", "--tensor-parallel", "two"], "--tensor-parallel: 'two' must be a whole number"),
    "no number": (["plan", "--request-rate", "4/s"], "--request-rate: '4/s' must be a number"),
    "no value": (["plan", "--target"], "--target"),
    "no list": (["plan", "--num-speculative-tokens", "a"], "--num-speculative-tokens: 'a' must be whole numbers"),
    "no rates": (["plan", "--acceptance-per-position", "a"], "--acceptance-per-position: 'a' must be numbers"),
    "two kinds": (["plan", "--acceptance-rate", "0.7", "--acceptance-length", "2"], "contradicts --acceptance-length"),
    "rate as percent": (["plan", "--drafter", "eagle3", "--acceptance-rate", "70"], "did you mean 0.7?"),
    "no file": (["plan", "no.toml"], "no.toml: no such file"),
    "a directory": (["plan", "."], ".: is a directory"),
    "fp8 on an A100": (["plan", "--hardware", "a100_sxm", "--dtype", "fp8"], "--dtype"),
    "unknown GPU": (["plan", "--hardware", "h100"], "--hardware: no GPU 'h100'; did you mean 'h100_sxm'?"),
    "nan": (["plan", "--request-rate", "nan"], "--request-rate: nan must be a finite number"),
    "negative": (["plan", "--request-rate", "-1"], "--request-rate: -1.0 must be above 0"),
    "nothing to draft": (["plan", "--drafter", "eagle3", "--num-speculative-tokens", "0"], "0 alone leaves eagle3"),
    "no directory": (["simulate"], "--out: is missing"),
    "two drafters": (["simulate", "--out", "x"], "choose one with --drafter"),
    "several lengths": (["simulate", "--out", "x", "--drafter", "ngram"], "choose it with --num-speculative-tokens"),
    "no metrics": (["acceptance", "no.txt"], "no.txt"),
    "nothing to read": (["acceptance"], "FILE"),
}


@pytest.mark.parametrize(("arguments", "expected"), MISTAKES.values(), ids=MISTAKES.keys())
def test_a_mistake_is_one_line_on_stderr_and_exit_code_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    status, out, err = run(capsys, *arguments)
    assert (status, out) == (2, "")
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert expected in err


def test_several_mistakes_are_several_lines(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    file = tmp_path / "my.toml"
    file.write_text(GOOD.replace("256", "-1").replace("0.9", "90"))
    status, out, err = run(capsys, "plan", str(file))
    assert (status, out) == (2, "")
    lines = err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith(f"error: {file}: ") for line in lines)


def test_a_mistake_in_a_real_process_has_no_traceback() -> None:
    done = specsim_process("plan", "no.toml")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1


def test_a_bug_says_that_it_is_one(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(**_: object) -> None:
        raise ZeroDivisionError("division\nby zero")

    monkeypatch.setattr("specsim.commands.lists.models", broken)
    monkeypatch.delenv("SPECSIM_DEBUG", raising=False)
    status, _, err = run(capsys, "models")
    assert status == 1
    assert err.startswith("internal error: ZeroDivisionError: division by zero (a bug in specsim")
    assert err.count("\n") == 1
    monkeypatch.setenv("SPECSIM_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        cli.main(["models"])


def test_an_interrupt_is_one_line_and_130(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(**_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("specsim.commands.lists.models", interrupted)
    status, out, err = run(capsys, "models")
    assert (status, out) == (130, "")
    assert err == "interrupted; nothing half-written was left\n"


def test_an_interrupted_simulation_leaves_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    (tmp_path / "my.toml").write_text(SMALL)
    monkeypatch.setattr("specsim.simulation.record._write_json", interrupted)
    status, _, _ = run(capsys, "simulate", str(tmp_path / "my.toml"), "--out", str(tmp_path / "out"))
    assert status == 130
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]


def test_a_reader_that_leaves_early_is_no_error() -> None:
    read, write = os.pipe()
    os.close(read)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "specsim", "models"], stdout=write, stderr=subprocess.PIPE, text=True, timeout=60
        )
    finally:
        os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


def on_a_terminal(*arguments: str) -> str:
    main, side = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(
        [sys.executable, "-m", "specsim", *arguments], stdout=side, stderr=side, stdin=side, env=environment
    )
    os.close(side)
    out = b""
    while True:
        try:
            chunk = os.read(main, 65536)
        except OSError:  # Linux reports the other end's close so
            break
        if not chunk:
            break
        out += chunk
    os.close(main)
    assert process.wait(60) == 0
    return out.decode()


def test_a_terminal_gets_style_and_a_pipe_gets_plain_text() -> None:
    assert "\x1b[" in on_a_terminal("models")
    piped = specsim_process("models").stdout
    assert "\x1b" not in piped
    assert max(map(len, piped.splitlines())) <= 100


def test_simulate_shows_a_bar_on_a_terminal_and_none_in_a_pipe(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(SMALL)
    arguments = ("simulate", str(tmp_path / "my.toml"), "--out", str(tmp_path / "out"))
    assert "simulating" in on_a_terminal(*arguments)
    done = specsim_process(*arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert "simulating" not in done.stdout


def test_simulate_writes_requests_summary_scenario_and_provenance(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    from specsim.scenario import load_scenario

    (tmp_path / "my.toml").write_text(SMALL)
    status, out, err = run(capsys, "simulate", str(tmp_path / "my.toml"), "--out", str(tmp_path / "out"), "--json")
    assert (status, err) == (0, "")
    summary = json.loads(out)
    assert summary["runs"] == 5
    assert summary["ttft_s"]["p99"]["low"] <= summary["ttft_s"]["p99"]["value"] <= summary["ttft_s"]["p99"]["high"]
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    rows = pq.read_table(tmp_path / "out" / "requests.parquet")
    assert rows.num_rows == 100
    assert set(rows["output_tokens"].to_pylist()) == {16}
    resolved = load_scenario(tmp_path / "out" / "scenario.toml").scenario
    assert resolved == load_scenario(tmp_path / "my.toml").scenario
    provenance = json.loads((tmp_path / "out" / "provenance.json").read_text())
    assert provenance["configuration"] == {"drafter": "eagle3", "num_speculative_tokens": 3}
    assert provenance["seed"] == 0
    assert len(provenance["profile_sha256"]) == 64


def test_simulating_a_resolved_scenario_again_gives_the_same_requests(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    import pyarrow.parquet as pq

    (tmp_path / "my.toml").write_text(SMALL)
    assert run(capsys, "simulate", str(tmp_path / "my.toml"), "--out", str(tmp_path / "a"))[0] == 0
    assert run(capsys, "simulate", str(tmp_path / "a" / "scenario.toml"), "--out", str(tmp_path / "b"))[0] == 0
    first, second = (pq.read_table(tmp_path / name / "requests.parquet") for name in ("a", "b"))
    assert first.equals(second)


def test_what_ships_is_listed_for_people_and_programs(capsys: pytest.CaptureFixture[str]) -> None:
    from specsim.cost.hardware import hardware_names
    from specsim.cost.model import model_names

    status, out, _ = run(capsys, "models")
    assert status == 0
    assert all(name in out for name in model_names())
    models = json.loads(run(capsys, "models", "--json")[1])
    assert [row["model"] for row in models["models"]] == list(model_names())
    assert {row["method"] for row in models["acceptance"]} == {"eagle3", "ngram"}
    hardware = json.loads(run(capsys, "hardware", "--json")[1])["hardware"]
    assert [row["hardware"] for row in hardware] == list(hardware_names())
    assert all(name in run(capsys, "hardware")[1] for name in hardware_names())


SCRAPE = """# TYPE vllm:spec_decode_num_drafts_total counter
vllm:spec_decode_num_drafts_total{engine="0",model_name="m"} 1000.0
vllm:spec_decode_num_draft_tokens_total{engine="0",model_name="m"} 2000.0
vllm:spec_decode_num_accepted_tokens_total{engine="0",model_name="m"} 1100.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="0"} 700.0
vllm:spec_decode_num_accepted_tokens_per_pos_total{engine="0",model_name="m",position="1"} 400.0
"""


def test_acceptance_writes_what_a_scenario_can_point_to(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    from specsim.scenario import load_scenario
    from specsim.scenario.resolve import acceptance_process

    (tmp_path / "metrics.txt").write_text(SCRAPE)
    status, out, err = run(capsys, "acceptance", str(tmp_path / "metrics.txt"), "--out", str(tmp_path / "acc.json"))
    assert (status, err) == (0, "")
    assert "2.1" in out
    (tmp_path / "my.toml").write_text(GOOD.replace("per_position = [0.70, 0.66, 0.64]", 'file = "acc.json"'))
    process = acceptance_process(load_scenario(tmp_path / "my.toml").scenario.drafters[0])
    assert process is not None
    assert process.survival(2).tolist() == pytest.approx([0.7, 0.4])
    document = json.loads(run(capsys, "acceptance", str(tmp_path / "metrics.txt"), "--json")[1])
    assert document == json.loads((tmp_path / "acc.json").read_text())


def test_every_flag_of_a_scenario_is_on_both_commands_and_documented() -> None:
    from specsim.scenario.overrides import Overrides, flag_of

    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    shown = specsim_process("plan", "--help", env={**os.environ, "COLUMNS": "200"}).stdout
    for name in Overrides.__dataclass_fields__:
        assert flag_of(name) in shown
        assert f"`{flag_of(name)}" in page


def test_input_errors_carry_one_line_each() -> None:
    assert InputError.several([InputError("a"), InputError("b")]).lines == ("a", "b")


def test_control_c_during_a_long_run_is_quiet_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(SMALL.replace("requests = 20", "requests = 2_000_000"))
    process = subprocess.Popen(
        [sys.executable, "-m", "specsim", "simulate", "my.toml", "--out", "out"],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # A run started in the background inherits an ignored SIGINT.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    time.sleep(2.5)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out, err) == (130, "", "interrupted; nothing half-written was left\n")
    assert [path.name for path in tmp_path.iterdir()] == ["my.toml"]


def estimates(table: object) -> Iterator[dict[str, float]]:
    if isinstance(table, dict):
        if "value" in table:
            yield table
        else:
            for inner in table.values():
                yield from estimates(inner)
    elif isinstance(table, list):
        for inner in table:
            yield from estimates(inner)


def test_a_plan_for_programs_has_its_keys_and_every_estimate_its_interval(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "my.toml").write_text(SMALL)
    status, out, err = run(capsys, "plan", str(tmp_path / "my.toml"), "--json")
    assert (status, err) == (0, "")
    plan = json.loads(out)
    tables = ["recommendation", "schedule", "grid", "break_even", "capacity", "provenance", "warnings"]
    assert list(plan) == tables
    found = list(estimates(plan))
    assert len(found) > 100
    assert all(set(one) == {"value", "low", "high"} and one["low"] <= one["value"] <= one["high"] for one in found)


def test_what_a_flag_took_away_is_among_the_warnings(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(SMALL)
    status, out, err = run(capsys, "plan", str(tmp_path / "my.toml"), "--target", "Qwen/Qwen3-8B", "--json")
    assert (status, err) == (0, "")
    plan = json.loads(out)
    assert "declined" in plan["recommendation"]
    assert "was measured with meta-llama/Llama-3.1-8B" in plan["warnings"][0]
    assert {row["k"] for row in plan["capacity"]} == {0}
    assert plan["break_even"]
