"""Every mistake in a scenario is one line that names file, field, value and remedy; several come at once."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from specsim.errors import InputError
from specsim.scenario import load_scenario

GOOD = (Path(__file__).parent / "good.toml").read_text()


def mistakes(path: Path, text: str | bytes) -> tuple[str, ...]:
    """The lines that loading ``text`` reports, without the file's folder."""
    file = path / "my.toml"
    file.write_bytes(text.encode() if isinstance(text, str) else text)
    with pytest.raises(InputError) as caught:
        load_scenario(file)
    return tuple(line.replace(f"{path}/", "") for line in caught.value.lines)


def test_the_scenario_that_the_mistakes_are_made_in_is_right(tmp_path: Path) -> None:
    (tmp_path / "my.toml").write_text(GOOD)
    loaded = load_scenario(tmp_path / "my.toml").scenario
    assert loaded.drafters[0].acceptance is not None
    assert loaded.drafters[0].num_speculative_tokens == (0, 1, 2, 3)


WRONG = {
    "range": ("[0, 1, 2, 3]", "-1", "drafter.num_speculative_tokens: -1 must be at least 0"),
    "unknown key": ("max_num_seqs", "max_num_seq", "serving.max_num_seq: 256: unknown key; did you mean max_num_seqs?"),
    "unknown table": ("[serving]", "[serve]", "serve: unknown table; did you mean [serving]?"),
    "misspelt required key": ("model =", "modle =", "unknown key; did you mean model?"),
    "share as percent": ("utilization = 0.9", "utilization = 90", "did you mean 0.9?"),
    "rate as percent": ("[0.70, 0.66, 0.64]", "[70, 0.66, 0.64]", "acceptance.per_position[0]: 70 must be"),
    "unit in the key": ("ttft_p95_ms", "ttft_p95_s", "did you mean ttft_p95_ms? Its unit is ms"),
    "seconds for milliseconds": ("tpot_p95_ms = 50", "tpot_p95_ms = 0.05", "in milliseconds; did you mean 50?"),
    "nan": ("rate_per_s = 4.0", "rate_per_s = nan", "workload.arrivals.rate_per_s: nan must be a finite number"),
    "infinite": ("gpu_hour = 2.5", "gpu_hour = inf", "price.gpu_hour: inf must be a finite number"),
    "negative rate": ("rate_per_s = 4.0", "rate_per_s = -4.0", "workload.arrivals.rate_per_s: -4.0 must be above 0"),
    "text for a number": ("tensor_parallel = 1", 'tensor_parallel = "1"', "must be a whole number, without quotes"),
    "number for a text": ('engine = "vllm"', "engine = 1", "target.engine: 1 must be one of vllm"),
    "bool for a number": ("max_num_seqs = 256", "max_num_seqs = true", "serving.max_num_seqs: true must be a whole"),
    "float for a whole number": ("max_num_seqs = 256", "max_num_seqs = 256.0", "did you mean 256?"),
    "method": ('"eagle3"', '"eagel3"', 'did you mean "eagle3"?'),
    "method between two": ('"eagle3"', '"eagle4"', 'did you mean "eagle" or "eagle3"?'),
    "engine": ('"vllm"', '"vlm"', 'target.engine: "vlm" must be one of vllm, sglang, trtllm; did you mean "vllm"?'),
    "kind": ('"poisson"', '"poison"', 'workload.arrivals: kind = "poison" is unknown; did you mean "poisson"?'),
    "kind missing": (
        'kind = "lognormal", ',
        "",
        "workload.prompt_tokens: kind is missing; give kind = one of",
    ),
    "key of another kind": (
        "tokens = 256",
        "mean = 256",
        "workload.output_tokens.mean: 256: unknown key; did you mean tokens?",
    ),
    "missing section": ("[target]", "[price2]", "target: is missing"),
    "missing key": ('hardware = "h100_sxm"', "", "target.hardware: is missing (GPU:"),
    "two kinds of acceptance": (
        "[0.70, 0.66, 0.64]",
        "[0.7]\nrate = 0.7",
        "acceptance: rate and per_position given; give",
    ),
    "no kind of acceptance": (
        "per_position = [0.70, 0.66, 0.64]",
        "between_requests_sd = 0.3",
        "acceptance: none given",
    ),
    "length without K": ("per_position = [0.70, 0.66, 0.64]", "length = 2.4", "acceptance: length 2.4 needs at_k"),
    "K without length": ("[0.70, 0.66, 0.64]", "[0.7]\nat_k = 3", "acceptance: at_k has no effect without length"),
    "length beyond K+1": ("per_position = [0.70, 0.66, 0.64]", "length = 5\nat_k = 3", "is above 4, the most"),
    "survival that rises": (
        "per_position = [0.70, 0.66, 0.64]",
        "survival = [0.5, 0.6]",
        "acceptance.survival: [0.5, 0.6] must never",
    ),
    "memory without spread": (
        "[0.70, 0.66, 0.64]",
        "[0.7]\nround_correlation = 0.5",
        "no effect without within_requests",
    ),
    "set without file": ("[0.70, 0.66, 0.64]", '[0.7]\ndataset = "sharegpt"', "dataset has no effect without file"),
    "acceptance file missing": (
        "per_position = [0.70, 0.66, 0.64]",
        'file = "no.json"',
        "my.toml: acceptance: no.json: cannot be read",
    ),
    "acceptance that does not ship": ("per_position = [0.70, 0.66, 0.64]", 'shipped = "gpt5"', "there is llama31_8b"),
    "empty list": ("[0.70, 0.66, 0.64]", "[]", "acceptance.per_position: [] must hold at least 1"),
    "evidence of a drafter that drafts nothing": ('"eagle3"', '"none"', "drafter: method none drafts nothing"),
    "model where none is used": (
        'method = "eagle3"',
        'method = "ngram"\nmodel = "x"',
        'drafter: model "x" has no effect',
    ),
    "draft model without a model": ('"eagle3"', '"draft_model"', "drafter: method draft_model needs model"),
    "more drafted than the budget": (
        "max_num_batched_tokens = 8192",
        "max_num_batched_tokens = 3\nblock_size = 16",
        "drafter.num_speculative_tokens: 3 drafted tokens and the bonus are more than",
    ),
    "budget below the batch": (
        "max_num_batched_tokens = 8192",
        "max_num_batched_tokens = 128",
        "is below max_num_seqs",
    ),
    "two cache sizes": ("utilization = 0.9", "utilization = 0.9\nnum_gpu_blocks = 100", "both set the cache"),
    "precision that the GPU lacks": (
        'hardware = "h100_sxm"\nengine = "vllm"\ndtype = "bf16"',
        'hardware = "a100_sxm"\ndtype = "fp8"',
        'target.dtype: "fp8": a100_sxm has no fp8 arithmetic; it has bf16',
    ),
    "unknown model": (
        "Llama-3.1-8B",
        "Llama-3.1-9B",
        "target.model: no model 'meta-llama/Llama-3.1-9B' ships; did you mean",
    ),
    "experts' precision of a dense model": (
        'dtype = "bf16"',
        'dtype = "mxfp4"',
        'target.dtype: "mxfp4" is 4-bit experts, and meta-llama/Llama-3.1-8B has none',
    ),
    "replicas of a closed loop": (
        '[workload]\narrivals = { kind = "poisson", rate_per_s = 4.0 }',
        '[simulation]\nreplicas = 2\n[workload]\narrivals = { kind = "closed", concurrency = 4 }',
        "simulation.replicas: 2 has no effect in a closed loop",
    ),
    "unlike any GPU": ('"h100_sxm"', '"rtx4090"', "target.hardware: no GPU 'rtx4090'; shipped: h100_sxm, "),
    "unknown GPU": ('"h100_sxm"', '"h100"', "target.hardware: no GPU 'h100'; did you mean 'h100_sxm'?"),
    "too large for its memory": (
        "Llama-3.1-8B",
        "Llama-3.1-70B",
        "target: meta-llama/Llama-3.1-70B at bf16 on 1 x h100",
    ),
    "cache that cannot hold a request": (
        "gpu_memory_utilization = 0.9",
        "num_gpu_blocks = 50",
        "serving: the cache holds 784 tokens (50 blocks of 16, one kept free) and a request of 1,024 prompt and 256",
    ),
    "head that does not fit": (
        'method = "eagle3"',
        'method = "eagle3"\nmodel = "nobody/head"',
        "my.toml: drafter.model: no eagle3 head 'nobody/head' ships",
    ),
    "no such profile": (
        'dtype = "bf16"',
        'dtype = "fp8_block"',
        "target.hardware: no profile of h100_sxm for vllm at fp8_block ships; there is",
    ),
    "impossible cut": ("tensor_parallel = 1", "tensor_parallel = 3", "target.tensor_parallel:"),
    "more GPUs than a node": ("tensor_parallel = 1", "tensor_parallel = 16", "a node of h100_sxm has 8"),
    "trace missing": (
        'kind = "poisson", rate_per_s = 4.0',
        'kind = "trace", file = "no.csv"',
        "workload.arrivals.file:",
    ),
    "quantiles that fall": (
        '{ kind = "fixed", tokens = 256 }',
        '{ kind = "quantiles", levels = [0, 0.5, 1], tokens = [1, 9, 5] }',
        "workload.output_tokens: tokens must not fall",
    ),
    "quantiles that do not pair": (
        '{ kind = "fixed", tokens = 256 }',
        '{ kind = "quantiles", levels = [0, 1], tokens = [1, 5, 9] }',
        "2 levels and 3 tokens",
    ),
    "table as a value": (
        "[price]\ngpu_hour = 2.5",
        "[price.gpu_hour]\nx = 2",
        "price.gpu_hour: a table must be a number",
    ),
    "value as a table": ("[price]\ngpu_hour = 2.5", "[[price]]\ngpu_hour = 2.5", "must be a table: [price]"),
}


