"""Trace files: every layout reads to the same requests, and every mistake names its file, row and field."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.interop.traces import read_trace
from specsim.simulation.workload import Workload

TIMES, PROMPTS, OUTPUTS = (0.0, 0.25, 90.5), (374, 396, 879), (44, 109, 55)


def splitwise(times, prompts, outputs):
    rows = [f"{t},{p},{o}" for t, p, o in zip(times, prompts, outputs, strict=True)]
    return "\n".join(["arrived_at,num_prefill_tokens,num_decode_tokens", *rows]) + "\n"


def azure(times, prompts, outputs):
    rows = []
    for t, p, o in zip(times, prompts, outputs, strict=True):
        ticks = round(t * 1e7)
        minutes, seconds = divmod(ticks / 1e7, 60)
        rows.append(f"2023-11-16 18:{15 + int(minutes):02d}:{seconds:010.7f},{p},{o}")
    return "\r\n".join(["TIMESTAMP,ContextTokens,GeneratedTokens", *rows]) + "\r\n"


def burst(times, prompts, outputs):
    rows = [
        f"{5 + t},ChatGPT,{p},{o},{p + o},Conversation log" for t, p, o in zip(times, prompts, outputs, strict=True)
    ]
    return "\n".join(["Timestamp,Model,Request tokens,Response tokens,Total tokens,Log Type", *rows])


def mooncake(times, prompts, outputs):
    rows = zip(times, prompts, outputs, strict=True)
    lines = [
        json.dumps({"timestamp": 1000 * t, "input_length": p, "output_length": o, "hash_ids": [1]}) for t, p, o in rows
    ]
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("write", [splitwise, azure, burst, mooncake])
def test_every_layout_reads_to_the_same_requests(tmp_path, write):
    path = tmp_path / "trace"
    path.write_text(write(TIMES, PROMPTS, OUTPUTS))
    trace = read_trace(path)
    assert trace.arrival_s == pytest.approx(TIMES, abs=2e-7)
    assert trace.prompt_tokens == PROMPTS
    assert trace.output_tokens == OUTPUTS


def test_azure_2024_with_time_zone(tmp_path):
    path = tmp_path / "azure.csv"
    path.write_text(
        "TIMESTAMP,ContextTokens,GeneratedTokens\n"
        "2024-05-10 00:00:00.009930+00:00,2162,5\n"
        "2024-05-10 00:00:01+00:00,9,8\n"
    )
    assert read_trace(path).arrival_s == pytest.approx((0.0, 0.99007), abs=2e-7)


@settings(max_examples=25, deadline=None)
@given(
    rows=st.lists(st.tuples(st.floats(0, 1e6), st.integers(1, 10**6), st.integers(1, 10**6)), min_size=1, max_size=20)
)
def test_splitwise_round_trip(rows, tmp_path_factory):
    rows.sort()
    times, prompts, outputs = (list(column) for column in zip(*rows, strict=True))
    path = tmp_path_factory.mktemp("t") / "trace.csv"
    path.write_text(splitwise(times, prompts, outputs))
    trace = read_trace(path)
    np.testing.assert_allclose(trace.arrival_s, np.array(times) - times[0], rtol=1e-12)
    assert trace.prompt_tokens == tuple(prompts)
    assert trace.output_tokens == tuple(outputs)


HEAD = "arrived_at,num_prefill_tokens,num_decode_tokens\n"
MISTAKES = [
    ("", "is empty"),
    ("\n \n", "is empty"),
    (HEAD, "no rows"),
    ("a,b,c\n1,2,3\n", "columns a, b, c are of no known trace"),
    (HEAD + "0,10,10\n1,,5\n", "row 2: num_prefill_tokens: missing"),
    (HEAD + "0,10,10\n1,5\n", "row 2: num_decode_tokens: missing"),
    (HEAD + "0,nan,10\n", "row 1: num_prefill_tokens: 'nan' is not a finite number"),
    (HEAD + "inf,10,10\n", "row 1: arrived_at: 'inf' is not a finite number"),
    (HEAD + "0,-3,10\n", "row 1: num_prefill_tokens: -3 is not a number of tokens"),
    (HEAD + "0,1,0\n", "row 1: num_decode_tokens: 0 is not a number of tokens"),
    (HEAD + "0,1,2.5\n", "row 1: num_decode_tokens: 2.5 is not a number of tokens"),
    (HEAD + "3,1,1\n2,1,1\n", "row 2: arrived_at: '2' is earlier than the row before"),
    (HEAD + "soon,1,1\n", "row 1: arrived_at: 'soon' is not a number"),
    (
        "TIMESTAMP,ContextTokens,GeneratedTokens\nyesterday,1,1\n",
        "row 1: TIMESTAMP: 'yesterday' is not a date and time",
    ),
    ('{"timestamp": 0, "input_length": 1}\n', "row 1: output_length: missing"),
    ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n{oops\n', "row 2: not JSON"),
    ('{"timestamp": 0, "input_length": 1, "output_length": 1}\n[1]\n', "row 2: not a JSON object"),
]


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_mistakes_name_file_row_and_field(tmp_path, text, message):
    path = tmp_path / "bad.trace"
    path.write_text(text)
    with pytest.raises(InputError) as caught:
        read_trace(path)
    (line,) = caught.value.lines
    assert "bad.trace" in line
    assert message in line


def test_absent_and_binary_files(tmp_path):
    with pytest.raises(InputError, match="cannot be read: No such file"):
        read_trace(tmp_path / "none.csv")
    (tmp_path / "b").write_bytes(b"\xff\xfe\x00\x81")
    with pytest.raises(InputError, match="not a text file"):
        read_trace(tmp_path / "b")


@pytest.mark.data
@pytest.mark.parametrize(("name", "rows"), [("splitwise_conv.csv", 19366), ("splitwise_code.csv", 8819)])
def test_production_traces(shared_data, name, rows):
    trace = read_trace(shared_data / "traces" / name)
    assert len(trace.arrival_s) == rows
    made = Workload(trace).sample(rows, np.random.default_rng(0))
    assert made.arrival_s[0] == 0
    assert made.arrival_s[-1] == trace.arrival_s[-1]
