"""AdaSD: two thresholds that set themselves, one to stop drafting and one to accept (arXiv 2512.11280). Lossy.

One drafter, one target, one device. Drafting stops once the drafter's entropy exceeds the mean entropy of the tokens
rejected so far (``drafting.adaptive.MeanRejectedEntropy``). A token that the target would not have accepted is kept all
the same where the Jensen-Shannon distance of the two laws looks more like that of accepted tokens than of rejected
ones: pi_A f_A(d) >= pi_R f_R(d), f being kernel densities of the distances seen so far. The authors' width, prior
and warm-up were not found: here ``width`` and ``warm_up`` are the caller's, and the first test is the token rule's.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.language_pair import LanguagePair, random_pair
from specsim.acceptance.signals import Drafted
from specsim.drafting.adaptive import MeanRejectedEntropy
from specsim.errors import InputError
from specsim.simulation.expanded import Outcome
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.signal_rounds import Rounds, RoundSeconds
from specsim.systems.descriptor import Parameter, System

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True)
class DensityRule:
    """Keeps a token whose distance is likelier under the accepted than under the rejected ones seen so far.

    width: of the Gaussian kernel, in units of distance (0..1). warm_up: distances of each class that a request must
    have seen before the rule speaks.
    """

    width: float
    warm_up: int

    def __post_init__(self) -> None:
        if not self.width > 0 or self.warm_up < 1:
            raise InputError("needs width > 0 and warm_up >= 1", field="width, warm_up")

    def keeps(self, accepted: Floats, rejected: Floats, distance: Floats) -> Bools:
        """Whether pi_A f_A >= pi_R f_R at each context; counts and result have shape (requests, contexts).

        accepted, rejected: how often each request saw each context in either class; distance: of each context. With
        class shares as priors, pi f is the kernel sum over that class's distances, divided by what both have.
        """
        kernel = np.exp(-0.5 * ((distance[:, None] - distance[None, :]) / self.width) ** 2)
        ready = np.minimum(accepted.sum(axis=1), rejected.sum(axis=1)) >= self.warm_up
        return np.asarray((accepted @ kernel >= rejected @ kernel) & ready[:, None])


@dataclass(frozen=True)
class Adapted:
    """What a run leaves: its rounds, the stop threshold of each request after them, and how often rules disagreed.

    lenient: tokens kept that the token rule would have rejected, over all tokens accepted.
    """

    rounds: Rounds
    threshold_nats: Floats
    lenient: float


def run_adasd(
    pair: LanguagePair,
    stop: MeanRejectedEntropy,
    keep: DensityRule | None,
    cost: RoundSeconds,
    *,
    requests: int,
    rounds: int,
    rng: np.random.Generator,
) -> Adapted:
    """Run a language pair under both components; ``keep`` None leaves the lossless token rule in place."""
    vocab = len(pair.target)
    seen = np.zeros((2, requests, vocab))
    latent, state = pair.start(requests, rng), stop.start(requests)
    drafted = np.empty((requests, rounds), dtype=np.int64)
    accepted = np.empty_like(drafted)
    kept_on = 0
    row = np.arange(requests)
    for t in range(rounds):
        shown = pair.draft(latent, stop.most, rng)
        lengths = stop.lengths(state, shown.signals)
        accepts = shown.accepts
        if keep is not None:
            lenient = keep.keeps(seen[0], seen[1], pair.js_distance)
            accepts = accepts | np.take_along_axis(lenient, shown.contexts[:, :-1], axis=1)
        count, latent = pair.settle(Drafted(shown.signals, accepts, shown.contexts), lengths, rng)
        inside = np.arange(stop.most) < count[:, None]
        kept_on += int((inside & ~shown.accepts).sum())
        np.add.at(seen[0], (np.broadcast_to(row[:, None], inside.shape)[inside], shown.contexts[:, :-1][inside]), 1.0)
        failed = count < lengths
        np.add.at(seen[1], (row[failed], shown.contexts[row, count][failed]), 1.0)
        state = stop.learn(state, shown.signals, lengths, count)
        drafted[:, t], accepted[:, t] = lengths, count
    return Adapted(
        Rounds(drafted, accepted, cost.of(drafted)), stop.threshold_nats(state), kept_on / max(int(accepted.sum()), 1)
    )


def simulate(
    rng: np.random.Generator,
    *,
    acceptance: float = 0.7,
    vocab: int = 24,
    kernel_width: float = 0.05,
    warm_up: int = 5,
    most: int = 8,
    draft_s: float = 0.1,
    tokens: int = 4_000,
) -> Outcome:
    """One stream of a random language pair under both components; seconds are target steps."""
    pair = random_pair(vocab, acceptance=acceptance, rng=rng)
    cost = RoundSeconds(draft_s, lambda drafted: np.ones(drafted.shape))
    stop, keep = MeanRejectedEntropy(most), DensityRule(kernel_width, warm_up)
    ran = run_adasd(pair, stop, keep, cost, requests=1, rounds=tokens, rng=rng).rounds
    done = iter([Drawn(ran.drafted[0], ran.accepted[0], ran.tokens[0], ran.seconds[0])])
    return in_series(lambda _: next(done), tokens=tokens)


SYSTEM = System(
    name="adasd",
    title="AdaSD: Adaptive Speculative Decoding for Efficient Language Model Inference",
    paper="2512.11280",
    year=2025,
    lossless="no",
    topology="drafter and target on one device",
    pipeline="draft while entropy <= T -> verify, keeping what looks accepted -> commit -> T, densities",
    rule="T = mean entropy of rejected tokens; kept if pi_A f_A(d) >= pi_R f_R(d), d the JS distance of q and p",
    parameters=(
        Parameter("acceptance", 0.7, "1 - E[TV] of the pair", "assumed"),
        Parameter("vocab", 24, "tokens of the toy pair", "-"),
        Parameter("kernel_width", 0.05, "of the kernel densities", "assumed: not found"),
        Parameter("warm_up", 5, "distances of each class before the rule speaks", "assumed: not found"),
        Parameter("most", 8, "longest draft", "assumed: not found"),
        Parameter("draft_s", 0.1, "draft step over target step", "assumed"),
        Parameter("tokens", 4_000, "tokens of the stream", "-"),
    ),
    assumptions=(
        "what fails the density test is put to the token rule",
        "language models are a random Markov pair; the paper's pairs and tables were not found",
    ),
    batches="thresholds are a request's own; any batch of independent requests",
    simulate=simulate,
    study="adasd",
)