@pytest.mark.parametrize(("old", "new", "expected"), WRONG.values(), ids=WRONG.keys())
def test_one_mistake_is_one_line_with_file_field_and_remedy(tmp_path: Path, old: str, new: str, expected: str) -> None:
    assert old in GOOD
    text = GOOD.replace(old, new, 1)
    if "max_num_batched_tokens = 3" in new:
        text = text.replace("max_num_seqs = 256", "max_num_seqs = 1")
    lines = mistakes(tmp_path, text)
    wanted = 1 + ("none drafts" in expected) + ("price2" in new)
    assert len(lines) == wanted, lines
    assert any(expected in line for line in lines), lines
    assert all(line.startswith("my.toml: ") and "\n" not in line for line in lines)


def test_all_mistakes_are_reported_at_once_even_across_tables(tmp_path: Path) -> None:
    text = (
        GOOD.replace("max_num_seqs = 256", "max_num_seqs = 0")
        .replace("h100_sxm", "h1000")
        .replace("[0.70, 0.66, 0.64]", "[1.70, 0.66, 0.64]")
        .replace('"poisson"', '"posson"')
        .replace("gpu_hour = 2.5", "gpu_hours = 2.5")
    )
    lines = mistakes(tmp_path, text)
    assert len(lines) == 5
    for part in ("serving.max_num_seqs", "target.hardware", "per_position[0]", "workload.arrivals", "price.gpu_hours"):
        assert sum(part in line for line in lines) == 1


