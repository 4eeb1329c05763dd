"""Rules that give up the target's law for more acceptance, each with what that costs in total variation.

They are chain rules (``chains``) with parameters bound by ``functools.partial``; ``chains.chain_law`` gives their exact
law. ``superset_distortion`` prices the large family that accepts a superset of the standard rule and keeps its
residual.
"""

# ruff: noqa: ARG001 - rules share one signature, whatever each of them reads

from __future__ import annotations

import math
from collections.abc import Sequence

from specsim.verification.case import Case, Number, String
from specsim.verification.chains import Rows, Stop, argmax, drafted, excess, ratio, token
from specsim.verification.coins import Coins, Weights, law_of, pick_with


def lenience(p: Rows, q: Rows | None, d: String, coins: Coins, *, factor: Number) -> Stop:
    """Accept d_i with min(1, p/(factor q)), 0 < factor <= 1; residual norm((p - q)+).

    TV of one token = sum min(q, p/factor) - sum min(q, p), exactly (superset lemma); out(x) <= p(x)/factor.
    Leviathan et al., arXiv 2211.17192, appendix A.5.
    """
    for i, x in enumerate(drafted(d)):
        if not coins.accept(i).below(ratio(p[i][x], factor * declared_rows(q)[i][x])):
            return Stop(d[:i], excess(p[i], declared_rows(q)[i]))
    return Stop(drafted(d), p[len(drafted(d))])


def typical(p: Rows, q: Rows | None, d: String, coins: Coins, *, epsilon: float, delta: float) -> Stop:
    """Accept d_i iff p(d_i) > min(epsilon, delta exp(-H(p))); else the argmax of p; after the last draft, argmax p.

    Not lossless even for q = p. Law of one token: q 1{p > theta} + (1 - sum q 1{p > theta}) at the argmax. Medusa,
    arXiv 2401.10774.
    """
    for i, x in enumerate(drafted(d)):
        if not float(p[i][x]) > min(epsilon, delta * math.exp(-entropy(p[i]))):
            return Stop((*d[:i], argmax(p[i])), None)
    return Stop((*drafted(d), argmax(p[len(drafted(d))])), None)


def ensemble(p: Rows, q: Rows | None, d: String, coins: Coins, *, weight: Number) -> Stop:
    """The token rule against v = weight p + (1 - weight) q; the bonus is p's.

    Accepts 1 - weight TV(p, q); TV of one token = (1 - weight) TV(p, q), exactly: the least that buys that acceptance.
    DIVERSED, arXiv 2604.07622.
    """
    mixed = [
        [weight * a + (1 - weight) * b for a, b in zip(row, other, strict=True)]
        for row, other in zip(p, declared_rows(q), strict=False)
    ]
    n = len(drafted(d))
    return token([*mixed[:n], p[n]], q, drafted(d), coins)


def fuzzy(p: Rows, q: Rows | None, d: String, coins: Coins, *, threshold: float, divergence: str = "tv") -> Stop:
    """Accept d_i wherever Div(p, q) <= threshold, by the token rule elsewhere; Div is "tv", "js" or "kl" (of p from q).

    TV at a context = TV(p, q) 1{Div <= threshold}, exactly; with "tv" the threshold bounds it, with the others Pinsker
    does: sqrt(KL/2). Fuzzy speculative decoding, arXiv 2502.20704; PyramidSD, 2510.12966, stacks two.
    """
    for i, x in enumerate(drafted(d)):
        if divergences(p[i], declared_rows(q)[i])[divergence] <= threshold:
            continue
        if not coins.accept(i).below(ratio(p[i][x], declared_rows(q)[i][x])):
            return Stop(d[:i], excess(p[i], declared_rows(q)[i]))
    return Stop(drafted(d), p[len(drafted(d))])


