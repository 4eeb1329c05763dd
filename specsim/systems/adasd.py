"""AdaSD: two thresholds that set themselves, one to stop drafting and one to accept (arXiv 2512.11280). Lossy.

One drafter, one target, one device. Drafting stops once the drafter's entropy exceeds the mean entropy of the tokens
rejected so far (``drafting.adaptive.MeanRejectedEntropy``). A token that the target would not have accepted is kept all
the same where the Jensen-Shannon distance of the two laws looks more like that of accepted tokens than of rejected
ones: pi_A f_A(d) >= pi_R f_R(d), f being kernel densities of the distances seen so far. The authors' width, prior
and warm-up were not found: here ``width`` and ``warm_up`` are the caller's, and the first test is the token rule's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.language_pair import LanguagePair, random_pair
from specsim.acceptance.signals import Drafted, Signals
from specsim.cost.drafter import SEQUENTIAL
from specsim.drafting.adaptive import MeanRejectedEntropy
from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.outcome import Outcome
from specsim.simulation.signal_rounds import Rounds, RoundSeconds
from specsim.systems.composition import Composition, on_servers, with_prompts
from specsim.systems.descriptor import Parameter, System
from specsim.systems.signal_chain import BATCHED

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

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


LEVELS = 64
"""Cells of the distance, 0..1; the kernel's width should be a few of them."""

AHEAD = 1024
"""Rounds drawn at once."""


@dataclass(frozen=True)
class DistanceSignals:
    """Confidence, fate and distance of drafted tokens: three normal scores around given conditional rates.

    A token would be accepted iff x > -probit(rate); its confidence's score correlates with x by ``confidence`` (as in
    ``CopulaSignals``), the score of the distance between both laws by ``distance``. Margins, all assumed: entropy
    exponential with ``mean_entropy_nats``, distance uniform on 0..1 (small where accepted). A synthetic law.
    """

    rates: tuple[float, ...]
    confidence: float
    distance: float
    mean_entropy_nats: float = 1.0

    def draw(self, rounds: int, rng: np.random.Generator) -> tuple[Floats, Bools, Ints]:
        """Entropies, fates and cells of the distance, each of shape (rounds, positions)."""
        from scipy.special import ndtr, ndtri

        x, z, w = rng.standard_normal((3, rounds, len(self.rates)))
        z = self.confidence * x + np.sqrt(1.0 - self.confidence**2) * z
        w = self.distance * x + np.sqrt(1.0 - self.distance**2) * w
        entropy = -self.mean_entropy_nats * np.log(np.maximum(ndtr(z), 1e-300))
        cells = np.minimum((ndtr(-w) * LEVELS).astype(np.int64), LEVELS - 1)
        return entropy, x > -ndtri(np.asarray(self.rates)), cells


class AdaSdRule:
    """Both components, each request with a threshold and densities of its own."""

    def __init__(
        self,
        signals: DistanceSignals,
        stop: MeanRejectedEntropy,
        keep: DensityRule,
        streams: int,
        rng: np.random.Generator,
    ) -> None:
        self._signals, self._stop, self._keep, self._rng = signals, stop, keep, rng
        self._state = stop.start(streams)
        self._seen = np.zeros((2, streams, LEVELS))
        self._middles = (np.arange(LEVELS) + 0.5) / LEVELS
        self._left = 0
        self._now: dict[int, tuple[Signals, Bools, Ints]] = {}

    def length(self, stream: int) -> int:
        """Drafted until the entropy exceeds the request's own threshold."""
        if not self._left:
            self._ahead, self._left = self._signals.draw(AHEAD, self._rng), AHEAD
        self._left -= 1
        entropies, fates, cells = self._ahead
        entropy = entropies[[self._left]]
        shown = Signals(entropy, entropy, entropy)  # the rule reads entropy alone
        self._now[stream] = shown, fates[self._left], cells[self._left]
        return int(self._stop.lengths(self._state[[stream]], shown)[0])

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """What the token rule or the densities keep; then threshold and densities learn it."""
        shown, fates, cells = self._now[stream]
        accepted_so_far, rejected_so_far = self._seen[:, [stream]]
        lenient = self._keep.keeps(accepted_so_far, rejected_so_far, self._middles)[0]
        kept = fates[:k] | lenient[cells[:k]]
        count = int(np.argmin(kept)) if not kept.all() else k
        np.add.at(self._seen[0, stream], cells[:count], 1.0)
        if count < k:
            self._seen[1, stream, cells[count]] += 1.0
        self._state[[stream]] = self._stop.learn(self._state[[stream]], shown, np.array([k]), np.array([count]))
        return count, count + 1


def _compose(setting: Setting) -> Composition:
    candidate, _ = setting.best(setting.drafters(*SEQUENTIAL))
    most = setting.most(candidate, setting.count("most"))
    signals = DistanceSignals(
        setting.conditional_rates(candidate, most),
        setting.number("correlation", most=0.999),
        setting.number("distance_correlation", most=0.999),
        setting.number("mean_entropy_nats", above=0.0),
    )
    stop = MeanRejectedEntropy(most, setting.number("first_nats"))
    keep = DensityRule(setting.number("kernel_width", least=1.0 / LEVELS, most=1.0), setting.count("warm_up"))
    return on_servers(
        setting,
        candidate,
        with_prompts({k: setting.deployment.program(candidate, k) for k in range(1, most + 1)}, 1),
        lambda requests, rng: AdaSdRule(signals, stop, keep, len(requests), rng),
        ran_with=f"{candidate.short}, K = 1..{most} by entropy",
        assumed=(
            "entropy, distance and acceptance follow a Gaussian copula; entropy is exponential, distance uniform",
            "what fails the density test is put to the token rule",
            BATCHED,
        ),
    )


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
    compose=_compose,
    inputs=(
        Parameter("correlation", None, "between confidence and acceptance, 0 to below 1", "-"),
        Parameter("distance_correlation", None, "between the laws' distance and acceptance, 0 to below 1", "-"),
        Parameter("kernel_width", 0.05, "of the kernel densities, distance being 0..1", "assumed: not found"),
        Parameter("warm_up", 5, "distances of each class before the rule speaks", "assumed: not found"),
        Parameter("most", 8, "longest draft", "assumed: not found"),
        Parameter("first_nats", 0.5, "threshold before anything was rejected", "said to be the paper's"),
        Parameter("mean_entropy_nats", 1.0, "of the drafter's law", "assumed"),
    ),
    study="adasd",
)
