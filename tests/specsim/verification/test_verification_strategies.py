"""The public strategies: every family is what it is called; arrays drawn from them are verified as the rules say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import Phase, find, given, settings
from hypothesis import strategies as st

from specsim.verification import chains
from specsim.verification.batched import LOSSLESS
from specsim.verification.lookup import RuleSampler
from specsim.verification.strategies import FAMILIES, TILE, batches, cases, laws, logits, pairs

ANY = settings(max_examples=2_000, deadline=None, phases=(Phase.generate,))
"""The first example will do: no shrinking."""

MEANINGS = {
    "disjoint supports": lambda p, q: not any(a and b for a, b in zip(p, q, strict=True)),
    "mode undrafted": lambda p, q: q[max(range(len(p)), key=lambda x: p[x])] == 0,
    "one-hot target": lambda p, q: sorted(p)[-1] == 1,
    "one-hot draft": lambda p, q: sorted(q)[-1] == 1,
    "equal": lambda p, q: p == q,
    "nearly equal": lambda p, q: p != q and max(abs(a - b) for a, b in zip(p, q, strict=True)) <= 2**-52,
    "reversed": lambda p, q: q == p[::-1],
    "tail": lambda p, q: min(a / b for a, b in zip(p, q, strict=True)) < 0.02,
    "ties": lambda p, q: len(set(p)) == 1,
    "tiny tails": lambda p, q: 0 < min(p) < 2**-24,
    "dense": lambda p, q: min(p) > 0 and min(q) > 0,
}


@pytest.mark.parametrize("family", FAMILIES)
def test_families_are_what_they_are_called(family: str) -> None:
    @settings(max_examples=30, deadline=None)
    @given(pairs(families=(family,)))
    def check(pair) -> None:
        p, q = pair
        assert sum(p) == sum(q) == 1
        assert min(*p, *q) >= 0
        assert MEANINGS.get(family, lambda p, q: True)(p, q)

    check()
    if family == "sparse":
        find(pairs(families=("sparse",)), lambda pair: pair[0].count(0) >= 0.3 * len(pair[0]), settings=ANY)


@settings(max_examples=40, deadline=None)
@given(logits(5, kept=2))
def test_logits_keep_the_likeliest(row) -> None:
    assert 1 <= np.isfinite(row).sum() <= 2
    assert np.isneginf(row[~np.isfinite(row)]).all()


@settings(max_examples=100, deadline=None)
@given(batches(), st.integers(0, 2**32))
def test_arrays_are_verified_as_the_pure_rules_do(batch, seed: int) -> None:
    rng = np.random.default_rng(seed)
    uniforms, final = rng.random(batch.tokens.shape), rng.random(len(batch.tokens))
    for name in ("token", "block", "point_mass"):
        given_rows = None if name == "point_mass" else batch.draft
        tokens, counts = LOSSLESS[name].inject(batch.target, given_rows, batch.tokens, uniforms, final)
        pure = RuleSampler(getattr(chains, name)).inject(batch.target, given_rows, batch.tokens, uniforms, final)
        np.testing.assert_array_equal(counts, pure[1])
        np.testing.assert_array_equal(tokens, pure[0])


@pytest.mark.parametrize("name", LOSSLESS)
def test_nothing_impossible_is_emitted(name: str) -> None:
    @settings(max_examples=60, deadline=None)
    @given(batches(), st.integers(0, 2**32))
    def check(batch, seed: int) -> None:
        tokens, counts = LOSSLESS[name](batch.target, batch.draft, batch.tokens, np.random.default_rng(seed))
        length = (batch.tokens >= 0).cumprod(axis=1).sum(axis=1)
        assert ((counts >= 1) & (counts <= length + 1)).all()
        for b, n in enumerate(counts):
            string = tokens[b, :n]
            assert (batch.target[b, np.arange(n), string] > 0).all()
            assert (string[: n - 1] == batch.tokens[b, : n - 1]).all()

    check()


@pytest.mark.parametrize(
    "wanted",
    [
        lambda b: b.target.shape[2] == 1,
        lambda b: b.target.shape[2] == TILE + 1,
        lambda b: b.target.shape[2] == TILE - 1,
        lambda b: b.tokens.shape[1] == 0,
        lambda b: b.tokens.shape[1] == 4,
        lambda b: len({(row >= 0).sum() for row in b.tokens}) > 1,
    ],
)
def test_batches_reach_every_corner(wanted) -> None:
    find(batches(), wanted, settings=ANY)


def test_cases_and_laws_have_the_sizes_asked_for() -> None:
    find(cases(max_gamma=4, max_vocab=2), lambda case: case.gamma == 4, settings=ANY)
    assert len(find(laws(3), lambda row: 0 in row, settings=ANY)) == 3
