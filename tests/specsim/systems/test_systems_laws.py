"""Systems whose claim is a law: of latency, bandwidth, counts or step cost."""

import numpy as np
import pytest

from specsim.errors import InputError
from specsim.systems import dsbd, fast_blt, hsd, kong, magicdec, pyramid_sd, spec_bench, specformer, staged
from specsim.verification.lossy import beam_layer_law

RNG = np.random.default_rng


def _missed(rows):
    return [row.what for row in rows if row.verdict == "missed"]


# MagicDec


def test_latencies_are_a_floor_and_the_caches_bandwidth():
    rows = magicdec.rows()
    assert len(rows) == 23
    assert _missed(rows) == []
    assert magicdec.plain_law().bytes_per_s / magicdec.A100_BANDWIDTH == pytest.approx(0.82, abs=0.02)


@pytest.mark.parametrize(("context", "sign"), [(1_000, -1), (8_000, 1), (32_000, 1), (100_000, 1)])
def test_speedup_rises_with_batch_at_long_contexts_and_falls_at_short_ones(context, sign):
    law = magicdec.with_query_cost(magicdec.plain_law(), 64)
    best = [
        max(
            magicdec.speedup(
                law, batch=b, context=context, k=k, rate=0.82, kv_bytes=magicdec.LLAMA31_KV_BYTES, budget=512
            )
            for k in range(1, 8)
        )
        for b in (32, 64, 128, 256)
    ]
    assert np.all(sign * np.diff(best) > 0)


# DSBD


def _layers(n, vocab, rng):
    return tuple(dsbd.Layer(rng.dirichlet(np.full(vocab, 0.6)), rng.dirichlet(np.full(vocab, 0.6))) for _ in range(n))


@pytest.mark.parametrize("seed", range(4))
def test_counts_of_accepted_beams_follow_the_recursion_and_the_first_beam_has_the_targets_law(seed):
    rng, drafts, trials = RNG(seed), 2 + seed, 100_000
    (layer,) = _layers(1, 10, rng)
    counts, first = dsbd.run_layer(layer, drafts=drafts, wanted=1, trials=trials, rng=rng)
    law = dsbd.count_law(dsbd.acceptance_by_failures(layer.p, layer.q, drafts))
    assert law.sum() == pytest.approx(1.0)
    assert np.abs(np.bincount(counts, minlength=drafts + 1) / trials - law).max() < 0.005
    share = np.bincount(first, minlength=10) / trials
    assert 0.5 * np.abs(share - layer.p).sum() < 0.006


def test_the_exact_law_of_a_layer_accepts_as_often():
    rng = RNG(9)
    (layer,) = _layers(1, 4, rng)
    exact = beam_layer_law(layer.p.tolist(), layer.q.tolist(), beams=1, candidates=2)
    marginal = np.zeros(4)
    for outcome, mass in exact.items():
        marginal[outcome[0]] += float(mass)
    assert np.allclose(marginal, layer.p)


@pytest.mark.parametrize("threshold", [0.7, 0.9])
def test_target_calls_per_step_are_the_theorem_at_the_measured_acceptance(threshold):
    rng = RNG(10)
    ran = dsbd.run_rounds(_layers(40, 12, rng), drafts=6, gamma=3, threshold=threshold, least=1, rounds=60_000, rng=rng)
    assert 1 / ran.steps.mean() == pytest.approx(dsbd.target_calls_per_step(ran.acceptance, 3), rel=0.02)


def test_width_is_the_most_that_is_likely_enough():
    alphas = dsbd.acceptance_by_failures([0.6, 0.4], [0.5, 0.5], 5)
    law = dsbd.count_law(alphas)
    wide = dsbd.width(alphas, threshold=0.5, least=1)
    assert law[wide:].sum() >= 0.5 > law[wide + 1 :].sum()
    assert dsbd.width(alphas, threshold=0.999, least=2) >= 2
    with pytest.raises(InputError):
        dsbd.width(alphas, threshold=0.5, least=6)


