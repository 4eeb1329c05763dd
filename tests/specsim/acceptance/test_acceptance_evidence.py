"""Evidence: files round-trip, figures that cannot be are refused, and intervals come from counts alone."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from specsim.acceptance.acceptance_file import read_evidence, shipped_evidence, write_evidence
from specsim.acceptance.chains import ByDraftLength, Iid, LengthOnly, MeasuredLength, PerPosition, Sample, Survival
from specsim.acceptance.conversions import iid_rate_from_length, length_from_iid_rate
from specsim.acceptance.evidence import AcceptanceEvidence
from specsim.acceptance.fit import (
    bootstrap_lengths,
    fit_by_draft_length,
    fit_heterogeneous,
    fit_per_position,
    fit_recorded,
    spread_for_length_sd,
)
from specsim.acceptance.heterogeneous import Heterogeneous
from specsim.acceptance.records import SpecDecodeAcceptanceRecord, read_records
from specsim.acceptance.scenario import from_evidence
from specsim.acceptance.uncertainty import acceptance_draws, evidence_note, length_standard_error, uncertainty_note
from specsim.errors import InputError

ROWS = (MeasuredLength((0.7,), Sample(100, 10, 0.2)), MeasuredLength((0.6, 0.5, 0.0), Sample(50)))
EVIDENCE = AcceptanceEvidence(source="a bench", rows=ROWS, method="eagle3", dataset="chat", engine="vllm", notes=("n",))


def record(histogram: dict[int, int], k: int = 3) -> SpecDecodeAcceptanceRecord:
    return SpecDecodeAcceptanceRecord.from_dict({"acceptance_histogram": histogram, "num_spec_tokens": k})


def simulated_records(process, k: int, requests: int, rounds: int, seed: int) -> list[SpecDecodeAcceptanceRecord]:
    rng = np.random.default_rng(seed)
    accepted, _ = process.verify(process.start(requests, rng), k, rng, rounds=rounds)
    return [record(dict(enumerate(np.bincount(row, minlength=k + 1).tolist())), k) for row in accepted]


@pytest.mark.parametrize(
    "evidence",
    [EVIDENCE, AcceptanceEvidence(source="a log", rows=ROWS[:1]), AcceptanceEvidence("s", length=(2.4, 3, Sample(9)))],
)
def test_files_round_trip(evidence: AcceptanceEvidence, tmp_path: Path) -> None:
    path = tmp_path / "acceptance.json"
    write_evidence(path, evidence)
    assert read_evidence(path) == evidence
    assert [p.name for p in tmp_path.iterdir()] == ["acceptance.json"]


def test_every_way_of_writing_a_row_means_the_same(tmp_path: Path) -> None:
    rows = {
        "conditional_acceptance_rates": [0.5, 0.5],
        "per_position_acceptance_rates": [0.5, 0.25],
        "acceptance_histogram": {"0": 50, "1": 25, "2": 25},
    }
    for name, value in rows.items():
        path = tmp_path / f"{name}.json"
        one = {"source": "s", "by_draft_length": [{name: value, "mean_acceptance_length": 1.75}]}
        path.write_text(json.dumps({"schema": "specsim.acceptance", "schema_version": 1, "sets": [one]}))
        assert read_evidence(path).rows[0].conditional == (0.5, 0.5)


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"conditional_acceptance_rates": [0.5], "mean_acceptance_length": 0.5}, "imply 1.5 (length counts the bonus"),
        ({"conditional_acceptance_rates": [0.5], "draft_acceptance_rate": 50}, "rates are fractions"),
        ({"conditional_acceptance_rates": [0.5], "per_position_acceptance_rates": [0.5]}, "keep one of them"),
        ({"conditional_acceptance_rate": [0.5]}, "did you mean conditional_acceptance_rates?"),
        ({"per_position_acceptance_rates": [0.5, 0.6]}, "rises from 0.5 to 0.6"),
        ({"conditional_acceptance_rates": [0.5], "num_spec_tokens": 2}, "there are 1 positions"),
        ({"conditional_acceptance_rates": [0.5], "requests": 0}, "at least 1"),
        ({"conditional_acceptance_rates": [0.5], "request_length_sd": -1}, "0 or more"),
        ({"mean_acceptance_length": 2.0}, "with num_spec_tokens"),
        ({"acceptance_histogram": [5, 5], "num_spec_steps": 11}, "counts 10"),
    ],
)
def test_files_that_contradict_themselves_are_refused(row: dict, says: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    one = {"source": "s", "by_draft_length": [row]}
    path.write_text(json.dumps({"schema": "specsim.acceptance", "schema_version": 1, "sets": [one]}))
    with pytest.raises(InputError) as wrong:
        read_evidence(path)
    assert str(wrong.value).startswith(f"{path}: sets[0].by_draft_length[0]")
    assert says in str(wrong.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": "other"}', '{"schema": "specsim.acceptance"}'])
def test_other_files_are_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(text)
    with pytest.raises(InputError, match=r"a\.json"):
        read_evidence(path)


def test_shipped_evidence_names_its_source_and_its_limits() -> None:
    evidence = shipped_evidence(method="eagle3")
    assert "2601.11580" in evidence.source
    process = evidence.process()
    assert isinstance(process, ByDraftLength)
    assert process.max_k == 10
    assert evidence_note(process, 3) is None
    assert "interpolated between K = 5 and K = 7" in str(evidence_note(process, 6))
    assert "beyond the evidence" in str(evidence_note(process, 12))
    with pytest.raises(InputError, match="name one by method and dataset"):
        shipped_evidence(method="medusa")


@pytest.mark.data
def test_shipped_figures_are_the_measured_ones(shared_data: Path) -> None:
    with (shared_data / "llama31_8b_acceptance_summary.csv").open() as file:
        for row in csv.DictReader(file):
            method = {"eagle": "eagle3"}.get(row["method"], row["method"])
            process = shipped_evidence(method=method, dataset=row["dataset"]).process()
            k = int(row["k"])
            assert isinstance(process, ByDraftLength)
            measured = process.row(k)
            assert measured is not None
            assert measured.conditional == tuple(float(x) for x in row["cond_accept_by_pos"].split())
            # The table's own length counts tokens, of which a request's end cuts some: up to 0.6 %.
            assert 1 + process.survival(k).sum() == pytest.approx(float(row["AL_token"]), rel=0.0065)
            sample = measured.sample
            assert sample is not None
            assert (sample.requests, sample.request_length_sd) == (int(row["requests"]), float(row["AL_req_sd"]))


@pytest.mark.parametrize("dataset", ["gsm8k", "cnn", "sharegpt", "instructcoder"])
@pytest.mark.parametrize(("method", "low", "high"), [("eagle3", 0.07, 0.17), ("ngram", -0.20, -0.04)])
def test_iid_misses_real_drafters_to_either_side(dataset: str, method: str, low: float, high: float) -> None:
    """The first position's rate, taken for all, promises too much of EAGLE at K = 8 and too little of n-gram."""
    process = shipped_evidence(method=method, dataset=dataset).process()
    rate = float(iid_rate_from_length(1 + process.survival(1).sum(), 1))
    assert low < float(length_from_iid_rate(rate, 8)) / (1 + process.survival(8).sum()) - 1 < high


