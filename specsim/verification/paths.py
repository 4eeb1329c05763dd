"""Several chains drafted independently: pick one by a fixed order, then verify it as a block under the law of the pick.

Let every node order its children, the better before the worse. Of k i.i.d. paths the first in lexicographic order is
picked. It has prefix s iff no path is better and not all are worse: with L(s) the mass of paths worse than s,

    Q'(s) = (L(s) + Q(s))^k - L(s)^k,        L(s x) = L(s) + Q(s) sum over y worse than x of q(y | s).

So the pick is a draw from a known law, and block verification against q'(x | s) = Q'(s x)/Q'(s) is lossless. Its
accepted mass obeys a(s x) = min(Q'(s x), p(x | s) a(s)), a(()) = 1, and E[N] = sum over s of a(s).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from specsim.verification import batched
from specsim.verification.batched import Emitted, Floats, Ints
from specsim.verification.case import Case, Number, String
from specsim.verification.chains import Stop, block, ratio
from specsim.verification.coins import Coins, Weights, law_of


def greedy_multipath(p: Sequence[Weights], q: Sequence[Weights], d: String, coins: Coins, *, paths: int) -> Stop:
    """Block verification of the picked path ``d`` against the law of the pick from ``paths`` i.i.d. ones.

    ``p`` and ``q`` are the rows along it; children are ordered by p/q, the largest first. Lossless. It may accept less
    than one path alone: for q = p the pick is no longer p's. After greedy multi-path block verification, arXiv
    2602.16961: pick a path, verify a block on the adjusted proposal; the order and the law are derived here, not taken
    from the paper.
    """
    return block(p, picked_rows(p, q, d, paths), d, coins)


def picked_rows(p: Sequence[Weights], q: Sequence[Weights], d: String, paths: int) -> list[list[Number]]:
    """q'(. | s) at every prefix of the picked path: the law of its next token given that it was picked."""
    worse, mass, rows = p[0][0] * 0, p[0][0] * 0 + 1, []
    for i, x in enumerate(d):
        picked = (worse + mass) ** paths - worse**paths
        row, below, at = [worse * 0] * len(p[i]), worse, worse
        for y in reversed(best_first(p[i], q[i])):
            share = mass * q[i][y]
            row[y] = ((below + share) ** paths - below**paths) / picked
            at = below if y == x else at
            below += share
        rows.append(row)
        worse, mass = at, mass * q[i][x]
    return rows


def best_first(p: Weights, q: Weights) -> list[int]:
    """Tokens in the order in which drafts are preferred: by p/q from the largest, the lowest number among equals."""
    return sorted(range(len(p)), key=lambda x: (-ratio(p[x], q[x]), x))


def pick(case: Case, drafts: Sequence[String]) -> String:
    """The first of some paths in lexicographic order."""

    def place(path: String) -> list[int]:
        return [best_first(case.target[path[:i]], case.draft[path[:i]]).index(x) for i, x in enumerate(path)]

    return min(drafts, key=place)


def multipath_law(case: Case, paths: int) -> dict[String, Number]:
    """Exact law of ``greedy_multipath`` by drawing every tuple of paths and every branch of the coins."""

    def run(coins: Coins) -> String:
        drafts = []
        for _ in range(paths):
            path: String = ()
            while len(path) < case.gamma:
                path = (*path, coins.pick(case.draft[path]))
            drafts.append(path)
        d = pick(case, drafts)
        p, q = case.rows(d)
        stop = greedy_multipath(p, q, d, coins, paths=paths)
        return stop.tokens if stop.weights is None else (*stop.tokens, coins.pick(stop.weights))

    return law_of(run, unit=case.target[()][0] * 0 + 1)


def picked_case(case: Case, paths: int) -> Case:
    """The same target drafted by the pick: its law is ``multipath_law`` under block verification, and much cheaper."""
    draft = {}
    for prefix in case.prefixes(case.gamma - 1):
        p, q = case.rows((*prefix, 0))
        draft[prefix] = tuple(picked_rows(p, q, (*prefix, 0), paths)[-1]) if _can(case, prefix) else case.draft[prefix]
    return Case(case.target, draft, case.gamma, case.eos, case.name)


def multipath_expected_tokens(case: Case, paths: int) -> Number:
    """E[N] = sum over s of a(s), in closed form."""
    drawn = picked_case(case, paths)

    def below(prefix: String, drafted: Number, accepted: Number) -> Number:
        if len(prefix) == case.gamma:
            return accepted
        total = accepted
        for x, share in enumerate(drawn.draft[prefix]):
            both = min(drafted * share, case.target[prefix][x] * accepted)
            if both > 0:
                total += below((*prefix, x), drafted * share, both)
        return total

    unit = case.target[()][0] * 0 + 1
    return below((), unit, unit)