def adaptive(p: Rows, q: Rows | None, d: String, coins: Coins, *, stop_entropy: float, accept_distance: float) -> Stop:
    """AdaSD's shape at given thresholds: drafting ends before the first q with entropy > stop_entropy; d_i is accepted
    where the Jensen-Shannon distance sqrt(JS(p, q)) <= accept_distance, by the token rule elsewhere.

    TV at a context = TV(p, q) 1{distance <= accept_distance}, exactly. The thresholds adapt between rounds in arXiv
    2512.11280; here they are the caller's. What it does with a draft that fails the test is our reading.
    """
    q = declared_rows(q)
    shorter = next((i for i, row in enumerate(q[: len(drafted(d))]) if entropy(row) > stop_entropy), len(drafted(d)))
    return fuzzy(p, q, d[:shorter], coins, threshold=accept_distance**2, divergence="js")


def big_little(p: Rows, q: Rows | None, d: String, coins: Coins, *, fallback: float, rollback: float) -> Stop:
    """The small model runs while max q >= fallback; the large one rolls back to the first i with -log p(d_i) > rollback
    and emits a token of p there, or after the last draft.

    Lossy: accepted tokens have q's law wherever p(d) >= exp(-rollback). TV of one token <= the drafted mass accepted;
    exact by ``chain_law``. BiLD, arXiv 2302.07863, with its policies on probabilities.
    """
    n = len(drafted(d))
    n = next((i for i, row in enumerate(declared_rows(q)[:n]) if float(max(row)) < fallback), n)
    for i, x in enumerate(d[:n]):
        if not p[i][x] > 0 or -math.log(p[i][x]) > rollback:
            return Stop(d[:i], p[i])
    return Stop(d[:n], p[n])


def biased_argmax(p: Rows, q: Rows | None, d: String, coins: Coins, *, bias: Number) -> Stop:
    """Greedy check against (1 - bias) p + bias 1{d_i}: d_i stays iff max p - p(d_i) <= bias/(1 - bias); else argmax p.

    bias = 0 is greedy verification of a previous output (ties stay). Exact law by ``chain_law``. SSBD, arXiv
    2509.21740.
    """
    for i, x in enumerate(drafted(d)):
        if (1 - bias) * (max(p[i]) - p[i][x]) > bias:
            return Stop((*d[:i], argmax(p[i])), None)
    return Stop((*drafted(d), argmax(p[len(drafted(d))])), None)


def judge(p: Rows, q: Rows | None, d: String, coins: Coins, *, good: Sequence[bool]) -> Stop:
    """Accept d_i iff the standard coin does or ``good[d_i]`` (a judge's score above its threshold); residual as
    standard.

    TV of one token = the mass it adds to acceptance = sum over good x of (q - p)+, exactly (superset lemma). Judge
    decoding, arXiv 2501.19309; AutoJudge; KL-judge, 2601.04766.
    """
    for i, x in enumerate(drafted(d)):
        if not (coins.accept(i).below(ratio(p[i][x], declared_rows(q)[i][x])) or good[x]):
            return Stop(d[:i], excess(p[i], declared_rows(q)[i]))
    return Stop(drafted(d), p[len(drafted(d))])


def cactus(p: Rows, q: Rows | None, d: String, coins: Coins, *, delta: float) -> Stop:
    """h(n) = min(1, p(n) + sqrt(2 delta p(n) (1 - p(n)))) at the drafted n, other tokens scaled to 1 - h(n); accept
    n with min(1, h(n)/q(n)), residual norm((h - q)+) with that token's h.

    Law of one token: sum_n q(n) [a_n 1{n} + (1 - a_n) r_n]; TV exact by ``cactus_law``, at most max_n h(n) - p(n).
    Cactus, arXiv 2604.04987. The root is taken in floats, so the law is exact for that h.
    """
    for i, x in enumerate(drafted(d)):
        raised = raised_row(p[i], x, delta)
        if not coins.accept(i).below(ratio(raised[x], declared_rows(q)[i][x])):
            return Stop(d[:i], excess(raised, declared_rows(q)[i]))
    return Stop(drafted(d), p[len(drafted(d))])