# Fast BLT


def test_byte_counts_and_gigabytes():
    assert _missed(fast_blt.rows()) == []


@pytest.mark.parametrize(("k", "rate"), [(4, 0.97), (8, 0.96), (16, 0.9)])
def test_simulated_bytes_need_the_passes_that_their_acceptance_says(k, rate):
    counts, share = fast_blt.run_self_speculation(k, rate, text=4096, texts=400, rng=RNG(11))
    assert share == pytest.approx(fast_blt.accepted_share(k, rate), abs=0.004)
    law = fast_blt.self_speculation(k, share, text=4096)
    assert counts.decoder == pytest.approx(law.decoder, rel=0.01)
    assert counts.gigabytes == pytest.approx(law.gigabytes, rel=0.01)


# Staged


def test_the_greedy_column_predicts_the_other_with_one_tree():
    assert _missed(staged.rows()) == []


def test_three_stages_simulated_meet_the_renewal_sum_and_read_what_the_law_says():
    known = staged.fitted()
    tokens, passes = staged.run_staged(
        known.tree, known.rates["greedy"], known.agreement, ahead=staged.AHEAD, rounds=60_000, rng=RNG(12)
    )
    assert passes == pytest.approx(staged.drafting_passes(known.agreement, depth=known.tree.depth), rel=0.01)
    assert staged.bandwidth(tokens, passes) == pytest.approx(0.23, rel=0.01)
    assert staged.drafting_passes(0.0, depth=9) == pytest.approx(9)


# PyramidSD


def test_pyramid_rows():
    rows = pyramid_sd.rows()
    predicted = [r for r in rows if "SD" in r.what and "K =" in r.what and "fitted" not in r.what]
    assert len(predicted) == 25
    errors = np.abs([r.error for r in predicted])
    assert (errors <= 0.10).sum() >= 23
    assert errors.max() < 0.115
    three = [r for r in rows if r.what.startswith(("PSD", "best"))]
    assert len(three) == 11
    assert max(abs(r.error) for r in three) < 0.12


def test_three_models_simulated_are_the_stack():
    stack = pyramid_sd.three_models(0.5, 0.5, 5, 25)
    assert hsd.run(stack, rounds=3000, rng=RNG(13)).seconds_per_token == pytest.approx(
        hsd.seconds_per_token(stack), rel=0.01
    )


# SpecFormer


def test_throughput_from_the_plain_rows_floor():
    assert _missed(specformer.rows()) == []


@pytest.mark.parametrize("k", [2, 4, 8])
def test_the_roofline_gain_is_whole_until_the_crossover_and_gone_beyond_it(k):
    chip = specformer.Chip(specformer.A100_FLOPS, specformer.A100_BANDWIDTH)
    assert chip.ratio == pytest.approx(152.86, abs=0.01)
    crossover = chip.ratio / (k + 1)
    gains = {
        b: specformer.roofline_speedup(8e9, batch=b, k=k, tokens_per_step=1.8, chip=chip)
        for b in (1, int(crossover), int(crossover) + 2, 400)
    }
    below, at, beyond, far = gains.values()
    assert below == at == pytest.approx(1.8)
    assert beyond < at
    assert far < 1


# Kong


def _golden(k):
    return kong.law(kong.GOLDEN_ALONE, kong.GOLDEN_SHARED, output=512, k=k, rate=0.6)