def most_expected_tokens(case: Case, paths: int) -> float:
    """The largest E[N] of any pick that is then verified as a block, as a linear program over small cases.

    max 1 + sum a(s), with a(s x) <= p(x | s) a(s), a(s) <= sum of R over the leaves below s, and R the law of a pick:
    R(T) <= 1 - (1 - Q(T))^k for every set T of leaves (Hall's condition for k i.i.d. paths). For gamma = 1 it is one
    more than ``optimal_acceptance``; for one path, block verification. The sets limit it to about nine leaves.
    """
    from scipy.optimize import linprog

    nodes = [s for s in case.prefixes(case.gamma) if s]
    leaves = [s for s in nodes if len(s) == case.gamma]
    column = {("a", s): i for i, s in enumerate(nodes)} | {("R", s): len(nodes) + i for i, s in enumerate(leaves)}
    rows, bounds = [], []

    def limit(terms: Iterator[tuple[tuple[str, String], float]], bound: float) -> None:
        row = np.zeros(len(column))
        for key, factor in terms:
            row[column[key]] += factor
        rows.append(row)
        bounds.append(bound)

    for s in nodes:
        chance = float(case.target[s[:-1]][s[-1]])
        if len(s) == 1:
            limit(iter([(("a", s), 1.0)]), chance)
        else:
            limit(iter([(("a", s), 1.0), (("a", s[:-1]), -chance)]), 0.0)
        below = (((("R", leaf)), -1.0) for leaf in leaves if leaf[: len(s)] == s)
        limit(itertools.chain([(("a", s), 1.0)], below), 0.0)
    mass = {s: float(np.prod([float(case.draft[s[:i]][x]) for i, x in enumerate(s)])) for s in leaves}
    for size in range(1, len(leaves) + 1):
        for some in itertools.combinations(leaves, size):
            limit(((("R", s), 1.0) for s in some), 1.0 - (1.0 - sum(mass[s] for s in some)) ** paths)
    gain = np.array([-1.0 if kind == "a" else 0.0 for kind, _ in column])
    found = linprog(gain, A_ub=np.array(rows), b_ub=bounds, method="highs")
    return 1.0 - float(found.fun or 0.0)


def verify_paths(target: Floats, draft: Floats, tokens: Ints, rng: np.random.Generator) -> Emitted:
    """``greedy_multipath`` on arrays: rows [B, K, G+1, V] and [B, K, G, V] along K i.i.d. paths [B, K, G] a row."""
    rows, paths, length = tokens.shape
    every = np.arange(rows)
    going = np.ones((rows, paths), dtype=np.bool_)
    for i in range(length):
        place = _places(target[:, :, i], draft[:, :, i])
        reached = np.take_along_axis(place, tokens[:, :, i, None], axis=2)[:, :, 0]
        reached = np.where(going, reached, place.shape[2])
        going &= reached == reached.min(axis=1, keepdims=True)
    best = going.argmax(axis=1)
    p, q, d = target[every, best], draft[every, best], tokens[every, best]
    adjusted = np.empty_like(q)
    worse, mass = np.zeros(rows), np.ones(rows)
    for i in range(length):
        order = np.argsort(-_places(p[:, i], q[:, i]), axis=1)
        shares = mass[:, None] * np.take_along_axis(q[:, i], order, axis=1)
        below = worse[:, None] + np.cumsum(shares, axis=1) - shares
        picked = (below + shares) ** paths - below**paths
        np.put_along_axis(adjusted[:, i], order, picked / picked.sum(axis=1, keepdims=True), axis=1)
        at = np.argmax(order == d[:, i, None], axis=1)
        worse, mass = below[every, at], shares[every, at]
    return batched.block(p, adjusted, d, rng)


def _places(p: Floats, q: Floats) -> Ints:
    """Place of every token in ``best_first`` of its row, along the last axis."""
    odds = np.divide(p, q, out=np.where(p > 0, 1.0, 0.0), where=q > 0)
    return np.argsort(np.argsort(-odds, axis=-1, kind="stable"), axis=-1, kind="stable")


def _can(case: Case, prefix: String) -> bool:
    return all(case.draft[prefix[:i]][x] > 0 for i, x in enumerate(prefix))