def test_each_of_several_drafters_is_named_by_its_number(tmp_path: Path) -> None:
    drafters = """
[[drafter]]
method = "eagle3"
num_speculative_tokens = 3
acceptance = { rate = 0.7 }
[[drafter]]
method = "ngram"
num_speculative_tokens = -3
acceptance = { rate = 7 }
"""
    head, tail = GOOD.split("[drafter]")
    rest = "[workload]" + tail.split("[workload]")[1]
    lines = mistakes(tmp_path, head + drafters + rest)
    assert len(lines) == 2
    assert all(line.startswith("my.toml: drafter #2.") for line in lines)


def test_a_top_level_acceptance_is_refused_where_it_could_be_about_several_drafters(tmp_path: Path) -> None:
    text = GOOD.replace("[drafter]", "[[drafter]]") + '\n[[drafter]]\nmethod = "ngram"\n'
    assert "is about one drafter, and there are 2" in mistakes(tmp_path, text)[0]


def test_acceptance_in_both_places_is_refused(tmp_path: Path) -> None:
    text = GOOD.replace('method = "eagle3"', 'method = "eagle3"\nacceptance = { rate = 0.7 }')
    assert mistakes(tmp_path, text) == (
        "my.toml: acceptance: is given at the top and in the drafter; keep one of them",
    )


