"""Kernel tables as a cost: grid points come back exactly, laws between them hold, and gaps are refused."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from calibration.sources.llmservingsim import PER_LAYER, capture_sizes, read_kernels
from specsim.errors import InputError
from specsim.simulation.program import Batch, PrefillChunk

LAYERS = 4
CHUNKS, PASTS, NS, KVS = (16, 32, 64), (0, 16, 32), (1, 2, 4), (16, 32, 64)


def attention_us(chunk, past, n, kv):
    return 5.0 + 0.02 * chunk**1.5 + 0.001 * chunk * past + 0.01 * n * kv * (2 if chunk else 1)


@pytest.fixture
def tables(tmp_path):
    rows = [
        (name, t, 10 + 0.5 * t) for name in (*PER_LAYER, "embedding", "final_layernorm") for t in (1, 8, 16, 64, 128)
    ]
    pd.DataFrame(rows, columns=["layer", "tokens", "time_us"]).to_csv(tmp_path / "dense.csv", index=False)
    rows = [(name, s, 20 + s) for name in ("lm_head", "sampler") for s in (1, 4, 8)]
    pd.DataFrame(rows, columns=["layer", "sequences", "time_us"]).to_csv(tmp_path / "per_sequence.csv", index=False)
    grid = [(0, 0, n, kv) for n, kv in itertools.product(NS, KVS)]
    for chunk, past in itertools.product(CHUNKS, PASTS):
        grid += [(chunk, past, 0, 0), *((chunk, past, n, kv) for n, kv in itertools.product(NS, KVS))]
    attention = pd.DataFrame(grid, columns=["prefill_chunk", "kv_prefill", "n_decode", "kv_decode"])
    attention["time_us"] = [attention_us(*row) for row in grid]
    attention.to_csv(tmp_path / "attention.csv", index=False)
    return tmp_path


def cost(tables, sizes=()):
    return read_kernels(tables, layers=LAYERS, graph_sizes=sizes)


def seconds(term, made):
    return made.terms[term].seconds


def test_grid_points_come_back(tables):
    priced = cost(tables)
    for n, kv in itertools.product(NS, KVS):
        assert seconds("attention", priced(Batch(n, n * kv))) == pytest.approx(
            LAYERS * attention_us(0, 0, n, kv) * 1e-6
        )
    for chunk, past, n, kv in itertools.product(CHUNKS, PASTS, NS, KVS):
        made = priced(Batch(n, n * kv, prefill=(PrefillChunk(chunk, past),)))
        assert seconds("attention", made) == pytest.approx(LAYERS * attention_us(chunk, past, n, kv) * 1e-6)
    once_and_layers = (2 + LAYERS * sum(PER_LAYER.values())) * (10 + 0.5 * 8)
    assert seconds("dense", priced(Batch(8, 8 * 16))) == pytest.approx(once_and_layers * 1e-6)
    assert seconds("head", priced(Batch(4, 64))) == pytest.approx(24e-6)


def test_affine_between_points_and_beyond(tables):
    priced = cost(tables)
    for n, kv in ((3, 24), (2, 50), (6, 100)):
        assert seconds("attention", priced(Batch(n, n * kv))) == pytest.approx(
            LAYERS * attention_us(0, 0, n, kv) * 1e-6
        )


def test_many_iterations_price_as_one_by_one(tables):
    priced = cost(tables)
    n, kv = np.array([1, 2, 4, 3]), np.array([20, 60, 250, 100])
    together = priced(Batch(n, kv, prefill=(PrefillChunk(20, 0),))).total_s
    apart = [priced(Batch(a, b, prefill=(PrefillChunk(20, 0),))).total_s for a, b in zip(n, kv, strict=True)]
    np.testing.assert_allclose(together, apart)


def test_chunks_share_the_mix_but_not_each_others_attention(tables):
    """Two fresh chunks cost their own attention plus what decodes cost beside them, not that of one long prompt."""
    priced = cost(tables)
    alone = [float(seconds("attention", priced(Batch(0, 0, prefill=(PrefillChunk(32, 0),))))) for _ in range(2)]
    both = float(seconds("attention", priced(Batch(0, 0, prefill=(PrefillChunk(32, 0), PrefillChunk(32, 0))))))
    assert both == pytest.approx(sum(alone))


def test_padding_to_captured_sizes(tables):
    padded, plain = cost(tables, (8, 16)), cost(tables)
    assert seconds("dense", padded(Batch(3, 60))) == seconds("dense", plain(Batch(8, 160)))
    assert seconds("dense", padded(Batch(20, 400))) == seconds("dense", plain(Batch(20, 400)))


def test_only_finished_prompts_need_logits(tables):
    priced = cost(tables)
    assert seconds("head", priced(Batch(0, 0, prefill=(PrefillChunk(16, 0, last=False),)))) == 0
    assert seconds("head", priced(Batch(0, 0, prefill=(PrefillChunk(16, 0, last=True),)))) > 0


def test_capture_sizes_are_the_measured_server_s():
    assert capture_sizes(256) == (1, 2, 4, *range(8, 256, 8), *range(256, 513, 16))
    assert len(capture_sizes(256)) == 51
    assert capture_sizes(128)[-1] == 256


def test_missing_file_and_missing_point_are_named(tables):
    (tables / "per_sequence.csv").rename(tables / "gone.csv")
    with pytest.raises(InputError, match=r"per_sequence\.csv"):
        cost(tables)
    (tables / "gone.csv").rename(tables / "per_sequence.csv")
    attention = pd.read_csv(tables / "attention.csv")
    attention.drop(index=attention.index[20]).to_csv(tables / "attention.csv", index=False)
    with pytest.raises(InputError, match=r"attention\.csv.*missing"):
        cost(tables)