def reward_law(p: Weights, q: Weights, keep: Sequence[Number]) -> list[Number]:
    """Law of one step that keeps z ~ q with probability keep(z) and draws from p otherwise: keep q + (1 - E_q keep) p.

    TV(out, p) <= E_q keep. Reward-guided speculative decoding, arXiv 2501.19324, with keep(z) its weight of z's reward
    (0 or 1 for a threshold).
    """
    kept = sum(a * b for a, b in zip(q, keep, strict=True))
    return [b * w + (1 - kept) * a for a, b, w in zip(p, q, keep, strict=True)]


def reward(p: Rows, q: Rows | None, d: String, coins: Coins, *, keep: Sequence[Number]) -> Stop:
    """Keep d_i with probability keep[d_i], else a token of p; after the last draft a token of p. See ``reward_law``."""
    for i, x in enumerate(drafted(d)):
        if not coins.accept(i).below(keep[x]):
            return Stop(d[:i], p[i])
    return Stop(drafted(d), p[len(drafted(d))])


def beam_layer_law(target: Weights, draft: Weights, *, beams: int, candidates: int) -> dict[tuple[int, ...], Number]:
    """Exact law of the beams that one layer selects, in order, from the joint laws of (beam, token) pairs.

    ``candidates`` pairs come from ``draft`` without replacement. Each output beam runs recursive rejection over the
    candidates not yet looked at, with the draft law of what is left; an accepted pair leaves the target's law, which is
    renormalised; with no candidate left a beam is drawn from the residual. So the beams are drawn from ``target``
    without replacement: lossless for beam *sampling*. After the layer-wise rule of DSBD, arXiv 2409.16560; the residual
    is derived here, not taken from the paper.
    """

    def run(coins: Coins) -> tuple[int, ...]:
        chosen: list[int] = []
        left, drawn, looked = list(target), list(draft), 0
        while len(chosen) < beams and any(left):
            p, beam = [mass / sum(left) for mass in left], None
            while beam is None and looked < candidates and any(drawn):
                total = sum(drawn)
                q = [mass / total for mass in drawn]
                x = coins.pick(q, ("candidate", looked))
                drawn[x] = 0
                if coins.accept(("candidate", looked)).below(ratio(p[x], q[x])):
                    beam = x
                else:
                    over = excess(p, q)
                    p = [mass / sum(over) for mass in over]
                looked += 1
            chosen.append(coins.pick(p, ("beam", len(chosen))) if beam is None else beam)
            left[chosen[-1]] = 0
        return tuple(chosen)

    return law_of(run, unit=target[0] * 0 + 1)


def superset_distortion(p: Weights, q: Weights, accept: Sequence[Number]) -> Number:
    """TV(out, p) of any rule that accepts x with accept[x] >= min(1, p/q) and keeps the residual norm((p - q)+).

    Exactly its acceptance minus the standard rule's: where q > p the residual is 0, so out = q accept >= p; where q
    <= p accept = 1 and out <= p. The excess is the sum over q > p.
    """
    return sum(b * a - min(t, b) for t, b, a in zip(p, q, accept, strict=True))


def least_distortion(p: Weights, q: Weights, rejection: Number) -> Number:
    """No rule that rejects a draft of q with this probability comes nearer to p: TV(out, p) >= TV(p, q) - rejection.

    Yin et al., arXiv 2411.00841, theorem 5.
    """
    return max(0, sum(max(b - a, 0) for a, b in zip(p, q, strict=True)) - rejection)