def test_golden_values_of_the_law():
    laws = [_golden(k) for k in range(11)]
    assert (laws[0].alone_s, laws[0].per_request_s) == pytest.approx((10.28, 0.138))
    assert min(range(11), key=lambda k: laws[k].alone_s) == 3
    assert laws[3].alone_s == pytest.approx(6.158, abs=5e-4)
    assert min(range(11), key=lambda k: laws[k].per_request_s) == 1
    assert laws[1].per_request_s == pytest.approx(0.1284, abs=5e-5)
    found = []
    for r in (0.0, 0.3, 0.6, 0.8, 0.9):
        rate = r / laws[0].per_request_s
        gains = {k: kong.speedup(laws[0], laws[k], rate) for k in range(1, 11) if rate < laws[k].capacity_per_s}
        best = max(gains, key=lambda k: gains[k])
        found.append((best, round(gains[best], 3)))
    assert found == [(3, 1.669), (2, 1.629), (2, 1.629), (1, 1.856), (1, 2.361)]


def test_gain_falls_with_load_exactly_when_the_second_ratio_exceeds_1_and_ends_at_the_break_even():
    plain = _golden(0)
    for k in range(1, 8):
        spec = _golden(k)
        rates = np.linspace(0, 0.95 * min(plain.capacity_per_s, spec.capacity_per_s), 20)
        gains = [kong.speedup(plain, spec, float(r)) for r in rates]
        assert (np.diff(gains) < 0).all() == (spec.per_request_s > plain.per_request_s)
        even = kong.break_even_per_s(plain, spec)
        if np.isfinite(even):
            assert kong.speedup(plain, spec, even) == pytest.approx(1.0)
    with pytest.raises(InputError, match="saturates"):
        plain.latency_s(8.0)


def test_the_fit_returns_the_law_that_made_its_runs():
    made = kong.Fitted((0.02, 5e-5, 7e-3), (1.7e-5, 2e-6, 4.5e-8))
    runs = [
        kong.Measured(p, g, f * made.law(p, g).capacity_per_s, 0.0)
        for p in (256, 1024)
        for g in (256, 768)
        for f in (0.1, 0.4, 0.7)
    ]
    runs = [
        kong.Measured(r.prompt, r.output, r.requests_per_s, made.law(r.prompt, r.output).latency_s(r.requests_per_s))
        for r in runs
    ]
    again = kong.fit(runs)
    for p, g in ((256, 512), (512, 1024)):
        assert again.law(p, g).alone_s == pytest.approx(made.law(p, g).alone_s, rel=0.02)
        assert again.law(p, g).per_request_s == pytest.approx(made.law(p, g).per_request_s, rel=0.02)


# Spec-Bench


def test_speedup_is_a_mean_of_speeds_and_accepted_tokens_a_mean_over_steps():
    fast = [spec_bench.Generation(np.array([4, 4]), 1.0), spec_bench.Generation(np.array([2]), 1.0)]
    slow = [spec_bench.Generation(np.ones(8, dtype=np.int64), 4.0), spec_bench.Generation(np.array([1, 1]), 1.0)]
    assert spec_bench.speedup(fast, slow) == pytest.approx(5.0 / 2.0)
    slow[0] = spec_bench.Generation(np.ones(8, dtype=np.int64), 8.0)
    assert spec_bench.speedup(fast, slow) == pytest.approx(5.0 / 1.5)
    ratio_of_totals = (10 / 2.0) / (10 / 9.0)
    assert ratio_of_totals != pytest.approx(5.0 / 1.5)
    assert spec_bench.mean_accepted_tokens(fast) == pytest.approx(10 / 3)
    assert spec_bench.mean_accepted_tokens(slow) == 1.0


def test_larger_targets_follow_from_the_7b_column_better_than_by_a_constant_ratio():
    assert _missed(spec_bench.rows()) == []
    ours, constant = spec_bench.mean_errors()
    assert ours < 0.5 * constant


def test_a_separate_drafter_gains_more_where_the_target_step_is_less_host_bound():
    sps = next(m for m in spec_bench.METHODS if m.name == "SpS")
    on_3090 = spec_bench.predicted(sps, spec_bench.RTX_3090, "7B", spec_bench.SPS_3090[0])
    on_a100 = spec_bench.predicted(sps, spec_bench.A100, "7B", spec_bench.LEADERBOARD["SpS"]["7B"][0])
    assert on_3090 > on_a100
