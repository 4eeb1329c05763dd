"""Systems that choose among drafters, accept more than the target would, or judge whole steps."""

from fractions import Fraction

import numpy as np
import pytest

from specsim.acceptance.language_pair import random_pair
from specsim.acceptance.laws import stationary_law
from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.adaptive import MeanRejectedEntropy
from specsim.drafting.bandits import Ucb
from specsim.drafting.stopping import optimal_stopping
from specsim.errors import InputError
from specsim.simulation.signal_rounds import RoundSeconds, run_rounds
from specsim.systems import adasd, bild, metasd, rsd, ssbd
from specsim.theory.tokens import expected_rounds_iid
from specsim.verification import lossy
from specsim.verification.case import Case
from specsim.verification.chains import chain_law

RNG = np.random.default_rng


# MetaSD

POOL, BEST = metasd.Pool((0.3, 0.4, 0.5, 0.6, 0.8), k=5, concentration=5.0), 4


def _pool(reward, tokens, queries=300):
    return metasd.run_pool(POOL, Ucb(0.1), reward=reward, tokens=tokens, queries=queries, rng=RNG(1))


def test_one_drafter_needs_the_rounds_of_its_renewal_law():
    alone = metasd.Pool((0.7,), k=4, concentration=5.0)
    ran = metasd.run_pool(alone, Ucb(0.1), reward="efficiency", tokens=150, queries=3000, rng=RNG(0))
    error = 5 * ran.needed.std() / 3000**0.5
    assert ran.needed.mean() == pytest.approx(expected_rounds_iid(0.7, 4, 150), abs=error)


def test_regret_grows_with_the_logarithm_and_divergence_finds_the_best_drafter_sooner():
    short, long = _pool("divergence", 200), _pool("divergence", 2000)
    first, last = metasd.regret_rounds(short, POOL, 200), metasd.regret_rounds(long, POOL, 2000)
    assert 0 < first < last < 2 * first
    by_efficiency = metasd.rounds_to_find(_pool("efficiency", 2000), BEST, share=0.9)
    assert metasd.rounds_to_find(long, BEST, share=0.9) < 0.5 * by_efficiency


def test_ucb_speedups_follow_from_the_specialists_on_four_of_five_tasks():
    rows = metasd.rows(queries=150)
    assert sum(row.verdict == "ok" for row in rows) >= 4


def test_rates_are_implied_by_speedups():
    rate = metasd.implied_rate(2.0, k=5, draft_ratio=0.05)
    assert (1 - rate**6) / (1 - rate) / 1.25 == pytest.approx(2.0)
    with pytest.raises(InputError, match="out of reach"):
        metasd.implied_rate(9.0, k=5, draft_ratio=0.05)


# AdaSD


def test_threshold_converges_to_the_mean_entropy_given_rejection():
    process, stop = CopulaSignals((0.75,), 0.7), MeanRejectedEntropy(10)
    rng, state, latent = RNG(2), stop.start(200), np.zeros((200, 0))
    used = []
    for t in range(400):
        shown = process.draft(latent, stop.most, rng)
        lengths = stop.lengths(state, shown.signals)
        accepted, _ = process.settle(shown, lengths, rng)
        state = stop.learn(state, shown.signals, lengths, accepted)
        if t >= 200:
            used.append(lengths)
    alone = process.draft(np.zeros((400_000, 0)), 1, rng)
    entropy, rejects = alone.signals.entropy_nats[:, 0], 1 - alone.signals.acceptance[:, 0]
    expected = float((entropy * rejects).sum() / rejects.sum())
    assert stop.threshold_nats(state).mean() == pytest.approx(expected, rel=0.01)
    # Independent entropies: the length is geometric, stopped by P(H > T), cut at ten.
    falls = float((entropy > expected).mean())
    geometric = (1 - (1 - falls) ** 10) / falls
    assert np.mean(used) == pytest.approx(geometric, rel=0.03)


def test_threshold_is_frozen_where_nothing_is_rejected():
    pair = random_pair(12, acceptance=1.0, rng=RNG(3))
    ran = adasd.run_adasd(
        pair,
        MeanRejectedEntropy(6),
        None,
        RoundSeconds(0.1, 1.0),
        requests=20,
        rounds=40,
        rng=RNG(4),
    )
    assert np.all(ran.threshold_nats == 0.5)


