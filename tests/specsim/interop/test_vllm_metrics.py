"""vLLM's counters and log lines: what they hold comes out, what is damaged is refused with a remedy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.interop.vllm_metrics import read_acceptance
from specsim.report.acceptance import acceptance_report

V = "vllm:spec_decode_num"


def scrape(engines: dict[tuple[str, str], list[int]], *, k: int = 3) -> str:
    """A scrape from histograms of accepted counts by (model, engine)."""
    lines = ["# HELP python_info Python platform information", "# TYPE python_info gauge", "python_info 1.0"]
    series: dict[str, list[str]] = {}
    for (model, engine), histogram in engines.items():
        labels = f'engine="{engine}",model_name="{model}"'
        rounds = sum(histogram)
        per_pos = [sum(histogram[i + 1 :]) for i in range(k)]
        for name, value in (("drafts", rounds), ("draft_tokens", rounds * k), ("accepted_tokens", sum(per_pos))):
            series.setdefault(f"{V}_{name}", []).append(f"{V}_{name}_total{{{labels}}} {float(value)}")
        for i, value in enumerate(per_pos):
            name = f"{V}_accepted_tokens_per_pos"
            series.setdefault(name, []).append(f'{name}_total{{{labels},position="{i}"}} {float(value)}')
    for name, samples in series.items():
        lines += [f"# TYPE {name}_total counter", *samples, f"# TYPE {name}_created gauge"]
        lines += [f'{sample.split("{")[0].removesuffix("_total")}_created{{x="1"}} 1.75e+09' for sample in samples[:1]]
    return "\n".join(lines) + "\n"


def written(tmp_path: Path, *texts: str) -> list[Path]:
    paths = [tmp_path / f"metrics{i}.txt" for i in range(len(texts))]
    for path, text in zip(paths, texts, strict=True):
        path.write_text(text)
    return paths


FIRST, SECOND = {("m", "0"): [380, 240, 130, 250]}, {("m", "0"): [760, 400, 300, 540]}


def test_one_scrape_gives_the_servers_own_numbers(tmp_path: Path) -> None:
    evidence = read_acceptance(written(tmp_path, scrape(FIRST)))
    survival = evidence.process().survival(3)
    np.testing.assert_allclose(survival, [0.62, 0.38, 0.25])
    sample = evidence.rows[0].sample
    assert sample is not None
    assert sample.rounds == 1000
    report = acceptance_report(evidence)
    for part in (
        "2.2500 +-",
        "bonus token included (1..4)",
        "0.4167",
        "0.6200, 0.3800, 0.2500",
        "0.6200, 0.6129, 0.6579",
    ):
        assert part in report


def test_two_scrapes_give_what_lay_between(tmp_path: Path) -> None:
    evidence = read_acceptance(written(tmp_path, scrape(FIRST), scrape(SECOND)))
    np.testing.assert_allclose(evidence.process().survival(3), np.array([620, 460, 290]) / 1000)
    assert "between two scrapes" in evidence.source


@given(st.lists(st.lists(st.integers(1, 50), min_size=4, max_size=4), min_size=1, max_size=4))
@settings(max_examples=15, deadline=None)
def test_engines_are_summed(histograms: list[list[int]]) -> None:
    import tempfile

    engines = {("m", str(i)): histogram for i, histogram in enumerate(histograms)}
    total = {("m", "0"): [sum(column) for column in zip(*histograms, strict=True)]}
    with tempfile.TemporaryDirectory() as folder:
        several = read_acceptance(written(Path(folder), scrape(engines))).rows
        assert several == read_acceptance(written(Path(folder), scrape(total))).rows
        one = read_acceptance(written(Path(folder), scrape(engines)), engine="0").rows
        assert one == read_acceptance(written(Path(folder), scrape({("m", "0"): histograms[0]}))).rows


def test_several_models_need_a_name(tmp_path: Path) -> None:
    paths = written(tmp_path, scrape({("a", "0"): [1, 1, 1, 1], ("b", "0"): [4, 0, 0, 0]}))
    with pytest.raises(InputError, match="several models \\(a, b\\); name one"):
        read_acceptance(paths)
    assert read_acceptance(paths, model_name="a").process().survival(3)[0] == pytest.approx(0.75)
    with pytest.raises(InputError, match="'c' is not in the scrape; it has a, b"):
        read_acceptance(paths, model_name="c")


def without(text: str, part: str) -> str:
    return "\n".join(line for line in text.splitlines() if part not in line) + "\n"


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        ([scrape(SECOND), scrape(FIRST)], "restarted between the scrapes, or the files are in the wrong order"),
        ([scrape(FIRST), scrape(FIRST)], "counts no drafts"),
        ([scrape({("m", "0"): [0, 0, 0, 0]})], "counts no drafts"),
        ([scrape(FIRST)[:-5]], "ends inside a line"),
        ([without(scrape(FIRST), "accepted_tokens_total")], "lacks vllm:spec_decode_num_accepted_tokens_total"),
        ([without(scrape(FIRST), 'position="1"')], "has positions [0, 2]"),
        ([without(scrape(FIRST), 'position="2"')], "positions sum to 1000 but 1250"),
        ([scrape(FIRST), without(scrape(SECOND), "draft_tokens")], "scrape the same server"),
        (["python_info 1.0\n"], "server that runs with --speculative-config"),
        ([""], "is empty"),
        ([scrape(FIRST).replace("drafts_total{", "drafts_total{{")], "not Prometheus text"),
        (["INFO SpecDecoding metrics: Mean acceptance length: 2.0\n"], "lacks its counts"),
        (
            ["SpecDecoding metrics: Draft acceptance rate: 80.0%, Accepted: 8 tokens, Drafted: 10 tokens\n"],
            "by position",
        ),
    ],
)
def test_damage_is_refused_with_a_remedy(texts: list[str], says: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as wrong:
        read_acceptance(written(tmp_path, *texts))
    assert says in str(wrong.value)
    assert "metrics" in str(wrong.value)


def test_counters_without_positions_give_a_length(tmp_path: Path) -> None:
    evidence = read_acceptance(written(tmp_path, without(scrape(FIRST), "per_pos")))
    assert evidence.length is not None
    assert evidence.length[:2] == (2.25, 3)
    assert "inferred" in evidence.process().name


HEAD = "(APIServer pid=1) INFO 05-18 11:19:54 [metrics.py:101] SpecDecoding metrics: "
LINES = {
    "2025": "Draft acceptance rate: 41.7%, Mean acceptance length: 2.25, Accepted: 1250 tokens, Drafted: 3000 tokens,"
    " Per-position acceptance rate: 0.620, 0.380, 0.250",
    "2026": "Mean acceptance length: 2.25, Accepted throughput: 125.00 tokens/s, Drafted throughput: 300.00 tokens/s,"
    " Accepted: 1250 tokens, Drafted: 3000 tokens, Per-position acceptance rate: 0.620, 0.380, 0.250,"
    " Avg Draft acceptance rate: 41.7%",
    "with depth": "Mean acceptance length: 2.25, Current speculative depth: 3, Accepted throughput: 125.00 tokens/s,"
    " Drafted throughput: 300.00 tokens/s, Accepted: 1250 tokens, Drafted: 3000 tokens,"
    " Per-position acceptance rate: 0.620, 0.380, 0.250, Avg Draft acceptance rate: 41.7%",
}


@pytest.mark.parametrize("version", LINES)
def test_log_lines_of_every_version(version: str, tmp_path: Path) -> None:
    other = "INFO Engine 000: Avg prompt throughput: 1.1 tokens/s\n"
    evidence = read_acceptance(written(tmp_path, other + HEAD + LINES[version] + "\n" + other))
    np.testing.assert_allclose(evidence.process().survival(3), [0.62, 0.38, 0.25], atol=1e-3)
    sample = evidence.rows[0].sample
    assert sample is not None
    assert sample.rounds == 1000


def test_log_lines_weigh_by_their_rounds_and_idle_ones_count_nothing(tmp_path: Path) -> None:
    quiet = "Mean acceptance length: nan, Accepted: 0 tokens, Drafted: 0 tokens, Per-position acceptance rate: nan"
    none = (
        "Mean acceptance length: 1.00, Accepted: 0 tokens, Drafted: 9000 tokens,"
        " Per-position acceptance rate: 0.000, 0.000, 0.000"
    )
    evidence = read_acceptance(written(tmp_path, "".join(f"{HEAD}{x}\n" for x in (quiet, LINES["2026"], none))))
    np.testing.assert_allclose(evidence.process().survival(3), np.array([0.62, 0.38, 0.25]) / 4, atol=1e-3)


def test_a_log_and_a_scrape_have_no_difference(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs two scrapes"):
        read_acceptance(written(tmp_path, HEAD + LINES["2026"] + "\n", scrape(FIRST)))
