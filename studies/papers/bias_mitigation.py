"""Three models as one stage: its slowdown, its law, and the same law when tokens are speculated for it."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.language_pair import LanguagePair, random_pair
from specsim.acceptance.laws import stationary_law
from specsim.systems import bias_mitigation as ensemble
from specsim.systems.reproduction import Check, Given, Reproduction, Row
from specsim.theory.tokens import expected_tokens_iid
from specsim.verification.batched import token as token_sampler
from specsim.verification.case import Case, distortion, is_lossless, random_case
from specsim.verification.chains import chain_law
from specsim.verification.chains import token as token_rule
from specsim.verification.statistics import fit

Floats = NDArray[np.float64]

SMALL = (0.05, 0.2, 0.5, 1.0, 1.5)
"""c, seconds of a small model over those of the large one."""


def reproduce() -> Reproduction:
    rows, plain_s = [], 1.0
    for c in SMALL:
        for parallel, law in ((False, 1 + 2 * c), (True, max(1.0, c))):
            name = "max(1, c), on three devices" if parallel else "1 + 2c, on one device"
            rows.append(
                Row(f"slowdown {name}, c = {c:g}", law, _token_s(small_s=c, parallel=parallel) / plain_s, 0.01, "law")
            )
    for parallel in (False, True):
        for k, alpha in ((2, 0.6), (4, 0.8), (8, 0.9)):
            times = ensemble.Times(small_s=0.2, position_share=0.02)
            one, many = (times.stage_s(n, parallel=parallel) for n in (1, k + 1))
            law = float(expected_tokens_iid(alpha, k)) * one / (k * times.draft_s + many)
            case = {"small_s": 0.2, "position_share": 0.02, "parallel": parallel}
            ours = _token_s(**case) / _token_s(**case, k=k, alpha=alpha, tokens=60_000)
            where = "three devices" if parallel else "one device"
            rows.append(Row(f"speculated for, {where}, k = {k}, acceptance {alpha:g}: speedup", law, ours, 0.01, "law"))
    away = _token_s(small_s=0.2, parallel=True, logit_bytes=2 * 32_000, bytes_per_s=1e6, one_way_s=0.4)
    rows.append(
        Row("small models 0.4 passes and 64 kB of logits away (assumed): slowdown, c = 0.2", None, away / plain_s)
    )
    for strength in (0.0, 0.5, 1.0, 2.0):
        rows.append(
            Row(
                f"toy models, strength {strength:g}: a drafter made for the target is accepted",
                None,
                _accepted(strength),
            )
        )
    return Reproduction(
        "bias-mitigation",
        "an ensemble of three models as a stage and as a target",
        tuple(rows),
        (*_exact(), _sampled()),
        (
            Given("z_t + strength (z_plus - z_minus), nucleus first", "-", "published", "paper and its generator"),
            Given("strength", "0, 1, 2, 1/2", "assumed", "the tables' value was not found"),
            Given("c and every time", "a grid", "assumed", "no latency or throughput is published"),
            Given("models", "random laws over a few tokens", "assumed", "toy models in which all is exact"),
        ),
        ("The paper's numbers measure bias, not speed; none of them can be rerun without its models.",),
    )  # fmt: skip


def _token_s(*, tokens: float = 500, **changes: float) -> float:
    made = ensemble.simulate(np.random.default_rng(3), tokens=int(tokens), **changes)  # type: ignore[arg-type]
    return 1.0 / made.tokens_per_s


def exact_case(strength: int, *, seed: int, vocab: int = 3, gamma: int = 2) -> tuple[Case, Case]:
    """A drafter with the ensemble of three random models as its target, and with the large model alone; Fractions."""
    rng = np.random.default_rng(seed)
    models = [random_case(rng, vocab=vocab, gamma=gamma) for _ in range(3)]
    target, plus, minus = (model.target for model in models)
    mixed = {s: ensemble.ensemble_law(target[s], plus[s], minus[s], strength) for s in target}
    drafter = models[0].draft
    return Case(mixed, drafter, gamma), Case(target, drafter, gamma)


def _exact() -> tuple[Check, ...]:
    cases = {strength: [exact_case(strength, seed=s) for s in range(6)] for strength in (0, 1, 2)}
    same = sum(mixed.target == alone.target for mixed, alone in cases[0])
    kept = sum(
        is_lossless(chain_law(token_rule, mixed, unit=Fraction(1)), mixed)
        for pairs in cases.values()
        for mixed, _ in pairs
    )
    apart = [distortion(chain_law(token_rule, mixed, unit=Fraction(1)), alone) for mixed, alone in cases[1]]
    return (
        Check("strength 0 gives the target's law, rational numbers compared with ==", f"{same} of 6", same == 6),
        Check("speculated tokens have the ensemble's law, enumerated in rational numbers", f"{kept} of 18", kept == 18),
        Check(
            "at strength 1 that is not the target's law",
            f"TV {float(min(apart)):.2f} to {float(max(apart)):.2f} over three tokens",
            min(apart) > 0,
        ),
    )  # fmt: skip


def toy(strength: float, *, vocab: int = 4, acceptance: float = 0.8, seed: int = 5) -> LanguagePair:
    """A Markov drafter whose target is the ensemble; small models are that drafter, two fifths changed."""
    rng = np.random.default_rng(seed)
    pair = random_pair(vocab, acceptance=acceptance, rng=rng)
    small = [0.6 * pair.drafter + 0.4 * rng.dirichlet(np.ones(vocab), size=vocab) for _ in range(2)]
    plus, minus = small
    laws = [ensemble.ensemble_law(pair.target[x], plus[x], minus[x], strength) for x in range(vocab)]
    return LanguagePair(np.array(laws), pair.drafter)


def _accepted(strength: float) -> float:
    pair = toy(strength, vocab=16)
    return float(stationary_law(pair.target) @ pair.acceptance)


def speculated_texts(
    pair: LanguagePair, *, gamma: int, length: int, texts: int, rng: np.random.Generator
) -> NDArray[np.int64]:
    """First ``length`` tokens of texts that start after token 0, round after round by the token rule, on arrays."""
    text = np.full((texts, length + gamma + 1), -1)
    size = np.zeros(texts, dtype=np.int64)
    while (short := np.flatnonzero(size < length)).size:
        last = np.where(size[short] > 0, text[short, np.maximum(size[short] - 1, 0)], 0)
        drafts, p, q = np.empty((len(short), gamma), dtype=np.int64), [], []
        for i in range(gamma):
            p.append(pair.target[last])
            q.append(pair.drafter[last])
            last = np.minimum(
                (rng.random((len(short), 1)) >= np.cumsum(q[-1], axis=1)).sum(axis=1), len(pair.target) - 1
            )
            drafts[:, i] = last
        p.append(pair.target[last])
        tokens, counts = token_sampler(np.stack(p, axis=1), np.stack(q, axis=1), drafts, rng)
        for i in range(gamma + 1):
            there = i < counts
            text[short[there], size[short[there]] + i] = tokens[there, i]
        size[short] += counts
    return text[:, :length]


def _sampled() -> Check:
    pair = toy(1.5)
    texts = speculated_texts(pair, gamma=2, length=3, texts=40_000, rng=np.random.default_rng(6))
    found = fit(Counter(map(tuple, texts.tolist())), text_law(pair, 3))
    return Check(
        "sampled texts of three tokens have the ensemble's law",
        f"chi-square p = {found.p_value:.2f}",
        found.p_value > 1e-4,
    )


def text_law(pair: LanguagePair, length: int) -> dict[tuple[int, ...], float]:
    """Exact law of the ensemble's first tokens after token 0."""
    law: dict[tuple[int, ...], float] = {(): 1.0}
    for _ in range(length):
        law = {(*s, x): m * float(p) for s, m in law.items() for x, p in enumerate(pair.target[s[-1] if s else 0])}
    return law