def test_drafters_of_one_name_are_refused(tmp_path: Path) -> None:
    text = GOOD.replace("[drafter]", "[[drafter]]").replace("[acceptance]", "[drafter.acceptance]")
    text += '\n[[drafter]]\nmethod = "eagle3"\n'
    assert 'drafter #2.name: "eagle3" is taken' in mistakes(tmp_path, text)[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"[target\nmodel = 1\n", "my.toml: line 1, column 8: "),
        (b"[target]\nmodel = \n", "my.toml: line 2, column 9: "),
        (b"x = [1,", "my.toml: line 1, column 8: "),
        (b"\x89PNG\r\n\x1a\n\xff\x00", "my.toml: is not UTF-8 text"),
        ("model = \u201cx\u201d".encode("utf-16"), "my.toml: is not UTF-8 text"),
        (b"", "my.toml: target: is missing"),
    ],
    ids=["unclosed table", "no value", "cut short", "binary", "utf-16", "empty"],
)
def test_a_file_that_is_no_scenario_is_one_line(tmp_path: Path, content: bytes, expected: str) -> None:
    lines = mistakes(tmp_path, content)
    assert len(lines) == 1
    assert lines[0].startswith(expected)


def test_a_missing_file_and_a_directory_are_one_line(tmp_path: Path) -> None:
    for path, expected in ((tmp_path / "none.toml", "no such file"), (tmp_path, "is a directory")):
        with pytest.raises(InputError, match=expected) as caught:
            load_scenario(path)
        assert len(caught.value.lines) == 1


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is empty"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n", "at least one"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\nnan,10,10\n", "row 1: arrived_at: 'nan'"),
        ("arrived_at,num_prefill_tokens,num_decode_tokens\n0.0,10,0\n", "row 1: num_decode_tokens: 0"),
        ("a,b\n1,2\n", "columns"),
    ],
    ids=["empty", "no requests", "nan", "no output", "unknown columns"],
)
def test_a_trace_that_holds_no_requests_is_one_line(tmp_path: Path, content: str, expected: str) -> None:
    (tmp_path / "trace.csv").write_text(content)
    lines = mistakes(tmp_path, GOOD.replace('kind = "poisson", rate_per_s = 4.0', 'kind = "trace", file = "trace.csv"'))
    assert len(lines) == 1
    assert lines[0].startswith("my.toml: workload.arrivals.file: trace.csv")
    assert expected in lines[0]


def config_of(path: Path, quantization: object) -> str:
    """A scenario whose target's config.json says how its weights are kept."""
    from specsim.cost.model import _catalogue

    config = _catalogue()["meta-llama/Llama-3.1-8B"]["config"] | {"quantization_config": quantization}
    (path / "config.json").write_text(json.dumps(config))
    return GOOD.replace("meta-llama/Llama-3.1-8B", "./config.json")


COMPRESSED = {
    "quant_method": "compressed-tensors",
    "config_groups": {
        "group_0": {"weights": {"num_bits": 8, "type": "float"}, "input_activations": {"dynamic": True}},
    },
}
INT4 = {
    "quant_method": "compressed-tensors",
    "config_groups": {"group_0": {"weights": {"num_bits": 4, "type": "int"}}},
}


@pytest.mark.parametrize(
    ("quantization", "expected"),
    [
        ({"quant_method": "awq", "bits": 4}, "4-bit awq weights, which no profile prices; give the config.json of"),
        ({"quant_method": "gptq", "bits": 8}, "8-bit gptq weights, which no profile prices"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "4-bit bitsandbytes weights, which no profile"),
        (INT4, "compressed-tensors 4-bit int weights, which no profile prices"),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4"}, "modelopt weights, which no profile prices"),
        ({"quant_method": "fp8", "activation_scheme": "dynamic"}, 'so give dtype = "fp8" (--dtype fp8)'),
        ({"quant_method": "fp8", "activation_scheme": "static"}, 'so give dtype = "fp8_static"'),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, 'so give dtype = "fp8_block"'),
        (COMPRESSED, 'so give dtype = "fp8" (--dtype fp8)'),
        ({"quant_method": "mxfp4"}, 'so give dtype = "mxfp4"'),
    ],
)
def test_a_checkpoint_is_priced_as_it_is_kept_or_refused(tmp_path: Path, quantization: object, expected: str) -> None:
    (line,) = mistakes(tmp_path, config_of(tmp_path, quantization))
    assert line.startswith('my.toml: target.dtype: "bf16": quantization_config of')
    assert expected in line


def test_a_scenario_that_says_how_the_checkpoint_is_kept_is_right(tmp_path: Path) -> None:
    text = config_of(tmp_path, {"quant_method": "fp8", "activation_scheme": "dynamic"})
    for dtype in ("fp8", "fp8_static"):
        (tmp_path / "my.toml").write_text(text.replace('"bf16"', f'"{dtype}"'))
        assert load_scenario(tmp_path / "my.toml").scenario.target.dtype == dtype