def test_one_kind_of_evidence_makes_one_process() -> None:
    assert from_evidence(rate=0.7) == Iid(0.7)
    assert from_evidence(per_position=[0.7, 0.6]) == PerPosition((0.7, 0.6))
    assert from_evidence(survival=[0.7, 0.6]) == Survival((0.7, 0.6))
    assert from_evidence(length=2.4, at_k=3) == LengthOnly(2.4, 3)
    assert from_evidence(rate=0.7, between_requests_sd=0.4) == Heterogeneous(Iid(0.7), 0.4)
    assert 1 + from_evidence(length=2.4, at_k=3).survival(3).sum() == pytest.approx(2.4)


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({}, "my.toml: acceptance: no evidence is given; give exactly one"),
        ({"rate": 0.5, "length": 2.0, "at_k": 3}, "length and rate are given together"),
        ({"length": 2.0}, "acceptance.length: needs at_k"),
        ({"rate": 0.5, "at_k": 3}, "acceptance.at_k: needs length"),
        ({"length": 2.0, "at_k": 0}, "acceptance.at_k: 0 must be at least 1"),
        ({"rate": 70.0}, "divided by 100"),
        ({"rate": float("nan")}, "acceptance.rate: nan"),
        ({"survival": [0.5, 0.6]}, "if these are conditional rates, give them as per_position"),
        ({"survival": []}, "acceptance.survival: needs a list"),
        ({"per_position": ["a"]}, "acceptance.per_position"),
        ({"rate": 0.5, "between_requests_sd": -1.0}, "acceptance.between_requests_sd: -1"),
        ({"rate": 0.5, "round_correlation": 0.5}, "without within_requests_sd"),
        ({"rate": 0.5, "method": "ngram"}, "give file too"),
    ],
)
def test_scenario_mistakes_name_field_value_and_remedy(fields: dict, says: str) -> None:
    with pytest.raises(InputError) as wrong:
        from_evidence(**fields, scenario="my.toml")
    assert str(wrong.value).startswith("my.toml: acceptance")
    assert says in str(wrong.value)


def test_without_counts_draws_are_one_value_and_say_so() -> None:
    draws = acceptance_draws(Iid(0.7), 3, 50, np.random.default_rng(0))
    np.testing.assert_array_equal(draws, draws[0])
    assert draws[0] == pytest.approx(1 + Iid(0.7).survival(3).sum())
    assert "without counts" in uncertainty_note(Iid(0.7), 3)


@pytest.mark.parametrize("k", [1, 3])
def test_standard_error_is_that_of_repeated_counting(k: int) -> None:
    process = PerPosition((0.6, 0.5, 0.7), Sample(rounds=400))
    accepted, _ = process.verify(process.start(3000, np.random.default_rng(1)), k, np.random.default_rng(2), rounds=400)
    error = length_standard_error(PerPosition((0.6, 0.5, 0.7)[:k], Sample(rounds=400)), k)
    assert error == pytest.approx(accepted.mean(axis=1).std(), rel=0.06)


