"""Beyond one chain: trees of drafts, chains of models, and drafting while the target verifies."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.errors import InputError
from specsim.theory.tokens import expected_tokens_iid

Floats = NDArray[np.float64]


def tree_node_survival(parents: Sequence[int], edge_acceptance: ArrayLike) -> Floats:
    """P(the path to each node is accepted): products of edge probabilities from the root, shape (nodes,).

    parents[i] < i is node i's parent, -1 the root (the last committed token, which is no node). edge_acceptance[i] is
    the probability that node i is the child accepted, given that its parent was; siblings' sum to at most 1.
    """
    edge = np.asarray(edge_acceptance, dtype=np.float64)
    if len(parents) != len(edge) or np.any(edge < 0) or np.any(edge > 1):
        raise InputError("needs one probability in 0..1 for each node", field="edge_acceptance")
    survival = np.empty(len(edge))
    taken: dict[int, float] = {}
    for i, parent in enumerate(parents):
        if not -1 <= parent < i:
            raise InputError(f"node {i} names parent {parent}; parents come before their children", field="parents")
        taken[parent] = taken.get(parent, 0.0) + float(edge[i])
        if taken[parent] > 1.0 + 1e-9:
            raise InputError(f"children of node {parent} sum to {taken[parent]:.3g} > 1", field="edge_acceptance")
        survival[i] = edge[i] * (1.0 if parent < 0 else survival[parent])
    return survival


def tree_expected_tokens(parents: Sequence[int], edge_acceptance: ArrayLike) -> float:
    """Tokens per round of a draft tree: 1 + sum of node survival (Sequoia, arXiv 2402.12374)."""
    return float(1.0 + tree_node_survival(parents, edge_acceptance).sum())


def best_tree_tokens(rank_acceptance: ArrayLike, nodes: int, depth: int) -> float:
    """Tokens per round of the best tree of a node budget, when child j of any node is accepted with a_j.

    With path probabilities that never rise along a path, taking the most probable reachable node each time is optimal
    (budget and rank assumption: Sequoia, arXiv 2402.12374; greedy: DySpec, 2410.11744).
    """
    import heapq

    a = np.asarray(rank_acceptance, dtype=np.float64)
    if a.ndim != 1 or a.size == 0 or np.any(a < 0) or float(a.sum()) > 1.0 + 1e-9:
        raise InputError("needs probabilities by rank that sum to at most 1", field="rank_acceptance")
    heap = [(-float(p), 1) for p in a] if depth >= 1 else []
    heapq.heapify(heap)
    total, left = 1.0, nodes
    while heap and left > 0:
        negative, level = heapq.heappop(heap)
        total, left = total - negative, left - 1
        if level < depth:
            for p in a:
                heapq.heappush(heap, (negative * float(p), level + 1))
    return total


def cascade_seconds_per_token(times_s: Sequence[float], rates: Sequence[float], lengths: Sequence[int]) -> Floats:
    """Seconds per token of a chain of models M_1 (smallest) .. M_n, each drafting for the next; shape (n,).

    u_1 = t_1 and u_{i+1} = (g_i u_i + t_{i+1}) / L(a_i, g_i): a token of model i+1's law costs g_i tokens of model i's
    and one verification. Treats acceptance between levels as i.i.d. and independent, and verification of g_i + 1 tokens
    as one step.
    """
    if not len(times_s) == len(rates) + 1 == len(lengths) + 1:
        raise InputError("n models need n times, n - 1 rates and n - 1 lengths", field="times_s, rates, lengths")
    seconds = [float(times_s[0])]
    for t, a, g in zip(times_s[1:], rates, lengths, strict=True):
        seconds.append((g * seconds[-1] + t) / float(expected_tokens_iid(a, g)))
    return np.array(seconds)


def best_cascade(times_s: Sequence[float], rates: Sequence[float], *, max_k: int = 32) -> tuple[list[int], float]:
    """Draft lengths that minimise the last model's seconds per token, level by level, and those seconds.

    Level by level is optimal: a later level's cost rises in the cost per token of the one below.
    """
    if len(times_s) != len(rates) + 1:
        raise InputError("n models need n - 1 rates", field="rates")
    lengths: list[int] = []
    seconds = float(times_s[0])
    g = np.arange(max_k + 1, dtype=np.float64)
    for t, a in zip(times_s[1:], rates, strict=True):
        options = (g * seconds + t) / expected_tokens_iid(a, g)
        best = int(np.argmin(options))
        lengths.append(best)
        seconds = float(options[best])
    return lengths, seconds


def dsi_expected_seconds(rate: float, tokens: int, *, draft_s: float, target_s: float) -> float:
    """Expected seconds for N tokens when enough targets verify in parallel with drafting (DSI, arXiv 2405.14105).

    The first N - 1 tokens each cost a draft step if accepted and a target step if not; the last a target step:
    draft_s a (N - 1) + target_s ((1 - a)(N - 1) + 1). Never slower than plain decoding for draft_s <= target_s. Needs
    enough targets that one is always free; with fewer, it is a bound from below.
    """
    if tokens < 1:
        raise InputError(f"{tokens} must be at least 1", field="tokens")
    return draft_s * rate * (tokens - 1) + target_s * ((1.0 - rate) * (tokens - 1) + 1.0)


def overlapped_tokens_per_s(rate: float, window: int, *, draft_s: float, target_s: float) -> float:
    """Tokens per second when a drafter fills the next window while the target verifies the last (two devices).

    A verification lasts max(window draft_s, target_s), the next window being drafted meanwhile. If all of its window is
    accepted, the pipe stays full: ``window`` tokens, no bonus, since the next window already stands for it. If not, the
    accepted ones and a correction come out, what was drafted meanwhile is void, and window draft_s passes until the
    target has work again. By renewal-reward with w = rate^window:

        (window w + sum_{j < window} (j + 1)(1 - a) a^j) / (max(window draft_s, target_s) + (1 - w) window draft_s).

    The common core of PEARL (arXiv 2408.11850), without its pre-verification of the first token.
    """
    if window < 1 or not 0 <= rate <= 1:
        raise InputError("needs window >= 1 and a rate in 0..1", field="window, rate")
    j = np.arange(window, dtype=np.float64)
    full = rate**window
    tokens = window * full + float(((j + 1.0) * (1.0 - rate) * rate**j).sum())
    return tokens / (max(window * draft_s, target_s) + (1.0 - full) * window * draft_s)
