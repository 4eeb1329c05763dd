"""AdaSD's two components on laws where their limits are known."""

from __future__ import annotations

import numpy as np

from specsim.acceptance.language_pair import random_pair
from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.adaptive import MeanRejectedEntropy
from specsim.drafting.stopping import optimal_stopping
from specsim.simulation.signal_rounds import RoundSeconds, run_rounds
from specsim.systems import adasd
from specsim.systems.reproduction import Check, Given, Reproduction, Row


def reproduce() -> Reproduction:
    rng = np.random.default_rng(2)
    process, stop, most = CopulaSignals((0.75,), 0.7), MeanRejectedEntropy(10), 10
    state, latent = stop.start(200), np.zeros((200, 0))
    for _ in range(400):
        shown = process.draft(latent, most, rng)
        lengths = stop.lengths(state, shown.signals)
        accepted, _ = process.settle(shown, lengths, rng)
        state = stop.learn(state, shown.signals, lengths, accepted)
    alone = process.draft(np.zeros((400_000, 0)), 1, rng).signals
    rejects = 1 - alone.acceptance[:, 0]
    limit = float((alone.entropy_nats[:, 0] * rejects).sum() / rejects.sum())
    rows = [Row("stop threshold after 400 rounds, nats", limit, float(stop.threshold_nats(state).mean()), 0.01, "law")]
    checks = []
    cost = RoundSeconds(0.1, 1.0)
    sure = random_pair(12, acceptance=1.0, rng=rng)
    frozen = adasd.run_adasd(sure, MeanRejectedEntropy(6), None, cost, requests=20, rounds=40, rng=rng)
    checks.append(
        Check("frozen at 0.5 where nothing is rejected", "all requests", bool(np.all(frozen.threshold_nats == 0.5)))
    )
    for draft_s in (0.05, 0.3):
        at = RoundSeconds(draft_s, 1.0)
        noisy = CopulaSignals((0.8,), 0.8, 0.5)
        speed = run_rounds(noisy, stop, at, requests=4000, rounds=30, rng=rng).after(10).tokens_per_s
        paths = noisy.draft(np.zeros((60_000, 0)), most, rng).signals.survival
        bound = optimal_stopping(paths, round_s=1.0, marginal_s=draft_s, most=most)[1]
        rows.append(Row(f"tokens a target step at c = {draft_s}, bound of the optimal stop", bound, speed, None, "law"))
        checks.append(
            Check(
                f"never above the oracle's bound (c = {draft_s})", f"{speed / bound:.3f} of it", speed < 1.005 * bound
            )
        )
    pair, rule = random_pair(24, acceptance=0.7, rng=rng), adasd.DensityRule(0.05, warm_up=5)
    kept = adasd.run_adasd(pair, MeanRejectedEntropy(8), rule, cost, requests=300, rounds=60, rng=rng)
    rows.append(Row("share of accepted tokens that the target would have refused", None, kept.lenient))
    return Reproduction(
        "adasd",
        "thresholds that set themselves",
        tuple(rows),
        tuple(checks),
        (
            Given(
                "stop rule and its update",
                "mean entropy of rejected tokens, from 0.5",
                "published",
                "a reader's notes on v2",
            ),
            Given("density rule", "pi_A f_A >= pi_R f_R", "derived", "the abstract's words; Algorithm 1 was not found"),
            Given("bandwidth 0.05, warm-up 5", "-", "assumed", "not found"),
            Given("signals", "Gaussian copula and random Markov pairs", "assumed", "no pair of the paper is public"),
        ),
        (
            (
                "With class shares as priors the density rule feeds itself: where most tokens are accepted anyway "
                "it soon keeps nearly all, rejections vanish and the stop threshold freezes. The paper's 1.46 times"
                " cannot be tested."
            ),
        ),
    )
