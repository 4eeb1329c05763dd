"""Self-speculative biased decoding for re-translation: the previous output is the draft (arXiv 2509.21740).

Lossless at bias 0 under greedy decoding, lossy above. One model, one device. Each time the source grows, the whole
previous output is verified in one pass; token i stays iff argmax of (1 - beta) P + beta 1[draft] is the draft, i.e. iff
max P - P(draft) <= beta / (1 - beta). The rest is written token by token.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import Iid
from specsim.cost.drafter import Drafter
from specsim.cost.drafting import load_draft_host
from specsim.drafting.reuse import PreviousOutput
from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.ledger import Ledger
from specsim.simulation.outcome import Outcome
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import RoundProgram
from specsim.simulation.workload import Requests
from specsim.systems.alone import Alone, one_by_one
from specsim.systems.composition import Composition
from specsim.systems.descriptor import Parameter, System
from specsim.systems.draft_verify import speculative_host
from specsim.systems.reproduction import Row
from specsim.theory.tokens import expected_tokens_iid

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]

NextLaw = Callable[[Sequence[int]], Floats]
"""The model's law of the next token after what was written, for a fixed source."""


@dataclass(frozen=True)
class Update:
    """One re-translation: the new output, how much of the draft stayed, and tokens written one by one."""

    output: tuple[int, ...]
    drafted: int
    accepted: int

    @property
    def steps(self) -> int:
        """Decoding steps after the verifying pass, which itself gives the token at the divergence (or the next one)."""
        return max(len(self.output) - self.accepted - 1, 0) if self.drafted else len(self.output)


def keeps(law: Floats, token: int, bias: float) -> bool:
    """Whether a drafted token survives the biased argmax; ties stay."""
    return bool((1.0 - bias) * (float(law.max()) - float(law[token])) <= bias)


def retranslate(law: NextLaw, previous: Sequence[int], *, bias: float, length: int) -> Update:
    """Verify ``previous`` as the draft, then decode greedily to ``length`` tokens."""
    if not 0 <= bias < 1:
        raise InputError(f"{bias} is not in 0 <= bias < 1", field="bias")
    draft = PreviousOutput(tuple(previous)).propose(())[:length]
    written: list[int] = []
    for token in draft:
        if not keeps(law(written), token, bias):
            break
        written.append(token)
    accepted = len(written)
    while len(written) < length:
        written.append(int(np.argmax(law(written))))
    return Update(tuple(written), len(draft), accepted)


@dataclass(frozen=True)
class UpdateSeconds:
    """Times of an update: prefill of the grown source, one verifying pass, one decoding step."""

    prefill_s: float
    verify_s: float
    step_s: float

    def seconds(self, update: Update) -> float:
        """An update that reuses what stays of its draft."""
        return self.prefill_s + (self.verify_s if update.drafted else 0.0) + self.step_s * update.steps

    def speedup(self, updates: Sequence[Update]) -> float:
        """Regenerating everything over reusing what stays, summed over updates."""
        plain = sum(self.prefill_s + self.step_s * len(u.output) for u in updates)
        return plain / sum(self.seconds(u) for u in updates)


TABLE = {
    0.0: (0.538, 1.28),
    0.1: (0.662, 1.40),
    0.2: (0.717, 1.48),
    0.3: (0.773, 1.58),
    0.4: (0.850, 1.70),
    0.5: (1.0, 2.10),
}
"""{bias: (accepted share of the draft, speedup)}, English to Chinese, Tower+ 2B (one transcription of version 2)."""

CALIBRATION = (0.0, 0.2, 0.5)


def fitted_law(biases: Sequence[float] = CALIBRATION) -> tuple[float, float]:
    """(overhead, saveable share) of 1/S = 1 + overhead - saveable * accepted share: least squares on the given rows."""
    design = np.array([[1.0, -TABLE[b][0]] for b in biases])
    level, saveable = np.linalg.lstsq(design, np.array([1.0 / TABLE[b][1] for b in biases]), rcond=None)[0]
    return float(level) - 1.0, float(saveable)


def rows() -> tuple[Row, ...]:
    """Six speedups from accepted shares: three rows set the two constants, the other three follow."""
    overhead, saveable = fitted_law()
    made = []
    for bias, (share, published) in TABLE.items():
        fitted = " (fitted)" if bias in CALIBRATION else ""
        made.append(Row(f"beta {bias:g}: speedup{fitted}", published, 1.0 / (1.0 + overhead - saveable * share), 0.03))
    return tuple(made)


