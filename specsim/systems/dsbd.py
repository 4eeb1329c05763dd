"""Dynamic-width speculative beam decoding (arXiv 2409.16560). Lossless with respect to beam sampling.

A small model runs beam sampling of width W_S for gamma layers; the target scores the forest in one pass and verifies it
layer by layer: draft beam x is accepted with min(1, p'(x)/q(x)) (the printed text has the ratio upside down; the code
and the proof have this one), p' becoming norm((p' - q)+) after a rejection and p again after an acceptance. A layer
ends once W_L beams are accepted; the first that is not ends the round. W_L is the largest count that is likely enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.acceptance.chains import Iid
from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.outcome import Outcome
from specsim.simulation.round_rules import DrawnRounds
from specsim.systems.composition import Composition, on_servers
from specsim.systems.descriptor import Parameter, System
from specsim.theory.tokens import expected_tokens_iid

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]


def acceptance_by_failures(p: ArrayLike, q: ArrayLike, drafts: int) -> Floats:
    """alpha_j: probability that a draft is accepted after j - 1 rejections in a row, j = 1..drafts.

    sum_x min(q, p_j) with p_1 = p and p_{j+1} = norm((p_j - q)+); 1 once nothing of p is left to reject.
    """
    left, law = np.asarray(p, dtype=np.float64), np.asarray(q, dtype=np.float64)
    alphas = np.empty(drafts)
    for j in range(drafts):
        alphas[j] = float(np.minimum(left, law).sum())
        rest = np.maximum(left - law, 0.0)
        left = rest / rest.sum() if rest.sum() > 1e-15 else left
    return np.minimum(alphas, 1.0)


def count_law(alphas: ArrayLike) -> Floats:
    """P(exactly k of m drafts are accepted), k = 0..m, for m = len(alphas): the paper's recursion.

    P(m, k) = sum_i F(i) P(m - i, k - 1) with F(i) = alpha_i prod_{j<i} (1 - alpha_j), and P(m, 0) =
    prod_{j<=m} (1 - alpha_j).
    """
    a = np.asarray(alphas, dtype=np.float64)
    m = len(a)
    fail = np.concatenate([[1.0], np.cumprod(1.0 - a)])
    first = a * fail[:-1]
    table = np.zeros((m + 1, m + 1))
    for drafts in range(m + 1):
        table[drafts, 0] = fail[drafts]
        for k in range(1, drafts + 1):
            table[drafts, k] = sum(first[i - 1] * table[drafts - i, k - 1] for i in range(1, drafts + 1))
    return np.asarray(table[m])


def width(alphas: ArrayLike, *, threshold: float, least: int) -> int:
    """W_L of a layer: the most beams that are accepted with probability ``threshold`` at least, but ``least`` beams."""
    law = count_law(alphas)
    if not 0 < threshold <= 1 or not 1 <= least < len(law):
        raise InputError("needs threshold in (0, 1] and 1 <= least <= drafts", field="threshold, least")
    at_least = np.cumsum(law[::-1])[::-1]
    return max(least, int(np.nonzero(at_least >= threshold - 1e-12)[0].max()))


def target_calls_per_step(acceptance: float, layers: int) -> float:
    """Target passes per beam step: (1 - a) / (1 - a^(gamma + 1)), a layer passing with probability a (Theorem 3.2)."""
    return float(1.0 / expected_tokens_iid(acceptance, layers))


@dataclass(frozen=True)
class Layer:
    """Joint beam laws of one layer: over (input beam x vocabulary), of target and drafter."""

    p: Floats
    q: Floats


def run_layer(layer: Layer, *, drafts: int, wanted: int, trials: int, rng: np.random.Generator) -> tuple[Ints, Ints]:
    """Verify ``trials`` layers: how many of all drafts are accepted (no early stop), and the first output beam of each.

    The first output beam is the first accepted draft, or what p' gives after ``drafts`` rejections: it has law p.
    ``wanted`` only bounds what a layer keeps; it does not change either result.
    """
    if not 1 <= wanted <= drafts:
        raise InputError(f"{wanted} beams of {drafts} drafts", field="wanted")
    chain = [layer.p]
    for _ in range(drafts):
        rest = np.maximum(chain[-1] - layer.q, 0.0)
        chain.append(rest / rest.sum() if rest.sum() > 1e-15 else chain[-1])
    laws = np.stack(chain)
    x = rng.choice(len(layer.q), size=(trials, drafts), p=layer.q)
    failures: Ints = np.zeros(trials, dtype=np.int64)
    accepted: Ints = np.zeros(trials, dtype=np.int64)
    first: Ints = np.full(trials, -1, dtype=np.int64)
    for j in range(drafts):
        keep = rng.random(trials) * layer.q[x[:, j]] < laws[failures, x[:, j]]
        first = np.where(keep & (first < 0), x[:, j], first)
        accepted = accepted + keep
        failures = np.where(keep, 0, failures + 1)
    steps = np.cumsum(laws[drafts])
    filled = np.minimum(np.searchsorted(steps, rng.random(trials), side="right"), len(steps) - 1)
    return accepted, np.where(first < 0, filled, first)


@dataclass(frozen=True)
class BeamRounds:
    """Simulated rounds: beam steps each emitted, and the share of verified layers that passed."""

    steps: Ints
    acceptance: float


def run_rounds(
    layers: tuple[Layer, ...],
    *,
    drafts: int,
    gamma: int,
    threshold: float,
    least: int,
    rounds: int,
    rng: np.random.Generator,
) -> BeamRounds:
    """Rounds of ``gamma`` layers, each drawn from ``layers``, whose width is set by the count recursion.

    A layer passes if its W_L beams are accepted; the first that does not still emits a beam step, and so does the layer
    beyond the last.
    """
    alphas = [acceptance_by_failures(layer.p, layer.q, drafts) for layer in layers]
    widths = np.array([width(a, threshold=threshold, least=least) for a in alphas])
    counts = np.cumsum([count_law(a) for a in alphas], axis=1)
    kind = rng.integers(len(layers), size=(rounds, gamma))
    count = (rng.random((rounds, gamma, 1)) >= counts[kind]).sum(axis=2)
    passed = count >= widths[kind]
    run = np.logical_and.accumulate(passed, axis=1)
    reached = np.column_stack([np.ones(rounds, dtype=bool), run[:, :-1]])
    return BeamRounds(run.sum(axis=1) + 1, float(passed[reached].mean()))


def simulate(
    rng: np.random.Generator,
    *,
    drafts: int = 6,
    gamma: int = 3,
    threshold: float = 0.9,
    least: int = 1,
    divergence: float = 0.5,
    beams: int = 12,
    draft_s: float = 0.1,
    tokens: int = 20_000,
) -> Outcome:
    """Beam steps of one stream; layers' laws are Dirichlet pairs, the drafter's mixed with the target's."""
    p = rng.dirichlet(np.full(beams, 0.6), size=40)
    q = (1.0 - divergence) * p + divergence * rng.dirichlet(np.full(beams, 0.6), size=40)
    layers = tuple(Layer(a, b) for a, b in zip(p, q, strict=True))

    def draw(n: int) -> Drawn:
        steps = run_rounds(
            layers, drafts=drafts, gamma=gamma, threshold=threshold, least=least, rounds=n, rng=rng
        ).steps
        return Drawn(np.full(n, gamma), steps - 1, steps, np.full(n, 1.0 + gamma * draft_s))

    return in_series(draw, tokens=tokens)