@pytest.mark.parametrize("draft_s", [0.05, 0.3])
def test_the_entropy_stop_never_beats_the_oracle_bound(draft_s):
    process, rng = CopulaSignals((0.8,), 0.8, 0.5), RNG(5)
    cost = RoundSeconds(draft_s, 1.0)
    ran = run_rounds(process, MeanRejectedEntropy(10), cost, requests=4000, rounds=30, rng=rng)
    paths = process.draft(np.zeros((60_000, 0)), 10, rng).signals.survival
    bound = optimal_stopping(paths, round_s=1.0, marginal_s=draft_s, most=10)[1]
    assert ran.after(10).tokens_per_s < 1.005 * bound


def test_the_density_rule_keeps_more_and_never_by_the_wrong_side_of_the_densities():
    pair = random_pair(24, acceptance=0.7, rng=RNG(6))
    cost = RoundSeconds(0.1, 1.0)
    stop, rule = MeanRejectedEntropy(8), adasd.DensityRule(0.05, warm_up=5)
    strict = adasd.run_adasd(pair, stop, None, cost, requests=300, rounds=60, rng=RNG(7))
    lenient = adasd.run_adasd(pair, stop, rule, cost, requests=300, rounds=60, rng=RNG(7))
    assert strict.lenient == 0
    assert lenient.lenient > 0.02
    assert lenient.rounds.tokens_per_round > 1.05 * strict.rounds.tokens_per_round
    seen = np.zeros((2, 1, 24))
    near, far = int(np.argmin(pair.js_distance)), int(np.argmax(pair.js_distance))
    seen[0, 0, near], seen[1, 0, far] = 10, 10
    keeps = rule.keeps(seen[0], seen[1], pair.js_distance)[0]
    assert keeps[near]
    assert not keeps[far]
    assert not rule.keeps(seen[0], 0.1 * seen[1], pair.js_distance).any()


# BiLD


@pytest.mark.parametrize("fates", [bild.Fates(0.2, 0.02), bild.Fates(0.35, 0.2), bild.Fates(0.02, 0.4)])
def test_the_loop_meets_its_renewal_sum(fates):
    ran, exact = bild.run(fates, correlation=0.0, rounds=200_000, rng=RNG(8)), bild.per_token(fates)
    assert ran.small == pytest.approx(exact.small, rel=0.01)
    assert ran.large == pytest.approx(exact.large, rel=0.01)
    assert ran.rolled_back == pytest.approx(exact.rolled_back, rel=0.03)


def test_a_rollback_costs_a_large_pass_more_and_a_confidence_that_knows_avoids_it():
    assert bild.per_token(bild.Fates(1.0, 0.0)).time(0.3) == pytest.approx(1.3)
    never = bild.per_token(bild.Fates(0.0, 0.0))
    assert (never.small, never.large) == pytest.approx((10 / 11, 1 / 11))
    fates = bild.Fates(0.25, 0.1)
    blind = bild.run(fates, correlation=0.0, rounds=50_000, rng=RNG(9))
    told = bild.run(fates, correlation=0.9, rounds=50_000, rng=RNG(9))
    assert told.rolled_back < 0.6 * blind.rolled_back


def test_bild_over_rejection_sampling_from_its_rates():
    assert [row.verdict for row in bild.rows()] == ["ok", "ok"]


# SSBD


def _translator(source_length, vocab=9):
    """A greedy model whose law depends on the source's length and the last two tokens."""

    def law(written):
        last = tuple(written[-2:])
        seed = hash((source_length if len(written) > source_length - 3 else 0, last, len(written))) % 2**32
        return np.random.default_rng(seed).dirichlet(np.ones(vocab))

    return law


