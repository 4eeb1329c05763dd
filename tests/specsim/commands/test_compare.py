"""``specsim compare``: what it prints, writes and refuses."""

from __future__ import annotations

import csv
import json
import sys
import tomllib

import pytest

from specsim.cli import main
from specsim.report.chart import Curve, chart
from specsim.scenario import Scenario

SCENARIO = """
[target]
model = "meta-llama/Llama-3.1-8B"
hardware = "h100_sxm"

[[drafter]]
method = "eagle3"
num_speculative_tokens = [1, 3]
acceptance = { rate = 0.7 }

[workload]
arrivals = { kind = "poisson", rate_per_s = 5.0 }
prompt_tokens = { kind = "fixed", tokens = 200 }
output_tokens = { kind = "fixed", tokens = 50 }

[serving]
max_num_seqs = 8

[simulation]
requests = 30
"""


@pytest.fixture
def scenario(tmp_path):
    def write(more: str = "", *, without: str | None = None):
        text = SCENARIO
        if without:
            head, _, rest = text.partition(f"[{without}]")
            text = head + "\n\n".join(rest.split("\n\n")[1:])
        path = tmp_path / "s.toml"
        path.write_text(text + more)
        return str(path)

    return write


def refused(capsys, *arguments):
    assert main(["compare", *arguments]) == 2
    return capsys.readouterr().err


def test_tables_chart_and_reasons(scenario, capsys):
    assert (
        main(["compare", scenario(), "--systems", "eagle3,smartspec", "--systems", "pearl", "--concurrency", "1,4"])
        == 0
    )
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 100
    for shown in ("plain", "eagle3, K = ", "smartspec", 'pearl: needs a drafter of method "draft_model"',
                  "decay = 0.99 (assumed", "How does latency rise"):  # fmt: skip
        assert shown in out


def test_a_load_beyond_the_replica_is_said_before_the_speedups(scenario, capsys):
    slo = "\n[slo]\nttft_p95_ms = 100\n"
    flags = ("--systems", "eagle3", "--concurrency", "1", "--request-rate", "5000")
    file = scenario(slo)
    assert main(["compare", file, *flags]) == 0
    first = " ".join(capsys.readouterr().out.split("What do users feel")[0].split())
    assert "One replica takes all 5000 requests/s." in first
    assert "The SLO does not hold with plain, eagle3 (plain: TTFT p95 is" in first
    assert "`specsim plan` says how many replicas the load takes; --replicas N runs one of N." in first
    assert main(["compare", file, *flags, "--replicas", "1000", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["load"] == "One of 1000 replicas takes 5 of 5000 requests/s."
    assert [(row["beyond_slo"], row["load_grows"]) for row in printed["rows"]] == [([], False)] * 2


def test_json_and_files_hold_the_same_numbers(scenario, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["compare", scenario(), "--systems", "eagle3", "--concurrency", "1", "--json", "--out", str(out)]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert [row["system"] for row in printed["rows"]] == ["plain", "eagle3"]
    plain, eagle = printed["rows"]
    assert plain["speedup"] == {"value": 1.0, "low": 1.0, "high": 1.0}
    assert eagle["speedup"]["value"] == plain["tpot_s"] / eagle["tpot_s"]
    assert eagle["speedup"]["low"] < eagle["speedup"]["value"] < eagle["speedup"]["high"]
    assert eagle["weight_bytes"] > plain["weight_bytes"]
    assert json.loads((out / "compare.json").read_text())["rows"] == printed["rows"]
    with (out / "compare.csv").open() as text:
        table = list(csv.DictReader(text))
    assert float(table[1]["tpot_s"]) == eagle["tpot_s"]
    assert float(table[1]["speedup_low"]) == eagle["speedup"]["low"]
    assert (out / "latency_throughput.png").read_bytes().startswith(b"\x89PNG")
    assert sorted(p.name for p in out.iterdir()) == [
        "compare.csv", "compare.json", "latency_throughput.png", "sweep.csv"
    ]  # fmt: skip


def test_without_matplotlib_the_tables_are_written(scenario, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    out = tmp_path / "out"
    assert main(["compare", scenario(), "--systems", "plain", "--concurrency", "1", "--out", str(out)]) == 0
    assert "pip install 'llm-specsim[plot]'" in capsys.readouterr().err
    assert sorted(p.name for p in out.iterdir()) == ["compare.csv", "compare.json", "sweep.csv"]


def test_mistakes_are_one_line(scenario, tmp_path, capsys):
    assert "did you mean 'smartspec'" in refused(capsys, scenario(), "--systems", "smartspek")
    assert "workload: is missing" in refused(capsys, scenario(without="workload"), "--systems", "eagle3")
    assert "names no system" in refused(capsys, scenario(), "--systems", ",")
    assert "give 1 or more" in refused(capsys, scenario(), "--systems", "plain", "--concurrency", "0")
    assert "pearl: needs a drafter" in refused(capsys, scenario(), "--systems", "pearl", "--concurrency", "1")
    (tmp_path / "file").write_text("")
    assert "give a directory" in refused(capsys, scenario(), "--out", str(tmp_path / "file"))


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("[systems.smartspec]\ndecoy = 0.5", "systems.smartspec.decoy: 0.5: unknown key; did you mean decay?"),
        ("[systems.smartspeck]\ndecay = 0.5", "systems.smartspeck: no such system; did you mean smartspec?"),
        ('[systems.smartspec]\ndecay = "x"', 'systems.smartspec.decay: "x" is not a number'),
        ("[systems]\nsmartspec = 3", "systems.smartspec: 3 must be a table"),
        ("[network]\nlatency_s = 1e-3", "network.bandwidth_bytes_per_s"),
        ("[network]\nlatency_s = 1e-3\nbandwidth_bytes_per_s = 1e9\nloss = 0.1", "loss and retry_s need each other"),
    ],
)
def test_wrong_numbers_of_a_system_or_a_network(scenario, capsys, table, said):
    assert said in refused(capsys, scenario(f"\n{table}\n"), "--systems", "plain")


def test_a_count_must_be_whole(scenario, capsys):
    err = refused(capsys, scenario("\n[systems.smartspec]\nmost = 2.5\n"), "--systems", "smartspec")
    assert "systems.smartspec.most: 2.5; give a whole number" in err


def test_systems_and_network_survive_the_round_trip():
    tables = '\n[systems."specdec++"]\ncorrelation = 0.5\n[network]\nlatency_s = 0.0\nbandwidth_bytes_per_s = 1e9\n'
    given = Scenario.from_dict(tomllib.loads(SCENARIO + tables))
    assert Scenario.from_dict(tomllib.loads(given.to_toml())) == given
    assert given.systems == {"specdec++": {"correlation": 0.5}}


def test_a_chart_stays_within_its_width_and_shows_every_curve():
    curves = [Curve(name, [(10.0 * (i + 1), 3.0 + i), (200.0, 9.0 + i)]) for i, name in enumerate("pqr")]
    for width in (60, 80, 100):
        lines = chart(curves, x="x", y="y", width=width)
        assert max(map(len, lines)) <= width
        body = "\n".join(lines[1:-2])
        assert all(letter in body for letter in "ABC")


def test_a_chart_of_one_point():
    assert any("A" in line for line in chart([Curve("one", [(5.0, 5.0)])], x="x", y="y", width=80))
