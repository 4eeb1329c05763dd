"""The most that any rule can accept from several drafts of one position, in closed form, as a flow, and as a
program.
"""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Mapping
from fractions import Fraction

from specsim.errors import InputError
from specsim.verification.case import Number, check_row
from specsim.verification.coins import Weights

Tuple = tuple[int, ...]


def optimal_acceptance(p: Weights, q: Weights, k: int, *, replacement: bool = True) -> Number:
    """Largest probability that a lossless rule can emit one of k drafts of q.

    By max-flow/min-cut it is ``1 - max_T [P(all drafts in T) - p(T)]``. For i.i.d. drafts the worst T holds the
    tokens of smallest p/q: ``1 - max_j [q(T_j)^k - p(T_j)]``, O(V log V). Without replacement every subset is tried
    (2^V). SpecTr, arXiv 2310.15141; Hu et al., 2502.18779; the closed form is derived in docs/verification.md.
    Raises InputError where p or q is no law, they differ in length, or k is no whole number from 1 up.
    """
    check_row(p, len(p), "p")
    check_row(q, len(p), "q")
    if not isinstance(k, int) or k < 1:
        raise InputError(f"{k!r}: give 1 or more drafts", field="k")
    if not replacement:
        return _without_replacement(p, q, k)
    drawn = [x for x in range(len(p)) if q[x] > 0]
    drawn.sort(key=lambda x: p[x] / q[x])
    best, inside_p, inside_q = p[0] * 0, p[0] * 0, p[0] * 0
    for x in drawn:
        inside_p += p[x]
        inside_q += q[x]
        best = max(best, inside_q**k - inside_p)
    return 1 - best


def _without_replacement(p: Weights, q: Weights, k: int) -> Number:
    support = [x for x in range(len(p)) if q[x] > 0]
    k = min(k, len(support))
    best = p[0] * 0
    for size in range(k, len(support) + 1):
        for inside in itertools.combinations(support, size):
            drawn = sum(_ordered(q, order) for order in itertools.permutations(inside, k))
            best = max(best, drawn - sum(p[x] for x in inside))
    return 1 - best


def _ordered(q: Weights, order: Tuple) -> Number:
    mass, left = q[0] * 0 + 1, q[0] * 0 + 1
    for x in order:
        mass *= q[x] / left
        left -= q[x]
    return mass


def hybrid_acceptance(p: Weights, q: Weights, k: int) -> Number:
    """Optimum when the k - 1 likeliest tokens are drafted and one is drawn from the rest of q.

    ``p(Top) + sum over the rest of min(p, q restricted to it)``. Hu et al., arXiv 2502.18779.
    """
    top = sorted((x for x in range(len(q)) if q[x] > 0), key=lambda x: (-q[x], x))[: k - 1]
    rest = [x for x in range(len(q)) if x not in top]
    mass = sum(q[x] for x in rest)
    sure: Number = sum((p[x] for x in top), start=p[0] * 0)
    return sure + (sum(min(p[x], q[x] / mass) for x in rest) if mass > 0 else 0)


def couple(p: Weights, tuples: Mapping[Tuple, Number]) -> dict[tuple[Tuple, int], Number]:
    """A largest flow from tuples of drafts (their probabilities) to the tokens in them (capacity p): mass by (tuple,
    token).

    Shortest augmenting paths, so that it ends with exact numbers too. Its total is the optimal acceptance.
    """
    flow: dict[tuple[Tuple, int], Number] = {}
    supply, room = dict(tuples), list(p)
    holders: dict[int, list[Tuple]] = {x: [d for d in tuples if x in d] for x in range(len(p))}
    while (path := _augmenting(supply, room, holders, flow)) is not None:
        amount = min(supply[path[0][0]], room[path[-1][1]])
        back = [(path[i + 1][0], path[i][1]) for i in range(len(path) - 1)]
        amount = min([amount, *(flow[edge] for edge in back)])
        for edge in path:
            flow[edge] = flow.get(edge, 0) + amount
        for edge in back:
            flow[edge] -= amount
        supply[path[0][0]] -= amount
        room[path[-1][1]] -= amount
    return {edge: mass for edge, mass in flow.items() if mass > 0}


def _augmenting(
    supply: Mapping[Tuple, Number],
    room: Weights,
    holders: Mapping[int, list[Tuple]],
    flow: Mapping[tuple[Tuple, int], Number],
) -> list[tuple[Tuple, int]] | None:
    """Shortest path of (tuple, token) edges from a tuple with supply left to a token with room left."""
    small = 0 if isinstance(room[0], (int, Fraction)) else 1e-14
    came: dict[Tuple, tuple[Tuple, int] | None] = {d: None for d, mass in supply.items() if mass > small}
    queue = deque(came)
    while queue:
        d = queue.popleft()
        for x in dict.fromkeys(d):
            if room[x] > small:
                path, at = [(d, x)], d
                while (edge := came[at]) is not None:
                    path.append(edge)
                    at = edge[0]
                return path[::-1]
            for other in holders[x]:
                if other not in came and flow.get((other, x), 0) > small:
                    came[other] = (d, x)
                    queue.append(other)
    return None


def program_acceptance(p: Weights, tuples: Mapping[Tuple, Number]) -> float:
    """The same optimum from scipy's linear programming, as a check on the flow: max sum f, f <= both margins."""
    import numpy as np
    from scipy.optimize import linprog

    edges = [(i, x) for i, d in enumerate(tuples) for x in dict.fromkeys(d)]
    limits = np.zeros((len(tuples) + len(p), len(edges)))
    for column, (i, x) in enumerate(edges):
        limits[i, column] = limits[len(tuples) + x, column] = 1.0
    bounds = [*map(float, tuples.values()), *map(float, p)]
    found = linprog(-np.ones(len(edges)), A_ub=limits, b_ub=bounds, method="highs")
    return -float(found.fun or 0.0)
