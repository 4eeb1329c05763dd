"""Hypothesis strategies for verification: laws, pairs of them, and cases, in exact rationals.

Needs hypothesis, which ``specsim`` doesn't install. Verdicts over these are deterministic, so examples may be shrunk;
don't put a statistical verdict under ``@given``: it would be flaky, and every example spends false alarms.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from hypothesis import strategies as st

from specsim.verification.case import Case

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


def _normalised(weights: Any) -> Row:
    total = sum(weights)
    return tuple(Fraction(weight) / total for weight in weights)


def _kept(row: Row, keep: Callable[[int], bool]) -> Row:
    weights = [mass if keep(x) else Fraction(0) for x, mass in enumerate(row)]
    if not any(weights):
        weights = [Fraction(keep(x)) for x in range(len(row))]
    return _normalised(weights)
