"""Reward-guided speculative decoding: a judge decides whether a drafted reasoning step stays (arXiv 2501.19324). Lossy.

Drafter, process reward model and target, each on its own device. The drafter writes a whole step; the judge scores it;
a step kept with probability omega(r) stays, any other is thrown away and the target writes the step from scratch: it
never verifies tokens. The law of a step is omega(r) P_m + nu P_M with nu = 1 - E_m[omega(r)].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from specsim.cost.shapes import Linear
from specsim.errors import InputError
from specsim.simulation.in_series import Drawn, in_series
from specsim.simulation.ledger import Ledger
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import RoundProgram
from specsim.simulation.workload import Requests
from specsim.systems.alone import Alone, one_by_one
from specsim.systems.composition import Composition, Device
from specsim.systems.descriptor import Parameter, System
from specsim.systems.reproduction import Row

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

Omega = Callable[[Floats], Floats]
"""P(a step of each reward is kept), rewards in 0..1."""


def step_rule(delta: float) -> Omega:
    """1[r >= delta]: the rule the authors run (delta = 0.7), and the best one under a budget on target calls."""
    return lambda r: np.asarray(r >= delta, dtype=np.float64)


def logistic_rule(delta: float, slope: float) -> Omega:
    """1 / (1 + exp(-slope (r - delta)))."""
    return lambda r: np.asarray(1.0 / (1.0 + np.exp(-slope * (r - delta))))


@dataclass(frozen=True)
class Sizes:
    """Parameters of the three models, in one unit."""

    target: float
    drafter: float
    judge: float

    def __post_init__(self) -> None:
        if min(self.target, self.drafter) <= 0 or self.judge < 0:
            raise InputError("needs sizes above 0", field="target, drafter, judge")


def flops_ratio(sizes: Sizes, kept: float) -> float:
    """FLOPs of the target alone over those of RSD, per token: N_t / (N_d + N_prm + (1 - a) N_t), 2 N per token each.

    kept: a, share of step tokens that stay. Drafts thrown away are counted at the drafter's and the judge's cost once a
    step; prefill of new context is not (the paper's exact accounting was not found).
    """
    return sizes.target / (sizes.drafter + sizes.judge + (1.0 - kept) * sizes.target)


def kept_for_ratio(sizes: Sizes, ratio: float) -> float:
    """The share of steps that must stay for a FLOPs ratio: 1 - 1 / ratio + (N_d + N_prm) / N_t."""
    return 1.0 - 1.0 / ratio + (sizes.drafter + sizes.judge) / sizes.target


@dataclass(frozen=True)
class Steps:
    """A synthetic task: laws of the next step under drafter and target over a few kinds of step, reward of each."""

    drafter: Floats
    target: Floats
    rewards: Floats

    def mixture(self, omega: Omega) -> Floats:
        """Omega P_m + nu P_M, exactly."""
        kept = omega(self.rewards) * self.drafter
        return np.asarray(kept + (1.0 - kept.sum()) * self.target)

    def kept(self, omega: Omega) -> float:
        """E_m[omega(r)]: the share of drafted steps that stay."""
        return float(omega(self.rewards) @ self.drafter)

    def mean_reward(self, omega: Omega) -> float:
        """Expected reward of an emitted step: accuracy, where the reward says how right a step is."""
        return float(self.mixture(omega) @ self.rewards)


@dataclass(frozen=True)
class RanSteps:
    """Simulated steps: which kind each was, whether the draft stayed, its length, and FLOPs in parameters x tokens."""

    kinds: Ints
    stayed: Bools
    tokens: Ints
    flops: float
    plain_flops: float


def run_steps(
    task: Steps, omega: Omega, sizes: Sizes, *, steps: int, mean_tokens: float, rng: np.random.Generator
) -> RanSteps:
    """Draft, judge, keep or rewrite ``steps`` steps of geometric length (assumed), the same for draft and rewrite."""
    drafted = rng.choice(len(task.drafter), size=steps, p=task.drafter)
    stayed = rng.random(steps) < omega(task.rewards)[drafted]
    rewritten = rng.choice(len(task.target), size=steps, p=task.target)
    tokens = rng.geometric(1.0 / mean_tokens, size=steps)
    spent = (
        2.0 * float(tokens.sum()) * (sizes.drafter + sizes.judge) + 2.0 * float(tokens[~stayed].sum()) * sizes.target
    )
    return RanSteps(
        np.where(stayed, drafted, rewritten), stayed, tokens, spent, 2.0 * float(tokens.sum()) * sizes.target
    )


def accuracy_cost_front(task: Steps, sizes: Sizes, deltas: Floats) -> Floats:
    """(FLOPs per token in units of the target's, mean reward) at each threshold, shape (deltas, 2)."""
    return np.array(
        [[1.0 / flops_ratio(sizes, task.kept(step_rule(d))), task.mean_reward(step_rule(d))] for d in deltas]
    )


def rows() -> tuple[Row, ...]:
    """The 4.4 times fewer FLOPs of the abstract, from the share of kept steps that it takes: an inversion, no test.

    The operating point is not printed; 72B with a 1.5B drafter and a 1.5B judge is one of the paper's settings.
    """
    sizes = Sizes(72.0, 1.5, 1.5)
    return (Row("72B, 1.5B + 1.5B, 0.814 kept: FLOPs ratio", 4.4, flops_ratio(sizes, 0.814), 0.02),)


def simulate(
    rng: np.random.Generator,
    *,
    target_size: float = 72.0,
    drafter_size: float = 1.5,
    judge_size: float = 1.5,
    delta: float = 0.7,
    reward_mean: float = 0.8,
    reward_spread: float = 10.0,
    mean_tokens: float = 40.0,
    tokens: int = 50_000,
) -> Outcome:
    """Steps one after the other, rewards of drafted steps Beta; a second is the target's FLOPs of one token."""

    def draw(n: int) -> Drawn:
        lengths = rng.geometric(1.0 / mean_tokens, size=n)
        rewards = rng.beta(reward_mean * reward_spread, (1.0 - reward_mean) * reward_spread, size=n)
        kept = rewards >= delta
        spent = (drafter_size + judge_size) / target_size + ~kept
        return Drawn(lengths, np.where(kept, lengths, 0), lengths, lengths * spent)

    return in_series(draw, tokens=tokens, device="drafter, judge and target")


DRAFTER, JUDGE = -1, -2
"""Keys of their programs in the tally of work; 0: the target's."""


def _compose(setting: Setting) -> Composition:
    candidate = setting.drafters("draft_model", evidence=False)[0]
    kept, mean = setting.number("kept", most=1), setting.number("step_tokens", least=1)
    size = 1e9 * setting.number("judge_billions")
    given, serving = setting.deployment, setting.deployment.serving(None, 0)
    apart = setting.other_end.memory(candidate)
    cache_tokens = min(serving.usable_blocks * serving.block_size, apart.cache_tokens)
    target = given.program(None, 0)
    programs = {
        0: target,
        DRAFTER: setting.other_end.alone(candidate),
        JUDGE: judging(target, size / given.target.parameters),
    }
    limits = {"max_tokens": cache_tokens, "chunk_tokens": serving.max_num_batched_tokens}

    def run(requests: Requests, rng: np.random.Generator) -> Outcome:
        serving.check(requests.prompt_tokens, requests.output_tokens, 0)
        apart.require(int((requests.prompt_tokens + requests.output_tokens).max()))
        engines = [Alone(programs[key], key=key, **limits) for key in (0, DRAFTER, JUDGE)]

        def serve(ledger: Ledger, i: int, now: float) -> float:
            return _steps(ledger, i, now, *engines, kept=kept, mean=mean, rng=rng)

        return one_by_one(requests, serve, device="target", cache_tokens=cache_tokens)

    hardware = given.profile.hardware
    judge_gpus = max(1, math.ceil(2.0 * size / hardware.memory_bytes))
    return Composition(
        ran_with=f"{candidate.short}, steps of {mean:g} tokens, {100 * kept:g} % kept, a judge of {size / 1e9:g} B",
        run=run,
        programs=programs,
        devices=(
            setting.replica(None, 0),
            setting.other_end.device(candidate),
            Device("judge", hardware.name, judge_gpus, 2.0 * size / judge_gpus, 0.0),
        ),
        assumed=(
            "a step's length is geometric, the same drafted and rewritten",
            "the judge's pass takes the target's time over the same tokens, by its size",
            "the first token counts when it is drafted, though its step is still to be judged",
            "what target and drafter read of each other's steps counts as prompt; no message is charged",
        ),
        one_at_a_time=True,
    )


def judging(target: RoundProgram, share: float) -> RoundProgram:
    """A judge of ``share`` of the target's size, reading: the target's products and times scaled, without LM head."""
    (whole,) = target.passes
    assert whole.forward is not None
    layers = tuple(x for x in whole.forward.linears if x.rows == "tokens")
    products = sum(x.n * x.k * x.count for x in layers)
    one = Linear("judge", max(1, round(share * products / whole.forward.hidden)), whole.forward.hidden)
    forward = replace(whole.forward, linears=(one,), attention=(), experts=())
    judge = replace(whole, cost=lambda shape: whole.cost(shape).scaled(share), forward=forward)
    return replace(target, name="judge", passes=(judge,))


def _steps(
    ledger: Ledger,
    i: int,
    now: float,
    target: Alone,
    drafter: Alone,
    judge: Alone,
    *,
    kept: float,
    mean: float,
    rng: np.random.Generator,
) -> float:
    """Steps of one request until it is answered; each engine reads what others wrote before it goes on."""
    read = {target: 0, drafter: ledger.prompt[i], judge: 0}
    now += drafter.reads(ledger, ledger.prompt[i])
    if ledger.prefilled(i, now):
        return now

    def catch_up(engine: Alone, text: int) -> float:
        new, past = text - read[engine], read[engine]
        read[engine] = text
        return engine.reads(ledger, new, past, in_round=engine is judge and past > 0) if new else 0.0

    while True:
        text = ledger.prompt[i] + ledger.emitted[i]
        length = min(int(rng.geometric(1.0 / mean)), ledger.output[i] - ledger.emitted[i])
        now += catch_up(drafter, text - 1) + drafter.writes(ledger, length, text - 1)
        now += catch_up(judge, text + length)
        stays = rng.random() < kept
        if stays:
            read[drafter] = text + length - 1
        else:
            now += catch_up(target, text - 1) + target.writes(ledger, length, text - 1)
            read[target] = text + length - 1
            read[judge] = text
        if ledger.commit(i, now, drafted=length, accepted=length if stays else 0, emitted=length, stage="judge"):
            return now


SYSTEM = System(
    name="rsd",
    title="Reward-Guided Speculative Decoding for Efficient LLM Reasoning",
    paper="2501.19324",
    year=2025,
    lossless="no",
    topology="drafter, judge and target on a device each, used in turn",
    pipeline="drafter writes a step -> judge scores it -> kept, or target writes it anew -> commit",
    rule="keep with probability omega(r); omega = 1[r >= delta]",
    parameters=(
        Parameter("target_size", 72.0, "parameters of the target, in billions", "one of the paper's settings"),
        Parameter("drafter_size", 1.5, "of the drafter", "same"),
        Parameter("judge_size", 1.5, "of the process reward model", "same"),
        Parameter("delta", 0.7, "reward above which a step is kept", "printed"),
        Parameter("reward_mean", 0.8, "mean reward of a drafted step", "assumed: curves not found"),
        Parameter("reward_spread", 10.0, "a + b of the Beta law of rewards", "assumed"),
        Parameter("mean_tokens", 40.0, "tokens of a step (geometric)", "assumed"),
        Parameter("tokens", 50_000, "tokens of the stream", "-"),
    ),
    assumptions=("time is FLOPs, 2 a parameter and token: no wall clock is published", "prefill is not counted"),
    batches="lock-step rounds over many prompts in the paper",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("kept", None, "share of drafted steps whose reward keeps them, at the threshold in use", "-"),
        Parameter("step_tokens", None, "mean tokens of a reasoning step", "-"),
        Parameter("judge_billions", None, "parameters of the process reward model, in billions", "-"),
    ),
    study="rsd",
)
