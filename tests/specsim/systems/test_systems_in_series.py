"""Every composition runs as one stream under the common ledger, at the speed that its law says."""

import numpy as np
import pytest

from specsim.drafting.trees import OptimalTrees
from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.systems import bild, fast_blt, hsd, magicdec, pyramid_sd, rsd, sequoia, specformer, staged

RNG = np.random.default_rng


def _sequoia():
    tokens = OptimalTrees.of(sequoia.SHIPPED_ACCEPTANCE, nodes=128, depth=10).expected_tokens(128, 10)
    return sequoia.tree_speedup(tokens, verify_ratio=1.044, draft_ratio=0.0207, depth=10)


def _bild():
    return 1.0 / bild.per_token(bild.Fates(0.2, 0.05)).time(0.3)


def _fast_blt():
    whole = fast_blt.DECODER + fast_blt.ENCODER_AND_GLOBAL
    counts = fast_blt.self_speculation(8, fast_blt.accepted_share(8, 0.9), text=1)
    return whole / (counts.gigabytes * 1e9 / fast_blt.BYTES_PER_PARAMETER)


def _staged():
    tree = OptimalTrees.of(staged.rank_law(0.7), nodes=32, depth=12).tree(32, 12)
    passes = staged.drafting_passes(0.6, depth=tree.depth)
    return 1.0 / staged.bandwidth(tree.expected_tokens(staged.rank_law(0.7)), passes)


def _magicdec():
    law, kv = magicdec.with_query_cost(magicdec.plain_law(), 64), magicdec.LLAMA31_KV_BYTES
    gain = magicdec.speedup(law, batch=32, context=16_000, k=4, rate=0.82, kv_bytes=kv, budget=512)
    return gain / law.seconds(32, 16_000, kv_bytes=kv)


CASES = {
    "sequoia": (lambda r: sequoia.simulate(r, tokens=60_000), _sequoia),
    "bild": (lambda r: bild.simulate(r, fallback=0.2, rollback=0.05, correlation=0.0, small_over_large=0.3), _bild),
    "fast-blt": (lambda r: fast_blt.simulate(r, k=8, rate=0.9), _fast_blt),
    "staged": (lambda r: staged.simulate(r, rate=0.7, agreement=0.6, tokens=40_000), _staged),
    "magicdec": (lambda r: magicdec.simulate(r, batch=32, context=16_000, k=4, rate=0.82), _magicdec),
    "hsd": (
        lambda r: hsd.simulate(r, tokens=40_000),
        lambda: 1.0 / hsd.seconds_per_token(hsd.Hierarchy((0.05, 0.3, 1.0), (0.75, 0.85), (4, 6))),
    ),
    "pyramid-sd": (
        lambda r: pyramid_sd.simulate(r, tokens=60_000),
        lambda: 1.0 / hsd.seconds_per_token(pyramid_sd.three_models(0.5, 0.5, 15, 25)),
    ),
    "specformer": (
        lambda r: specformer.simulate(r),
        lambda: specformer.tokens_per_s(
            1, kappa=1.75, theta=1.2, floor_s=0.033, parameters=8e9, chip=specformer.Chip(989e12, 3.35e12), k=4
        ),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_stream_runs_at_the_speed_of_its_law(name):
    simulate, law = CASES[name]
    assert simulate(RNG(5)).tokens_per_s == pytest.approx(law(), rel=0.025)


def test_a_stream_ends_at_its_length_and_counts_what_it_wasted():
    made = rsd.simulate(RNG(0), tokens=3000)
    assert made.result.output_tokens.tolist() == [3000]
    assert made.result.accepted.sum() + made.wasted_tokens == made.result.drafted.sum()
    assert made.servers[0].busy_s == pytest.approx(made.result.duration_s)


def _rounds(drafted, accepted, emitted, seconds):
    return lambda n: Drawn(*(np.full(n, x) for x in (drafted, accepted, emitted)), np.full(n, float(seconds)))


@pytest.mark.parametrize(
    ("rounds", "message"),
    [
        (_rounds(2, 3, 4, 1.0), "accepts 3 of 2 drafted"),
        (_rounds(2, 1, 0, 1.0), "none of a block emits"),
        (_rounds(2, 1, 2, 0.0), "takes no time"),
    ],
)
def test_impossible_rounds_are_named_at_once(rounds, message):
    with pytest.raises(InputError, match=message):
        in_series(rounds, tokens=10)