def cactus_law(p: Weights, q: Weights, delta: float) -> list[Number]:
    """Law of one token of ``cactus``: sum_n q(n) [a_n 1{n} + (1 - a_n) r_n]."""
    out: list[Number] = [0 * mass for mass in p]
    for n, drawn in enumerate(q):
        if not drawn > 0:
            continue
        raised = raised_row(p, n, delta)
        accept = min(1, ratio(raised[n], drawn))
        rest = excess(raised, q)
        total = sum(rest)
        out[n] += drawn * accept
        for y, mass in enumerate(rest):
            out[y] += drawn * (1 - accept) * mass / total
    return out


def raised_row(p: Weights, n: int, delta: float) -> list[Number]:
    """``cactus``'s row for the drafted token n."""
    exact = type(p[n])
    top = min(p[n] * 0 + 1, p[n] + exact(math.sqrt(2 * delta * float(p[n]) * (1 - float(p[n])))))
    share = (1 - top) / (1 - p[n]) if p[n] < 1 else 0
    return [top if x == n else mass * share for x, mass in enumerate(p)]


def entropy(row: Weights) -> float:
    """Shannon entropy in nats."""
    return -sum(float(x) * math.log(x) for x in row if x > 0)


def divergences(p: Weights, q: Weights) -> dict[str, float]:
    """Total variation, Jensen-Shannon and Kullback-Leibler (of p from q) divergence, in nats."""
    middle = [(a + b) / 2 for a, b in zip(p, q, strict=True)]

    def kl(a: Weights, b: Weights) -> float:
        if any(x > 0 and not y > 0 for x, y in zip(a, b, strict=True)):
            return math.inf
        return sum(float(x) * math.log(x / y) for x, y in zip(a, b, strict=True) if x > 0)

    return {
        "tv": float(sum(abs(a - b) for a, b in zip(p, q, strict=True))) / 2,
        "js": (kl(p, middle) + kl(q, middle)) / 2,
        "kl": kl(p, q),
    }


def fly(p: Rows, q: Rows | None, d: String, coins: Coins, *, entropy_above: float, window: int) -> Stop:
    """A standard rejection at i is overruled where the entropy of p's three likeliest exceeds ``entropy_above`` and the
    next ``window`` drafts would be accepted by their own coins.

    No bound a priori: price it with ``chain_law`` on small cases. After FLy, arXiv 2511.22972.
    """
    n = len(drafted(d))
    taken = [coins.accept(i).below(ratio(p[i][x], declared_rows(q)[i][x])) for i, x in enumerate(drafted(d))]
    for i in range(n):
        three = sorted(p[i], reverse=True)[:3]
        unsure = entropy([mass / sum(three) for mass in three]) > entropy_above
        if not (taken[i] or (unsure and i + window < n and all(taken[i + 1 : i + 1 + window]))):
            return Stop(d[:i], excess(p[i], declared_rows(q)[i]))
    return Stop(drafted(d), p[n])


def cascade_law(p: Weights, middle: Weights, first: Weights) -> list[Number]:
    """Law of one token where ``first`` drafts, ``middle`` verifies, and p verifies with middle as the drafts' law.

    Lossless, since what comes out of the first verification has the law ``middle``. With ``first`` in its place it
    isn't.
    """

    def run(coins: Coins) -> int:
        x = coins.pick(first)
        if not coins.accept(0).below(ratio(middle[x], first[x])):
            x = coins.pick(excess(middle, first))
        if coins.accept(1).below(ratio(p[x], middle[x])):
            return x
        return pick_with(coins.accept(2), excess(p, middle))

    law = law_of(run, unit=p[0] * 0 + 1)
    return [law.get(x, p[0] * 0) for x in range(len(p))]


def one_token(p: Weights, q: Weights) -> Case:
    """A case of one drafted token, p after it as well."""
    vocab = range(len(p))
    return Case({(): p, **{(x,): p for x in vocab}}, {(): q}, 1, name="one token")


def declared_rows(q: Rows | None) -> Rows:
    """The drafts' law, for rules that can't do without; raises ValueError where none was declared."""
    if q is None:
        raise ValueError("this rule needs the drafts' law q")
    return q
