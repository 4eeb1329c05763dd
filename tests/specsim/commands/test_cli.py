"""The command from outside: exit codes, one-line errors, pipes, terminals, and what is imported when."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from called import GOOD, SMALL, run, specsim_process

import specsim
from specsim import cli
from specsim.errors import InputError

HEAVY = {"torch", "pandas", "pyarrow", "matplotlib", "scipy", "numpy", "simpy"}


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
    "of another command": (["simulate", "--context", "1024"], "see specsim simulate --help"),
    "a limit that nothing reads": (["compare", "--slo-tpot-ms", "30"], "see specsim compare --help"),
    "replicas of a plan": (["plan", "--replicas", "2"], "see specsim plan --help"),
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
    assert status == 70
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
    assert done.returncode == 141


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


@pytest.mark.parametrize("command", ["plan", "simulate", "compare"])
def test_the_page_says_which_flags_a_command_takes(capsys: pytest.CaptureFixture[str], command: str) -> None:
    """A flag's note names the commands that take it, where not all do; the others refuse it."""
    from specsim.scenario.overrides import Overrides, flag_of

    page = (Path(__file__).parents[3] / "docs" / "cli.md").read_text()
    for name in Overrides.__dataclass_fields__:
        (row,) = [line for line in page.splitlines() if line.startswith(f"| `{flag_of(name)} ")]
        note = row.strip("| ").split(" | ")[-1]
        only = re.match(r"((?:`\w+`(?: and )?)+) only", note)
        takes = only is None or f"`{command}`" in only[1]
        _, _, err = run(capsys, command, flag_of(name), "?", "--no-such-flag")
        assert (f"No such option: {flag_of(name)};" in err) is not takes, err


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
