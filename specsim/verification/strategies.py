"""Hypothesis strategies for verification: laws, pairs of them and cases in exact rationals, and batches of arrays.

Needs hypothesis, which ``specsim`` doesn't install. Verdicts over these are deterministic, so examples may be shrunk;
don't put a statistical verdict under ``@given``: it would be flaky, and every example spends false alarms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
from hypothesis import strategies as st
from numpy.typing import NDArray

from specsim.verification.case import Case
from specsim.verification.guarded import Batch

Row = tuple[Fraction, ...]
Draw = Callable[[st.SearchStrategy[Any]], Any]

FAMILIES = (
    "dense",
    "sparse",
    "disjoint supports",
    "mode undrafted",
    "one-hot target",
    "one-hot draft",
    "equal",
    "nearly equal",
    "reversed",
    "tail",
    "ties",
    "tiny tails",
)
"""Kinds of pairs that ``pairs`` draws from."""


@st.composite
def laws(draw: Draw, vocab: int | None = None, *, zeros: bool = True, denominator: int = 12) -> Row:
    """A law over 1 to 5 (or ``vocab``) tokens with small rational weights; ``zeros`` allows tokens without mass."""
    size = draw(st.integers(1, 5)) if vocab is None else vocab
    weights = draw(st.lists(st.integers(0 if zeros else 1, denominator), min_size=size, max_size=size).filter(any))
    return _normalised(weights)


@st.composite
def pairs(draw: Draw, vocab: int | None = None, *, families: tuple[str, ...] = FAMILIES) -> tuple[Row, Row]:
    """A target row and a draft row of one of ``FAMILIES``, over 2 to 5 (or ``vocab``) tokens."""
    size = draw(st.integers(2, 5)) if vocab is None else vocab
    family = draw(st.sampled_from(families))
    p = draw(laws(size, zeros=family == "sparse"))
    q = draw(laws(size, zeros=family == "sparse"))
    if size == 1:
        return p, q
    top = max(range(size), key=lambda x: p[x])
    if family == "disjoint supports":
        p, q = _kept(p, lambda x: x % 2 == 0), _kept(q, lambda x: x % 2 == 1)
    elif family == "mode undrafted":
        q = _kept(q, lambda x: x != top)
    elif family == "one-hot target":
        p = _kept(p, lambda x: x == top)
    elif family == "one-hot draft":
        q = _kept(q, lambda x: x == draw(st.shared(st.integers(0, size - 1), key="one-hot")))
    elif family == "equal":
        q = p
    elif family == "nearly equal":
        shift = Fraction(1, 2**52)
        q = (p[0] + shift, p[1] - shift, *p[2:])
    elif family == "reversed":
        q = p[::-1]
    elif family == "tail":
        p = _normalised([Fraction(1, 250), *([Fraction(1)] * (size - 1))])
        q = _normalised([Fraction(1), *([Fraction(1, 250)] * (size - 1))])
    elif family == "ties":
        p = q = _normalised([1] * size)
        q = draw(laws(size))
    elif family == "tiny tails":
        p = _normalised([Fraction(1), *([Fraction(1, 2**30)] * (size - 1))])
    return p, q


@st.composite
def cases(
    draw: Draw,
    *,
    max_vocab: int = 3,
    max_gamma: int = 2,
    families: tuple[str, ...] = FAMILIES,
    depth: int | None = None,
) -> Case:
    """A case with 2 to ``max_vocab`` tokens and 0 to ``max_gamma`` drafts, a pair of its own at every prefix."""
    vocab, gamma = draw(st.integers(2, max_vocab)), draw(st.integers(0, max_gamma))
    strings = [
        s
        for size in range((gamma if depth is None else depth) + 1)
        for s in itertools.product(range(vocab), repeat=size)
    ]
    rows = {s: draw(pairs(vocab, families=families)) for s in strings}
    return Case({s: p for s, (p, _) in rows.items()}, {s: q for s, (_, q) in rows.items()}, gamma, name="drawn")


@st.composite
def logits(draw: Draw, vocab: int | None = None, *, kept: int | None = None) -> NDArray[np.float64]:
    """Logits of a law over ``vocab`` tokens, moved by a constant; -inf beyond the ``kept`` likeliest (top-k), or where
    the law has no mass.
    """
    row = np.array([float(x) for x in draw(laws(vocab))])
    if kept is not None:
        row[np.argsort(-row, kind="stable")[kept:]] = 0.0
    with np.errstate(divide="ignore"):
        return np.asarray(np.log(row) + draw(st.integers(-50, 50)))


TILE = 128
"""Tokens that a kernel looks at in one go; vocabularies around it and its double are where the last ones are lost."""


@st.composite
def batches(
    draw: Draw,
    *,
    max_rows: int = 4,
    max_gamma: int = 4,
    vocabs: Sequence[int] = (1, 2, 3, 5, TILE - 1, TILE, TILE + 1, 2 * TILE + 1),
    families: tuple[str, ...] = FAMILIES,
    ragged: bool = True,
) -> Batch:
    """Inputs of a sampler: target rows [B, G+1, V], draft rows [B, G, V], and drafts [B, G] that q can draw.

    Every row and position has a pair of its own over up to five tokens, scattered over the vocabulary. With ``ragged``
    rows have drafts of different numbers, -1 where absent, and no q there.
    """
    vocab, rows, gamma = draw(st.sampled_from(vocabs)), draw(st.integers(1, max_rows)), draw(st.integers(0, max_gamma))
    used = min(vocab, draw(st.integers(1, 5)))
    place = draw(st.lists(st.integers(0, vocab - 1), min_size=used, max_size=used, unique=True))
    target, draft = np.zeros((rows, gamma + 1, vocab)), np.zeros((rows, gamma, vocab))
    tokens = np.full((rows, gamma), -1, dtype=np.int64)
    for b in range(rows):
        length = draw(st.integers(0, gamma)) if ragged else gamma
        for i in range(gamma + 1):
            p, q = draw(pairs(used, families=families))
            target[b, i, place] = [float(x) for x in p]
            if i < length:
                draft[b, i, place] = [float(x) for x in q]
                tokens[b, i] = draw(st.sampled_from(np.flatnonzero(draft[b, i]).tolist()))
    return Batch(target, draft, tokens)


def _normalised(weights: Any) -> Row:
    total = sum(weights)
    return tuple(Fraction(weight) / total for weight in weights)


def _kept(row: Row, keep: Callable[[int], bool]) -> Row:
    weights = [mass if keep(x) else Fraction(0) for x, mass in enumerate(row)]
    if not any(weights):
        weights = [Fraction(keep(x)) for x in range(len(row))]
    return _normalised(weights)