def test_bias_0_writes_exactly_what_greedy_decoding_writes_and_half_keeps_everything():
    previous = ()
    reused = 0
    for source in range(3, 12):
        law, length = _translator(source), source + 2
        plain = ssbd.retranslate(law, (), bias=0.0, length=length)
        made = ssbd.retranslate(law, previous, bias=0.0, length=length)
        assert made.output == plain.output
        assert made.accepted + made.steps + (made.drafted > 0) >= length
        kept = ssbd.retranslate(law, previous, bias=0.5, length=length)
        assert kept.output[: len(previous)] == tuple(previous)
        reused += made.accepted
        previous = plain.output
    assert reused > 20


def test_the_rule_is_the_biased_argmax_of_the_catalogue():
    p = [[Fraction(1, 2), Fraction(3, 10), Fraction(1, 5)]] * 2
    for bias in (Fraction(0), Fraction(1, 10), Fraction(1, 5), Fraction(2, 5)):
        case = Case({(): p[0], **{(x,): p[1] for x in range(3)}}, {(): [0, 1, 0]}, 1)
        law = chain_law(lambda *a, bias=bias: lossy.biased_argmax(*a, bias=bias), case)
        stays = any(string[0] == 1 for string, mass in law.items() if mass)
        assert ssbd.keeps(np.array([0.5, 0.3, 0.2]), 1, float(bias)) == stays


def test_two_constants_on_three_rows_give_the_others():
    assert [row.verdict for row in ssbd.rows()] == ["ok"] * 6
    cost = ssbd.UpdateSeconds(prefill_s=0.1, verify_s=0.2, step_s=0.02)
    assert cost.speedup([ssbd.Update(tuple(range(50)), 40, 40)]) == pytest.approx(1.1 / (0.3 + 0.02 * 9))


# RSD


TASK = rsd.Steps(np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5]), np.array([0.3, 0.65, 0.9]))
SIZES = rsd.Sizes(72.0, 1.5, 1.5)


@pytest.mark.parametrize("omega", [rsd.step_rule(0.6), rsd.logistic_rule(0.6, 8.0)], ids=["step", "logistic"])
def test_emitted_steps_have_the_mixture_law(omega):
    from scipy.stats import chisquare

    ran = rsd.run_steps(TASK, omega, SIZES, steps=60_000, mean_tokens=40.0, rng=RNG(10))
    law = TASK.mixture(omega)
    assert law.sum() == pytest.approx(1.0)
    assert chisquare(np.bincount(ran.kinds, minlength=3), law * 60_000).pvalue > 1e-4


@pytest.mark.parametrize("kept", [0.0, 0.5, 0.8, 0.95])
def test_flops_are_the_formula(kept):
    omega = lambda r: np.full(np.shape(r), kept)  # noqa: E731
    ran = rsd.run_steps(TASK, omega, SIZES, steps=200_000, mean_tokens=40.0, rng=RNG(11))
    assert ran.plain_flops / ran.flops == pytest.approx(rsd.flops_ratio(SIZES, kept), rel=0.01)


def test_the_abstracts_ratio_needs_four_fifths_kept():
    assert rsd.kept_for_ratio(SIZES, 4.4) == pytest.approx(0.814, abs=5e-4)
    assert rsd.rows()[0].verdict == "ok"


def test_a_better_judge_buys_accuracy_with_target_calls():
    front = rsd.accuracy_cost_front(TASK, SIZES, np.array([0.0, 0.5, 0.8, 1.0]))
    assert np.all(np.diff(front[:, 0]) >= 0)
    assert front[1, 1] > front[0, 1]
    assert front[0, 1] == pytest.approx(float(TASK.drafter @ TASK.rewards))
    assert front[-1, 1] == pytest.approx(float(TASK.target @ TASK.rewards))
    assert front[:, 1].max() > front[-1, 1]  # keeping what the judge likes beats the target alone


def test_pairs_keep_their_stationary_law_under_a_lossless_rule():
    pair = random_pair(12, acceptance=0.7, rng=RNG(12))
    counts, latent = pair.verify(pair.start(20_000, RNG(13)), 3, RNG(13), rounds=8)
    assert counts.mean() > 0
    share = np.bincount(latent, minlength=12) / 20_000
    assert np.abs(share - pair.round_start_law(3)).max() < 0.02
    assert stationary_law(pair.target).sum() == pytest.approx(1.0)
