"""BiLD: a small model writes, a large one is called when it is unsure and rewinds what it disagrees with (2302.07863).

Lossy, greedy, one device. Fallback: the small model's best probability is below a threshold (that prediction is thrown
away) or ten tokens were written. The large model then scores them in one pass; at the first one of negative
log-probability above the rollback threshold it takes over the position, and runs once more on the corrected text (the
authors' code); otherwise it appends its next token.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.signals import CopulaSignals
from specsim.drafting.stopping import ConfidenceThreshold
from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import RoundProgram
from specsim.systems.composition import Composition, NotApplicable, on_servers, with_prompts
from specsim.systems.descriptor import Parameter, System
from specsim.systems.reproduction import Row

if TYPE_CHECKING:
    from specsim.planning.deployment import Candidate
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST = 10
"""Small steps in a row at most (printed)."""


@dataclass(frozen=True)
class Fates:
    """Each small step falls back with probability ``fallback``; each token kept is rolled back with ``rollback``."""

    fallback: float
    rollback: float

    def __post_init__(self) -> None:
        if not 0 <= self.fallback <= 1 or not 0 <= self.rollback <= 1:
            raise InputError("needs probabilities", field="fallback, rollback")


@dataclass(frozen=True)
class PerToken:
    """Small steps, large passes, and rollbacks for each token emitted."""

    small: float
    large: float
    rolled_back: float

    def time(self, small_over_large: float, check: float = 1.0) -> float:
        """Large-model steps a token takes: small steps at c, large passes at ``check`` (a short multi-token pass)."""
        return self.small * small_over_large + self.large * check


def per_token(fates: Fates) -> PerToken:
    """Exact rates of the loop for independent steps, by renewal over rounds.

    A round writes N small tokens (geometric, cut at ten), with one more small step thrown away when it fell back. The
    large model keeps M < N of them and adds its token there and, in a second pass, one more; or keeps all and adds one.
    """
    small = large = tokens = rolled = 0.0
    for n in range(MOST + 1):
        mass = (1.0 - fates.fallback) ** n * (fates.fallback if n < MOST else 1.0)
        small += mass * (n + (1 if n < MOST else 0))
        kept = (1.0 - fates.rollback) ** n
        large += mass * (1.0 + (1.0 - kept))
        rolled += mass * (1.0 - kept)
        tokens += mass * kept * (n + 1)
        tokens += mass * sum((1.0 - fates.rollback) ** m * fates.rollback * (m + 2) for m in range(n))
    return PerToken(small / tokens, large / tokens, rolled / tokens)


def run(fates: Fates, *, correlation: float, rounds: int, rng: np.random.Generator) -> PerToken:
    """Simulate rounds whose confidence is tied to the large model's agreement by a Gaussian copula.

    With correlation 0 it is ``per_token``. The confidence margin is uniform, so the threshold is the fallback rate.
    """
    made = _rounds(fates, correlation, rounds, rng)
    tokens = float((made.kept + 1 + made.again).sum())
    return PerToken(
        float((made.written + made.wasted).sum()) / tokens,
        float((1 + made.again).sum()) / tokens,
        float(made.again.sum()) / tokens,
    )


class _Rounds(NamedTuple):
    """Small tokens written and thrown away, those the large model kept, and whether it ran a second time."""

    written: Ints
    wasted: NDArray[np.bool_]
    kept: Ints
    again: NDArray[np.bool_]


def _rounds(fates: Fates, correlation: float, rounds: int, rng: np.random.Generator) -> _Rounds:
    return _drawn(CopulaSignals((1.0 - fates.rollback,), correlation), fates.fallback, MOST, rounds, rng)


def _drawn(process: CopulaSignals, fallback: float, most: int, rounds: int, rng: np.random.Generator) -> _Rounds:
    shown = process.draft(process.start(rounds, rng), most, rng)
    written = ConfidenceThreshold(fallback, most, unsure="drop").lengths(shown.signals)
    kept, _ = process.settle(shown, written, rng)
    return _Rounds(written, written < most, kept, kept < written)


LARGE_AGAIN = 0
"""Kind of the large model's extra pass; a round that wrote n small tokens is of kind n + 1."""


class BildRule:
    """A round a large pass: it checks what the small model wrote; after a rollback the next one checks nothing."""

    def __init__(
        self, process: CopulaSignals, fallback: float, most: int, streams: int, rng: np.random.Generator
    ) -> None:
        self._process, self._fallback, self._most, self._rng = process, fallback, most, rng
        self._ahead: list[tuple[int, int]] = []
        self._now: list[tuple[int, int]] = [(0, 0)] * streams
        self._again = [False] * streams

    def length(self, stream: int) -> int:
        """The kind of the next round."""
        if self._again[stream]:
            return LARGE_AGAIN
        if not self._ahead:
            made = _drawn(self._process, self._fallback, self._most, AHEAD, self._rng)
            self._ahead = list(zip(made.written.tolist(), made.kept.tolist(), strict=True))
        self._now[stream] = self._ahead.pop()
        return self._now[stream][0] + 1

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """What was kept and the large model's own token."""
        if k == LARGE_AGAIN:
            self._again[stream] = False
            return 0, 1
        written, kept = self._now[stream]
        self._again[stream] = kept < written
        return kept, kept + 1


AHEAD = 1024
"""Rounds drawn at once."""


