"""Three models as a stage: costs by their law, the ensemble's law exact, alone and speculated for."""

from __future__ import annotations

from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from specsim.errors import InputError
from specsim.systems import bias_mitigation as ensemble
from specsim.theory.tokens import expected_tokens_iid
from specsim.verification.case import Case, complete, is_lossless, target_law
from specsim.verification.chains import block, chain_law, token
from specsim.verification.statistics import fit
from specsim.verification.strategies import laws
from studies.papers.bias_mitigation import exact_case, speculated_texts, text_law, toy


def token_s(**changes):
    return 1.0 / ensemble.simulate(np.random.default_rng(0), **{"tokens": 3000} | changes).tokens_per_s


@settings(max_examples=20, deadline=None)
@given(c=st.floats(0.01, 3.0), merge_s=st.floats(1e-4, 5e-3))
def test_slowdowns(c, merge_s):
    assert token_s(small_s=c, merge_s=merge_s, tokens=50) == pytest.approx(1 + 2 * c + merge_s)
    assert token_s(small_s=c, merge_s=merge_s, tokens=50, parallel=True) == pytest.approx(max(1, c) + merge_s)


@pytest.mark.parametrize("parallel", [False, True])
def test_speculating_for_it_verifies_with_all_three(parallel):
    times = ensemble.Times(small_s=0.4, draft_s=0.07, position_share=0.05)
    made = token_s(small_s=0.4, draft_s=0.07, position_share=0.05, k=4, parallel=parallel, tokens=40_000)
    law = (4 * 0.07 + times.stage_s(5, parallel=parallel)) / float(expected_tokens_iid(0.7, 4))
    assert made == pytest.approx(law, rel=0.01)


def test_a_link_that_carries_logits_is_waited_for():
    """Down with the token, back with the logits: both latencies, and the bytes of each position."""
    made = token_s(parallel=True, one_way_s=0.3, logit_bytes=1e5, bytes_per_s=1e6, small_s=0.9, tokens=50)
    assert made == pytest.approx(0.3 + 4e-6 + 0.9 + 0.1 + 0.3 + 1e-3)


@settings(max_examples=40, deadline=None)
@given(target=laws(5), small=st.lists(laws(5, zeros=False), min_size=2, max_size=2))
def test_strength_zero_is_the_target_and_whole_strengths_are_exact(target, small):
    assert ensemble.ensemble_law(target, *small, 0) == tuple(target)
    for strength in (1, 2):
        law = ensemble.ensemble_law(target, *small, strength)
        assert all(isinstance(p, Fraction) for p in law)
        assert sum(law) == 1
    assert ensemble.ensemble_law(target, small[0], small[0], 1) == tuple(target)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), strength=st.floats(-2.0, 3.0))
def test_it_is_the_softmax_of_the_added_logits(seed, strength):
    z, plus, minus = np.random.default_rng(seed).normal(0, 2, size=(3, 7))
    softmax = lambda x: np.exp(x - x.max()) / np.exp(x - x.max()).sum()  # noqa: E731
    law = ensemble.ensemble_law(softmax(z), softmax(plus), softmax(minus), strength)
    np.testing.assert_allclose(law, softmax(z + strength * (plus - minus)), rtol=1e-9)


def test_the_nucleus_is_the_targets_and_is_cut_before_mixing():
    target = [Fraction(n, 20) for n in (10, 6, 3, 1)]
    even = [Fraction(1, 4)] * 4
    loud = [Fraction(1, 10)] * 3 + [Fraction(7, 10)]
    assert ensemble.ensemble_law(target, even, even, 1, top_p=0.75) == (Fraction(10, 16), Fraction(6, 16), 0, 0)
    assert ensemble.ensemble_law(target, loud, even, 2, top_p=0.9)[3] == 0
    assert ensemble.ensemble_law(target, loud, even, 2)[3] > Fraction(1, 2)


@pytest.mark.parametrize("rule", [token, block])
@pytest.mark.parametrize("strength", [0, 1, 2])
def test_speculated_tokens_have_the_ensembles_law(rule, strength):
    for seed in range(4):
        mixed, alone = exact_case(strength, seed=seed)
        law = chain_law(rule, mixed, unit=Fraction(1))
        assert is_lossless(law, mixed)
        assert complete(law, mixed) == target_law(mixed, 3)
        assert (target_law(mixed, 3) == target_law(alone, 3)) == (strength == 0)


def test_a_drafter_of_the_target_alone_would_not_do_as_its_own_target():
    """Verified against the large model, the ensemble's law is lost: the stage matters."""
    mixed, alone = exact_case(1, seed=0)
    law = chain_law(token, alone, unit=Fraction(1))
    assert not is_lossless(law, Case(mixed.target, mixed.draft, mixed.gamma))


def test_sampled_texts_have_its_law_and_not_the_targets():
    pair = toy(1.5)
    texts = speculated_texts(pair, gamma=3, length=3, texts=20_000, rng=np.random.default_rng(1))
    counts = Counter(map(tuple, texts.tolist()))
    assert fit(counts, text_law(pair, 3)).p_value > 1e-4
    assert fit(counts, text_law(toy(0.0), 3)).p_value < 1e-9


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ensemble.ensemble_law((0.5, 0.5), (0.5, 0.5), (1.0,), 1), "ensemble: laws of 2, 2 and 1 tokens"),
        (lambda: ensemble.ensemble_law((0.5, 0.5), (0.5, 0.5), (1.0, 0.0), 1), "biased: gives no mass to a token"),
        (lambda: ensemble.ensemble_law((0.5, 0.5), (0.5, 0.5), (0.5, 0.5), 1, top_p=0.0), r"top_p: 0.0; give"),
        (lambda: token_s(alpha=1.2), "alpha: 1.2"),
        (lambda: token_s(k=-1), "repeats: -1|k: -1"),
        (lambda: token_s(small_s=-0.1), "small_s: -0.1"),
        (lambda: token_s(draft_s=-0.1), "draft_s: -0.1"),
        (lambda: token_s(position_share=-9.0), "position_share: -9.0"),
        (lambda: token_s(one_way_s=0.1), "parallel: links join"),
        (lambda: token_s(parallel=True, merge_s=0.0), "three models, merge: merge: cost"),
        (lambda: token_s(parallel=True, bytes_per_s=0.0), "0 bytes/s carry nothing"),
    ],
)
def test_refuses(make, message):
    with pytest.raises(InputError, match=message):
        make()
