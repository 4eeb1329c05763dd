"""Decoding-time bias mitigation: three models as one stage, and that stage as the target of speculation (2412.01711).

At each position the logits of a small anti-biased model minus those of a small biased one, times a strength, are added
to the large model's. Nothing is drafted or rejected, and the output is meant to differ from the large model's. Taken as
a target of its own, the ensemble can be speculated for without loss: all three models then verify every position.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import Iid
from specsim.cost.shapes import Segment, StepShape, StepTime, Term, Trust
from specsim.errors import InputError
from specsim.simulation.expanded import run_expanded
from specsim.simulation.free_run import streams
from specsim.simulation.links import LinkLaw
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import Batch, RoundProgram
from specsim.simulation.round_rules import ChainRounds
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology, on_one
from specsim.systems.beside import memory_with, model_pass
from specsim.systems.composition import Composition, NotApplicable, on_the_replica
from specsim.systems.descriptor import Parameter, System, rate_in_range
from specsim.systems.draft_verify import prefill_segments

if TYPE_CHECKING:
    from specsim.planning.deployment import Candidate
    from specsim.planning.setting import Setting

Number = Any
Floats = NDArray[np.float64]


def ensemble_law(
    target: Sequence[Number],
    antibiased: Sequence[Number],
    biased: Sequence[Number],
    strength: Number,
    *,
    top_p: float = 1.0,
) -> tuple[Number, ...]:
    """Law of softmax(z_t + strength (z_plus - z_minus)) from the three laws: p_t (p_plus / p_minus)^strength, normed.

    Fractions in and a whole strength give Fractions out. top_p: the nucleus of the target's law is cut out before
    mixing, as the released generator does. Raises InputError where the laws differ in length, where a small model gives
    no mass to a token that stays (a softmax never does), and for a top_p outside (0, 1].
    """
    if not len(target) == len(antibiased) == len(biased):
        raise InputError(f"laws of {len(target)}, {len(antibiased)} and {len(biased)} tokens", field="ensemble")
    kept = _nucleus(target, top_p)
    for name, row in (("antibiased", antibiased), ("biased", biased)):
        if any(p > 0 and not s > 0 for p, s in zip(kept, row, strict=True)):
            raise InputError("gives no mass to a token that the target can emit", field=name)
    weights = [
        p * (plus / minus) ** strength if p > 0 else p * 0
        for p, plus, minus in zip(kept, antibiased, biased, strict=True)
    ]
    total = sum(weights)
    return tuple(w / total for w in weights)


def _nucleus(row: Sequence[Number], top_p: float) -> list[Number]:
    """The likeliest tokens whose mass reaches ``top_p``; others 0. Not normed."""
    if not 0 < top_p <= 1:
        raise InputError(f"{top_p}; give a share in (0, 1]", field="top_p")
    mass, kept = row[0] * 0, [p * 0 for p in row]
    for token in sorted(range(len(row)), key=lambda x: -row[x]):
        if mass >= top_p:
            break
        kept[token] = row[token]
        mass += row[token]
    return kept


@dataclass(frozen=True)
class Times:
    """Seconds of one pass: the large model, each small one, adding the logits, a drafting step.

    position_share: what each position beyond the first adds to a pass, as a share of it.
    """

    target_s: float = 1.0
    small_s: float = 0.2
    merge_s: float = 1e-3
    draft_s: float = 0.05
    position_share: float = 0.0

    def __post_init__(self) -> None:
        for name in ("target_s", "small_s", "merge_s", "draft_s", "position_share"):
            if not 0 <= getattr(self, name) < np.inf:
                raise InputError(f"{getattr(self, name)}; give 0 or more", field=name)

    def pass_s(self, one_s: float, positions: int) -> float:
        """A pass over so many positions of a model whose single one takes ``one_s``."""
        return one_s * (1.0 + self.position_share * (positions - 1))

    def stage_s(self, positions: int, *, parallel: bool) -> float:
        """The ensemble over so many positions: T_M + 2 T_s one after the other, or the longest of the three; merged."""
        large, small = (self.pass_s(one, positions) for one in (self.target_s, self.small_s))
        return (max(large, small) if parallel else large + 2 * small) + self.merge_s


def ensemble_round(k: int, times: Times, *, parallel: bool, logit_bytes: float = 0.0) -> RoundProgram:
    """``k`` drafted tokens (0: none), the three models over k + 1 positions, the merge.

    parallel: the small models have devices of their own (``antibiased``, ``biased``), which send ``logit_bytes`` a
    position to the large one's (``gpu``); else all are on ``gpu``, one after the other.
    """
    start = ("draft",) if k else ()
    draft = (timed_pass("draft", times.draft_s, repeats=k),) if k else ()
    large, small = (times.pass_s(one, k + 1) for one in (times.target_s, times.small_s))
    target = timed_pass("target", large, after=start)
    if parallel:
        plus, minus = (
            timed_pass(name, small, device=name, after=start, bytes_in=4.0 * (k + 1))
            for name in ("antibiased", "biased")
        )
        before: tuple[str, ...] = ("target", "antibiased", "biased")
    else:
        plus = timed_pass("antibiased", small, after=("target",))
        minus = timed_pass("biased", small, after=("antibiased",))
        before = ("biased",)
    merge = timed_pass("merge", times.merge_s, after=before, bytes_in=logit_bytes * (k + 1) if parallel else 0.0)
    return timed_program(f"draft {k}, three models, merge", k, *draft, target, plus, minus, merge)


def simulate(
    rng: np.random.Generator,
    *,
    small_s: float = 0.2,
    k: int = 0,
    alpha: float = 0.7,
    draft_s: float = 0.05,
    merge_s: float = 1e-3,
    position_share: float = 0.0,
    parallel: bool = False,
    logit_bytes: float = 0.0,
    bytes_per_s: float = float("inf"),
    one_way_s: float = 0.0,
    tokens: int = 5_000,
) -> Outcome:
    """One stream of the ensemble; a second is one pass of the large model. k = 0: as published, nothing is drafted."""
    rate_in_range(alpha)
    if not parallel and (logit_bytes or one_way_s or np.isfinite(bytes_per_s)):
        raise InputError("links join the small models only where they run in parallel", field="parallel")
    times = Times(1.0, small_s, merge_s, draft_s, position_share)
    program = ensemble_round(k, times, parallel=parallel, logit_bytes=logit_bytes)
    place = on_one("gpu")
    if parallel:
        law, small = LinkLaw(one_way_s, bytes_per_s), ("antibiased", "biased")
        links = [LinkSpec(*ends, law) for name in small for ends in (("gpu", name), (name, "gpu"))]
        place = Topology(tuple(ServerSpec(name) for name in ("gpu", *small)), tuple(links), home="gpu")
    rule = ChainRounds(Iid(alpha), k, 1, rng)
    return run_expanded(program, rule, streams(1, tokens), place, rng, prompt_cached=True)


def _compose(setting: Setting) -> Composition:
    """Two copies of the smallest draft model beside the target; the anti-biased one drafts, where anything does."""
    given = setting.deployment
    models = [c for c in given.candidates if c.drafter.method == "draft_model"]
    if not models:
        raise NotApplicable(
            'adds two small models to the target: add a [[drafter]] of method "draft_model", the size of each'
        )
    candidate = min(models, key=lambda c: c.drafter.weight_bytes(1))
    k = setting.count("k", least=0)
    rate = setting.number("acceptance_rate", most=1.0)
    if k and not rate:
        raise NotApplicable(f"drafts for the ensemble: give [systems.{setting.key}] acceptance_rate above 0, or k = 0")
    program = _ensemble(setting, candidate, k)
    drafts = f", K = {k}" if k else ", nothing drafted"
    return on_the_replica(
        setting,
        None,
        {k: program},
        Iid(rate) if k else None,
        ran_with=f"two of {candidate.short}{drafts}",
        assumed=(
            "biased and anti-biased model are copies of the draft model, one after the other on the replica",
            *(("the anti-biased one drafts, and scores what it drafted again with the others",) if k else ()),
        ),
        memory=memory_with(setting, [(candidate.drafter, 1)] * 2),
    )


def _ensemble(setting: Setting, candidate: Candidate, k: int) -> RoundProgram:
    """``k`` drafting steps, three models over k + 1 positions, and their logits added up."""
    given, drafter = setting.deployment, candidate.drafter
    small, vocab = given.profile.elementwise, given.target.vocab

    def step(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        cached = np.asarray(batch.kv_tokens, dtype=np.float64) + n * k / 2.0
        return StepShape((Segment("decode", n, n, cached, n),))

    def score(batch: Batch) -> StepShape:
        n = np.asarray(batch.sequences, dtype=np.float64)
        rows = n * (k + 1.0)
        scored = Segment("verify" if k else "decode", n, rows, batch.kv_tokens, rows, kv_max=batch.kv_max)
        return StepShape((scored, *prefill_segments(batch)))

    def merged(batch: Batch) -> StepTime:
        rows = np.asarray(batch.sequences, dtype=np.float64) * (k + 1.0) + len(batch.prefill)
        moved = MERGE_BYTES * vocab * rows / small.bandwidth_bytes_per_s
        seconds = np.where(rows > 0, moved + small.kernel_s, 0.0)
        return StepTime({"merge": Term(seconds, "elementwise", np.full(np.shape(seconds), Trust.PARAMETRIC, np.int8))})

    plain = given.program(None, 0)
    host = setting.host(candidate, k) if k else plain.host
    first = replace(setting.verify_pass(k, device="gpu"), name="target")
    drafting = (model_pass(setting, "draft", drafter, step, repeats=k),) if k else ()
    scoring = tuple(model_pass(setting, name, drafter, score, picks=False) for name in ("antibiased", "biased"))
    name = f"draft {k}, three models, merge"
    return RoundProgram(name, k, (*drafting, first, *scoring), lambda batch: host(batch) + merged(batch))


MERGE_BYTES = 4 * 2.0
"""Of a row and vocabulary entry: three 16-bit logits read, one written."""


SYSTEM = System(
    name="bias-mitigation",
    title="Towards Resource Efficient and Interpretable Bias Mitigation in Large Language Models",
    paper="2412.01711",
    year=2024,
    lossless="no, by design; as a target of speculation: its own law, exactly",
    topology="a large and two small models on one device, or on one each",
    pipeline="[draft x k ->] large | anti-biased | biased (k + 1 positions) -> merge logits -> commit",
    rule="x from softmax(z_t + strength (z_plus - z_minus)); speculated for: min(1, that / q), else residual",
    parameters=(
        Parameter(
            "small_s", 0.2, "seconds of a small model's pass, in large passes (c)", "assumed: no time is published"
        ),
        Parameter("k", 0, "drafted tokens a round", "the paper drafts none"),
        Parameter("alpha", 0.7, "acceptance per position where something is drafted", "assumed"),
        Parameter("draft_s", 0.05, "seconds of a drafting step", "assumed"),
        Parameter("merge_s", 1e-3, "seconds to add the logits", "assumed"),
        Parameter("position_share", 0.0, "what a further position adds to a pass", "assumed: memory-bound"),
        Parameter(
            "logit_bytes", 0.0, "bytes of logits a position that a small model sends, where it is apart", "assumed"
        ),
        Parameter("bytes_per_s", float("inf"), "bandwidth of that link", "assumed"),
        Parameter("one_way_s", 0.0, "latency of that link", "assumed"),
        Parameter("tokens", 5_000, "tokens of the stream", "-"),
    ),
    assumptions=(
        "the paper publishes neither the strength of its tables nor any time: costs are laws, not its numbers",
        "caches are kept (the released generator runs the whole prefix at every step)",
        "speculating for the ensemble is not in the paper",
    ),
    batches="one stream here; the stage batches as its three models do",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("k", 0, "drafted tokens a round", "the paper drafts none"),
        Parameter(
            "acceptance_rate",
            0.0,
            "of the anti-biased model's tokens by the ensemble; needed where k is above 0",
            "nothing is drafted",
        ),
    ),
    study="bias_mitigation",
)