class Layers:
    """Layers of beams that pass, of ``gamma`` drafted; a round drafts ``tokens`` in all and goes one layer further."""

    def __init__(self, acceptance: float, gamma: int, tokens: int, streams: int, rng: np.random.Generator) -> None:
        self._gamma, self._tokens = gamma, tokens
        self._drawn = DrawnRounds(Iid(acceptance), streams, rng)

    def length(self, stream: int) -> int:  # noqa: ARG002 - always the same
        """Tokens of all beams."""
        return self._tokens

    def settle(self, stream: int, k: int) -> tuple[int, int]:  # noqa: ARG002 - drawn by layers
        """Along the beam that is answered in the end, a token a layer."""
        passed = self._drawn.accepted(stream, self._gamma)
        return passed, passed + 1


def _compose(setting: Setting) -> Composition:
    candidate = setting.drafters("draft_model", evidence=False)[0]
    acceptance, gamma = setting.number("acceptance", most=1), setting.count("gamma")
    drafts = setting.count("drafts")
    width = setting.count("width", most=drafts)
    program = setting.tree_program(
        candidate, steps=gamma, branches=[drafts] * (gamma - 1), tokens=width + gamma * drafts
    )
    return on_servers(
        setting,
        candidate,
        {program.k: program},
        lambda requests, rng: Layers(acceptance, gamma, program.k, len(requests), rng),
        ran_with=f"{candidate.short}, beam search: {gamma} layers of {drafts} beams drafted, {width} kept",
        assumed=(
            "this is a beam search; plain decoding beside it samples one sequence",
            f"a search without drafts would run {width} sequences",
            "layers pass independently; beams share the cache of what they have in common",
            "the target's width is fixed",
        ),
        one_at_a_time=True,
    )


SYSTEM = System(
    name="dsbd",
    title="Dynamic-Width Speculative Beam Decoding for Efficient LLM Inference",
    paper="2409.16560",
    year=2024,
    lossless="with respect to beam sampling",
    topology="drafter and target on one device",
    pipeline="beam-draft gamma layers of width W_S -> one forest pass -> verify layer by layer -> commit",
    rule="beams tested with min(1, p'/q), residual after a rejection, p again after an acceptance; W_L by likelihood",
    parameters=(
        Parameter("drafts", 6, "W_S: draft beams a layer", "printed range 2 to 6"),
        Parameter("gamma", 3, "layers drafted", "the released script"),
        Parameter("threshold", 0.9, "t: how likely W_L beams must be accepted", "printed: 0.7 or 0.9"),
        Parameter("least", 1, "W_min", "printed range 1 to 3"),
        Parameter("divergence", 0.5, "share of an unrelated law in the drafter's", "assumed: acceptance not found"),
        Parameter("beams", 12, "candidates of a layer", "assumed"),
        Parameter("draft_s", 0.1, "a drafting layer over a target pass", "assumed"),
        Parameter("tokens", 20_000, "beam steps of the stream", "-"),
    ),
    assumptions=("draft beams are i.i.d. from the drafter's beam law", "layers are independent"),
    batches="batch 1 (the authors' code asserts it)",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("acceptance", None, "P(a drafted layer passes: as many of its beams as are kept are accepted)", "-"),
        Parameter("width", None, "W_L: beams that the target keeps of a layer", "-"),
        Parameter("drafts", 6, "W_S: draft beams a layer", "the largest of the printed range 2 to 6"),
        Parameter("gamma", 3, "layers drafted", "the released script"),
    ),
    study="dsbd",
)