def simulate(
    rng: np.random.Generator,
    *,
    divergence: float = 0.02,
    growth: int = 3,
    longest: int = 60,
    prefill_s: float = 0.5,
    verify_s: float = 1.5,
    step_s: float = 1.0,
    tokens: int = 20_000,
) -> Outcome:
    """Sentences translated again and again as they grow by ``growth`` tokens; seconds are decoding steps.

    Each token of the previous output diverges with probability ``divergence``; a round is an update, and emits the
    whole new output.
    """
    law = UpdateSeconds(prefill_s, verify_s, step_s)

    def draw(n: int) -> Drawn:
        per_sentence = max(longest // growth, 1)
        outputs = growth * (1 + np.arange(n) % per_sentence)
        drafts = outputs - growth
        stayed = np.minimum(rng.geometric(divergence, size=n) - 1, drafts)
        seconds = [
            law.seconds(Update(tuple(range(o)), d, a))
            for o, d, a in zip(outputs.tolist(), drafts.tolist(), stayed.tolist(), strict=True)
        ]
        return Drawn(drafts, stayed, outputs, np.array(seconds))

    return in_series(draw, tokens=tokens)


@cache
def rate_that_keeps(share: float, length: int) -> float:
    """P(a token agrees | all before it do) at which ``share`` of a draft of ``length`` stays on the mean: bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = 0.5 * (low + high)
        kept = float(expected_tokens_iid(middle, length)) - 1.0
        low, high = (middle, high) if kept < share * length else (low, middle)
    return high


def _compose(setting: Setting) -> Composition:
    drafted, reused = setting.number("drafted", above=0), setting.number("reused", most=1)
    given, serving = setting.deployment, setting.deployment.serving(None, 0)
    cache_tokens = serving.usable_blocks * serving.block_size
    programs = {0: given.program(None, 0)}
    verifying: dict[int, Pricer] = {}
    previous = Drafter("none", "the previous output", given.target)

    def verify(length: int) -> Pricer:
        if length not in verifying:
            host = speculative_host(given.engine, load_draft_host(given.engine), previous, length, given.profile)
            check = setting.verify_pass(length, device="gpu")
            programs[length] = RoundProgram("verify the previous output", length, (check,), host)
            verifying[length] = Pricer(programs[length], cache_tokens)
        return verifying[length]

    def run(requests: Requests, rng: np.random.Generator) -> Outcome:
        serving.check(requests.prompt_tokens, requests.output_tokens, 0)
        engine = Alone(programs[0], key=0, max_tokens=cache_tokens, chunk_tokens=serving.max_num_batched_tokens)

        def serve(ledger: Ledger, i: int, now: float) -> float:
            prompt, output = ledger.prompt[i], ledger.output[i]
            now += engine.reads(ledger, prompt)
            if ledger.prefilled(i, now):
                return now
            length = min(round(drafted * output), output - 1)
            if length > 0:
                now += float(np.interp(prompt, *verify(length).decode_table(1)))
                ledger.tally.decode(length, 1, prompt)
                stayed = int(Iid(rate_that_keeps(reused, length)).verify(np.zeros((1, 0)), length, rng)[0][0, 0])
                if ledger.commit(i, now, drafted=length, accepted=stayed, emitted=stayed + 1, stage="verify"):
                    return now
            while True:
                now += engine.writes(ledger, 1, prompt + ledger.emitted[i])
                if ledger.commit(i, now, drafted=0, accepted=0, emitted=1, stage="decode"):
                    return now

        return one_by_one(requests, serve, device="gpu", cache_tokens=cache_tokens)

    return Composition(
        ran_with=f"a previous output of {100 * drafted:.0f} % of the new one, of which {100 * reused:.0f} % stay",
        run=run,
        programs=programs,
        devices=(setting.replica(None, 0),),
        assumed=(
            "every request is an update: it is written anew, and its previous output is known",
            "each token of the previous output is as likely to be the first that diverges",
            "plain decoding writes every update from its first token, as the paper's baseline",
        ),
        one_at_a_time=True,
    )


SYSTEM = System(
    name="ssbd",
    title="Self-Speculative Biased Decoding for Faster Re-Translation",
    paper="2509.21740",
    year=2025,
    lossless="at bias 0 under greedy decoding",
    topology="one model on one device",
    pipeline="source grows -> prefill -> verify the previous output in one pass -> decode the rest -> commit",
    rule="keep y iff max P - P(y) <= beta / (1 - beta)",
    parameters=(
        Parameter("divergence", 0.02, "probability that a token of the draft diverges", "assumed: lengths not found"),
        Parameter("growth", 3, "tokens that an update adds", "assumed: cadence not found"),
        Parameter("longest", 60, "tokens of a sentence", "assumed"),
        Parameter("prefill_s", 0.5, "prefill of the new source, in steps", "assumed"),
        Parameter("verify_s", 1.5, "the verifying pass, in steps", "assumed"),
        Parameter("step_s", 1.0, "a decoding step", "unit"),
        Parameter("tokens", 20_000, "output tokens, every update's counted", "-"),
    ),
    assumptions=("divergence is independent of position and of the source", "the table's two constants are fitted"),
    batches="one stream of updates; hiding the last tokens from the reader changes no cost",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("drafted", None, "tokens of the previous output over those of the new one", "-"),
        Parameter("reused", None, "share of the previous output that stays", "-"),
    ),
    study="ssbd",
)