def _round(setting: Setting, candidate: Candidate, written: int, most: int) -> RoundProgram:
    """``written`` small tokens and, below the cap, one that is thrown away; the large model over them and one more."""
    steps = min(written + 1, most)
    check = replace(setting.verify_pass(written, device="gpu"), name="verify")
    small = setting.deployment.program(candidate, steps).passes[1:]
    name = f"{steps} small steps, {written} checked"
    return RoundProgram(name, steps, (check, *small), setting.host(candidate, written), written + 1)


def _compose(setting: Setting) -> Composition:
    candidate, _ = setting.best(setting.drafters("draft_model"))
    most = setting.most(candidate, setting.count("most"))
    fallback, tolerated = (setting.number(name, most=1.0) for name in ("fallback", "tolerated"))
    rates = tuple(1.0 - (1.0 - tolerated) * (1.0 - a) for a in setting.conditional_rates(candidate, most))
    if not max(rates) < 1:
        raise NotApplicable("tolerates everything: nothing is ever rolled back; give tolerated below 1")
    process = CopulaSignals(rates, setting.number("correlation", most=0.999))
    again = setting.deployment.program(None, 0)
    programs = {
        LARGE_AGAIN: RoundProgram("large again", 0, again.passes, again.host, LARGE_AGAIN),
        **{n + 1: _round(setting, candidate, n, most) for n in range(most + 1)},
    }
    return on_servers(
        setting,
        candidate,
        with_prompts(programs, 1),
        lambda requests, rng: BildRule(process, fallback, most, len(requests), rng),
        ran_with=f"{candidate.short}, until unsure, {most} steps at most",
        assumed=(
            "confidence and the large model's agreement follow a Gaussian copula",
            "requests do not differ in their acceptance",
            "a round is a pass of the large model; the unsure prediction counts as drafted",
        ),
        one_at_a_time=True,
    )


LAYERS = {"IWSLT": 8 / 24, "XSUM": 6 / 24}
"""Small over large cost: the ratio of layers, launches being what a step costs at batch 1 (assumed; not published)."""

TABLE_4 = {
    "IWSLT": {"rejection sampling": (0.2324, 0.0981), "BiLD": (0.2109, 0.0156)},
    "XSUM": {"rejection sampling": (0.3684, 0.2424), "BiLD": (0.3233, 0.0641)},
}
"""Fallbacks and rollbacks as printed, a share of generated tokens."""

GAIN = {"IWSLT": 1.117, "XSUM": 1.184}
"""Speedup of BiLD over that of rejection sampling: 1.43 / 1.28 and 1.48 / 1.25."""


def time_from_rates(fallback: float, rollback: float, small_over_large: float) -> float:
    """Time per token from measured shares: every token a small step, rolled-back ones again, each fallback a pass."""
    return small_over_large * (1.0 + rollback) + fallback


def rows() -> tuple[Row, ...]:
    """BiLD over rejection sampling on both tasks from Table 4's rates and the layer ratio."""
    return tuple(
        Row(
            f"{task}: BiLD over rejection sampling",
            GAIN[task],
            time_from_rates(*TABLE_4[task]["rejection sampling"], c) / time_from_rates(*TABLE_4[task]["BiLD"], c),
            0.05,
        )
        for task, c in LAYERS.items()
    )


def simulate(
    rng: np.random.Generator,
    *,
    fallback: float = 0.2109,
    rollback: float = 0.0156,
    correlation: float = 0.5,
    small_over_large: float = 8 / 24,
    tokens: int = 20_000,
) -> Outcome:
    """One stream; seconds are large-model steps. A round ends with the large model's pass (and its second one)."""
    fates = Fates(fallback, rollback)

    def draw(n: int) -> Drawn:
        made = _rounds(fates, correlation, n, rng)
        steps = made.written + made.wasted
        seconds = small_over_large * steps + 1.0 + made.again
        return Drawn(steps, made.kept, made.kept + 1 + made.again, seconds.astype(np.float64))

    return in_series(draw, tokens=tokens)


SYSTEM = System(
    name="bild",
    title="Speculative Decoding with Big Little Decoder",
    paper="2302.07863",
    year=2023,
    lossless="no",
    topology="small and large model on one device",
    pipeline="small until unsure (10 at most) -> large checks all -> keep, or roll back and large once more -> commit",
    rule="fall back when max q < a_FB; roll back at the first -log p(y) > a_RB",
    parameters=(
        Parameter("fallback", 0.2109, "probability that a small step falls back", "Table 4, IWSLT (as a rate a step)"),
        Parameter("rollback", 0.0156, "probability that a kept token is rolled back", "Table 4, IWSLT (same)"),
        Parameter("correlation", 0.5, "between confidence and the large model's agreement", "assumed"),
        Parameter("small_over_large", 8 / 24, "cost of a small step", "assumed: ratio of layers"),
        Parameter("tokens", 20_000, "tokens of the stream", "-"),
    ),
    assumptions=("checking ten tokens takes one step", "printed shares are read as probabilities of a step"),
    batches="batch 1 (the authors' code asserts it)",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("correlation", None, "between confidence and the large model's agreement, 0 to below 1", "-"),
        Parameter("fallback", 0.2109, "share of small steps that are unsure", "Table 4, IWSLT: assumed of this pair"),
        Parameter(
            "tolerated",
            0.74,
            "share of what rejection sampling rejects that the rollback threshold lets stand",
            "derived: Table 4, XSUM, 1 - 6.41 / 24.24 (IWSLT: 0.84); assumed of this pair",
        ),
        Parameter("most", MOST, "small steps in a row at most", "printed"),
    ),
    study="bild",
)
