"""The shell command and the pytest plugin, from outside."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

MODULE = """
import os
from functools import partial
import numpy as np
from specsim.verification.batched import token
from specsim.verification.chains import Stop
from specsim.verification.lookup import NodeRuleSampler, RuleSampler
from specsim.verification.nodes import recursive
from specsim.verification.batched_lossy import lenience
from specsim.verification.mutants import MUTANTS

bad = next(m for m in MUTANTS if m.name == "target residual").sampler()
lenient = lenience(0.75)

def raises(target, draft, tokens, rng):
    raise RuntimeError("no device")

def never(target, draft, tokens, rng):
    while True:
        pass

def loud(target, draft, tokens, rng):
    print("seen by Python")
    os.write(1, b"seen below it")
    return token(target, draft, tokens, rng)

def hopeful(p, q, drafts, coins, *, odds):
    n = next((i for i in range(len(drafts)) if not coins.accept(i).below(odds)), len(drafts))
    return Stop(drafts[:n], p[n])

does_hope = RuleSampler(partial(hopeful, odds=0.5))
node = NodeRuleSampler(recursive)

def first_draft(p, q, drafts, rng):
    return drafts[:, 0], np.zeros(len(p), dtype=int)

number = 3
print("loading")  # not part of a verdict
"""


@pytest.fixture
def here(tmp_path: Path) -> Path:
    (tmp_path / "my_engine.py").write_text(MODULE)
    (tmp_path / "ends.py").write_text("raise SystemExit(0)")
    return tmp_path


def verify(here: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "specsim", "verify", *arguments]
    return subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120, check=False)


def test_exit_status_says_the_verdict(here: Path) -> None:
    right = verify(here, "my_engine:token", "--detect-tv", "0.05", "--json")
    assert right.returncode == 0, right.stderr
    assert json.loads(right.stdout)["passed"] is True
    assert "importing my_engine" in right.stderr
    wrong = verify(here, "my_engine:bad", "--algorithm", "token", "--json")
    assert wrong.returncode == 1
    document = json.loads(wrong.stdout)
    assert document["witness"]["case"]
    assert document["causes"] == ["target residual"]
    failing = verify(here, "my_engine:raises")
    assert failing.returncode == 3
    assert "no device" in failing.stdout


def test_a_sampler_that_never_returns_ends(here: Path) -> None:
    stuck = verify(here, "my_engine:never", "--budget-s", "0.5")
    assert stuck.returncode == 3
    assert "time_budget" in stuck.stdout


def test_what_a_sampler_prints_is_not_the_verdict(here: Path) -> None:
    ran = verify(here, "my_engine:loud", "--json", "--level", "hostile")
    assert json.loads(ran.stdout)["passed"] is True
    assert "seen by Python" in ran.stderr
    assert "seen below it" in ran.stderr


def test_a_rule_of_ones_own_is_claimed_from_the_shell(here: Path) -> None:
    given = ("--algorithm", "my_engine:hopeful", "--level", "interception")
    assert verify(here, "my_engine:does_hope", *given, "--option", "odds=0.5").returncode == 0
    assert verify(here, "my_engine:does_hope", *given, "--option", "odds=0.6").returncode == 1
    absent = verify(here, "my_engine:token", "--algorithm", "my_engine:nothing")
    assert absent.returncode == 2
    assert "--algorithm: module 'my_engine' has no 'nothing'" in absent.stderr


def test_rules_for_several_drafts_are_judged_at_one_node(here: Path) -> None:
    given = ("--algorithm", "recursive", "--detect-tv", "0.05", "--drafts", "3")
    right = verify(here, "my_engine:node", *given)
    assert right.returncode == 0, right.stderr
    assert "the 'recursive' rule for 3 drafts" in right.stdout
    wrong = verify(here, "my_engine:first_draft", *given, "--json")
    assert wrong.returncode == 1
    document = json.loads(wrong.stdout)
    witness = document["witness"]
    assert document["seed"] == 0
    assert sum(witness["target"][0]) == pytest.approx(1.0)


def test_parameters_of_a_rule_are_options(here: Path) -> None:
    given = ("--algorithm", "lenience", "--option", "factor=.75", "--level", "interception")
    assert verify(here, "my_engine:lenient", *given).returncode == 0
    assert verify(here, "my_engine:lenient", "--algorithm", "lossless", "--level", "interception").returncode == 1


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("--algorithm", "lenience"), "factor: the 'lenience' rule needs it"),
        (("--algorithm", "lenience", "--option", "factor=2"), "factor: 2: give a number"),
        (("--option", "x=1"), "takes no parameters"),
        (("--takes", "scores"), "takes: 'scores'"),
        (("--level", "deep"), "--level"),
        (("--alpha", "2"), "alpha"),
        (("--algorithm", "traversal"), "samplers of trees have no judge here; exact_law"),
        (("--drafts", "3"), "--drafts: is of rules for several drafts"),
        (
            ("--algorithm", "recursive", "--level", "hostile"),
            "--level: the rule 'recursive' for several drafts has auto",
        ),
        (("--algorithm", "recursive", "--drafts", "0"), "k: 0: give a whole number"),
        (("--seed", "-1"), "seed: -1: give a whole number"),
        (("--budget-s", "nan"), "budget_s: nan"),
        (("--budget-s", "-1"), "budget_s: -1"),
    ],
)
def test_wrong_flags_are_one_line(here: Path, given: tuple[str, ...], said: str) -> None:
    failed = verify(here, "my_engine:token", *given)
    assert failed.returncode == 2
    assert said in failed.stderr
    assert failed.stdout == ""


def test_rows_of_other_lengths_and_no_laws_are_judged_on_demand(here: Path) -> None:
    assert verify(here, "my_engine:token", "--level", "ragged").returncode == 0
    assert verify(here, "my_engine:token", "--level", "hostile").returncode == 0
    assert verify(here, "my_engine:bad", "--level", "ragged").returncode == 1


@pytest.mark.parametrize(
    ("where", "said"),
    [
        ("my_engine", "package.module:function"),
        ("my_engine:nothing", "has no 'nothing'"),
        ("my_engine:number", "not something to call"),
        ("no_such_module:f", "can't be imported"),
        ("ends:f", "can't be imported: SystemExit"),
    ],
)
def test_mistakes_are_one_line(here: Path, where: str, said: str) -> None:
    failed = verify(here, where)
    assert failed.returncode == 2
    assert said in failed.stderr
    assert "Traceback" not in failed.stderr


def test_the_fixture_and_its_options(here: Path) -> None:
    (here / "test_mine.py").write_text(
        "from my_engine import bad, token\n"
        "def test_right(spec_oracle):\n"
        "    assert spec_oracle.detect_tv == 0.05\n"
        "    assert spec_oracle.alpha == 1e-6\n"
        "    assert spec_oracle.assert_law(token, 'token').passed\n"
        "    assert spec_oracle.check(bad).status == 'rejected'\n"
        "def test_wrong(spec_oracle):\n"
        "    spec_oracle.assert_lossless(bad)\n"
    )
    plugin = ["-p", "no:specsim", "-p", "specsim.verification.pytest_plugin"]  # installed or not
    command = [sys.executable, "-m", "pytest", *plugin, "--spec-alpha=1e-6", "--spec-detect-tv=0.05", "-q", "."]
    ran = subprocess.run(command, cwd=here, capture_output=True, text=True, timeout=120, check=False)
    assert "1 failed, 1 passed" in ran.stdout, ran.stdout + ran.stderr
    assert "likeliest cause: target residual" in ran.stdout
    assert "oracle.py" not in ran.stdout  # the test's own line, and the verdict
    wrong = subprocess.run(
        [*command[:-4], "--spec-alpha=7", "."], cwd=here, capture_output=True, text=True, check=False
    )
    assert "give a number between 0 and 1" in wrong.stderr


def test_the_package_needs_neither_torch_nor_hypothesis() -> None:
    code = (
        "import sys; import specsim.verification, specsim.verification.pipeline, specsim.verification.adapters;"
        "print([m for m in ('torch', 'hypothesis', 'scipy.stats', 'pandas') if m in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"