def test_spread_between_requests_rules_the_standard_error() -> None:
    assert length_standard_error(PerPosition((0.6,), Sample(10_000, 100, 0.5)), 1) == pytest.approx(0.05)
    process = ByDraftLength(
        (MeasuredLength((0.6,), Sample(None, 4, 0.2)), MeasuredLength((0.6,) * 3, Sample(None, 4, 0.4)))
    )
    assert [length_standard_error(process, k) for k in (1, 2, 3)] == pytest.approx([0.1, 0.15, 0.2])
    draws = acceptance_draws(process, 3, 20_000, np.random.default_rng(3))
    assert draws.std() == pytest.approx(0.2, rel=0.03)
    together = acceptance_draws(process, 1, 20_000, np.random.default_rng(3))
    assert np.corrcoef(draws, together)[0, 1] > 0.99


def test_records_read_as_aiperf_and_vllm_write_them(tmp_path: Path) -> None:
    given = record({0: 2, 3: 1}).to_dict()
    lines = [
        {"metadata": {"request_start_ns": 1}, "metrics": {}, "spec_decode_acceptance": given},
        {"metrics": {"speculative_decoding": {"acceptance_histogram": [2, 0, 0, 1], "num_spec_tokens": 3}}},
        {"metadata": {}, "metrics": {}},
        given,
    ]
    path = tmp_path / "profile_export.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in lines))
    records = read_records(path)
    assert len(records) == 3
    assert records[0] == records[2]
    assert {(r.num_spec_steps, r.num_accepted_draft_tokens, r.mean_acceptance_length) for r in records} == {(3, 3, 2.0)}


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('{"acceptance_histogram": [1, 2], "num_spec_steps": 4, "num_spec_tokens": 1}', "histogram counts 3"),
        ('{"acceptance_histogram": [1, -2], "num_spec_tokens": 1}', "counts >= 0"),
        ('{"acceptance_histogram": [1, 2]}', "needed to know what was drafted"),
        ('{"acceptance_histogram": [1', "cut short"),
        ("{}", "acceptance_histogram"),
    ],
)
def test_damaged_records_are_refused(line: str, says: str, tmp_path: Path) -> None:
    path = tmp_path / "r.jsonl"
    path.write_text(line)
    with pytest.raises(InputError) as wrong:
        read_records(path)
    assert says in str(wrong.value)
    assert "r.jsonl" in str(wrong.value)


def test_fit_finds_rates_and_spread_again() -> None:
    truth = Heterogeneous(PerPosition((0.62, 0.61, 0.66)), 0.7, weight="requests")
    records = simulated_records(truth, 3, requests=3000, rounds=150, seed=5)
    fitted = fit_heterogeneous(records)
    np.testing.assert_allclose(fitted.survival(3), truth.survival(3), atol=0.012)
    assert fitted.between_requests_sd == pytest.approx(0.7, abs=0.05)
    lengths = bootstrap_lengths(records, 3, 400, np.random.default_rng(6))
    base = fit_per_position(records)
    assert lengths.mean() == pytest.approx(1 + base.survival(3).sum(), abs=4 * lengths.std() / 20)
    assert lengths.std() == pytest.approx(length_standard_error(base, 3), rel=0.12)


def test_fit_without_spread_finds_none() -> None:
    records = simulated_records(Iid(0.6), 3, requests=400, rounds=60, seed=7)
    assert fit_heterogeneous(records).between_requests_sd < 0.2


def test_spread_and_length_sd_are_inverse() -> None:
    base = PerPosition((0.62, 0.61, 0.66))
    assert spread_for_length_sd(base, 3, Heterogeneous(base, 0.55).length_sd(3)) == pytest.approx(0.55, abs=1e-5)
    with pytest.raises(InputError, match="more than acceptance lengths"):
        spread_for_length_sd(base, 3, 9.0)


def test_fit_keeps_draft_lengths_apart_also_within_a_request() -> None:
    steps = {"per_step_drafted": [3, 3, 1, 1, 1], "per_step_accepted": [3, 0, 1, 0, 1]}
    adaptive = SpecDecodeAcceptanceRecord.from_dict({**steps, "num_draft_tokens": 9})
    fitted = fit_by_draft_length([adaptive])
    assert [row.k for row in fitted.rows] == [1, 3]
    assert fitted.rows[0].conditional == pytest.approx((2 / 3,))
    assert fitted.rows[1].conditional == pytest.approx((0.5, 1.0, 1.0))
    with pytest.raises(InputError, match="fit one at a time"):
        fit_per_position([adaptive])
    totals = SpecDecodeAcceptanceRecord.from_dict({"acceptance_histogram": [1, 1], "num_draft_tokens": 5})
    with pytest.raises(InputError, match="per_step_drafted"):
        fit_by_draft_length([totals])


def test_recorded_requests_keep_the_pooled_survival() -> None:
    records = [record({0: 2, 3: 1}), record({1: 4})]
    np.testing.assert_allclose(fit_recorded(records).survival(3), fit_per_position(records).survival(3))
