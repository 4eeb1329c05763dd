"""SmartSpec (TurboSpec): the draft length with most goodput, every step, 0 included (arXiv 2406.14066). Lossless.

One drafter, one target, one device, continuous batching. Goodput is tokens emitted over the seconds of a step; rejected
drafts count as nothing. A moving average of the batch's acceptance and a price of each K decide.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.chains import Iid
from specsim.acceptance.process import AcceptanceProcess
from specsim.cost.drafter import CHAINS
from specsim.errors import InputError
from specsim.simulation.engine import Policy
from specsim.simulation.engine import simulate as serve
from specsim.simulation.outcome import Outcome
from specsim.simulation.program import Batch, RoundProgram
from specsim.simulation.workload import Fixed, Poisson, Workload
from specsim.systems.composition import Composition, on_the_replica
from specsim.systems.descriptor import Parameter, System
from specsim.systems.timed_serving import LLAMA_8B_H100, ROOMY

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

CONTEXT_STEP = 64
"""Prices are kept for mean contexts rounded to this many tokens."""


class SmartSpec:
    """A policy for ``simulation.engine.simulate``: give it the programs, and wrap the process so that it can learn.

    decay: what a step keeps of the accepted and tested counts so far. prior: acceptance before anything was tested;
    neither is printed in the paper. While K is 0 nothing is tested, so one step in ``probe_every`` drafts 1 token.
    """

    def __init__(
        self, programs: Mapping[int, RoundProgram], *, decay: float, prior: float, probe_every: int | None = None
    ) -> None:
        if 0 not in programs or len(programs) < 2:
            raise InputError("needs the program of K = 0 and one that drafts", field="programs")
        if not 0 < decay <= 1 or not 0 < prior < 1 or (probe_every is not None and probe_every < 1):
            raise InputError("needs decay in (0, 1], prior in (0, 1), probe_every >= 1", field="decay, prior")
        self.programs = dict(sorted(programs.items()))
        self.chosen: dict[int, int] = dict.fromkeys(self.programs, 0)
        self._decay, self._accepted, self._tested = decay, prior, 1.0
        self._probe_every, self._steps = probe_every, 0
        self._k = list(self.programs)
        self._prices: dict[int, list[list[float]]] = {}

    @property
    def rate(self) -> float:
        """Acceptance as it is estimated now: accepted over tested tokens, recent steps weighing more."""
        return self._accepted / self._tested

    def __call__(self, sequences: int, mean_cached: float) -> int:
        """K with most expected tokens per second for this batch; the smallest where several are equal."""
        rate, best, k = self.rate, 0.0, 0
        for length, seconds in zip(self._k, self._seconds(sequences, mean_cached), strict=True):
            tokens = (1.0 - rate ** (length + 1)) / (1.0 - rate) if rate < 1.0 else length + 1.0
            if tokens / seconds > best:
                best, k = tokens / seconds, length
        self._steps += 1
        if k == 0 and self._probe_every and self._steps % self._probe_every == 0:
            k = self._k[1]
        self.chosen[k] += sequences
        return k

    @property
    def mean_k(self) -> float:
        """Mean K over the sequences of all steps so far."""
        total = sum(self.chosen.values())
        return sum(k * n for k, n in self.chosen.items()) / max(total, 1)

    def watching(self, process: AcceptanceProcess) -> AcceptanceProcess:
        """The same process, whose accepted counts this controller sees after each verification."""
        return _Watched(process, self)

    def observe(self, accepted: Ints, k: int) -> None:
        """Learn from one step: each request tested its accepted tokens and the one that ended them."""
        self._accepted = self._decay * self._accepted + float(accepted.sum())
        self._tested = self._decay * self._tested + float(np.minimum(accepted + 1, k).sum())

    def _seconds(self, sequences: int, mean_cached: float) -> list[float]:
        """Seconds of a step of each length; a table by context is made for each batch size that occurs."""
        step = round(mean_cached / CONTEXT_STEP)
        table = self._prices.get(sequences)
        if table is None or step >= len(table):
            context = np.maximum(CONTEXT_STEP * np.arange(2 * step + 32.0), 1.0)
            batch = Batch(np.full(len(context), float(sequences)), sequences * context)
            prices = [np.broadcast_to(p.seconds(batch), context.shape) for p in self.programs.values()]
            table = self._prices[sequences] = np.stack(prices, axis=1).tolist()
        return table[step]


class _Watched:
    """An acceptance process with someone looking on."""

    def __init__(self, process: AcceptanceProcess, controller: SmartSpec) -> None:
        self._process, self._controller = process, controller

    @property
    def name(self) -> str:
        return self._process.name

    @property
    def max_k(self) -> int | None:
        return self._process.max_k

    def survival(self, k: int) -> Floats:
        return self._process.survival(k)

    def start(self, n: int, rng: np.random.Generator) -> NDArray[Any]:
        return self._process.start(n, rng)

    def verify(
        self, latent: NDArray[Any], k: int, rng: np.random.Generator, *, rounds: int = 1
    ) -> tuple[Ints, NDArray[Any]]:
        accepted, after = self._process.verify(latent, k, rng, rounds=rounds)
        if k:
            self._controller.observe(accepted, k)
        return accepted, after


def simulate(
    rng: np.random.Generator,
    *,
    rate: float = 0.7,
    requests_per_s: float = 20.0,
    most: int = 5,
    decay: float = 0.99,
    prior: float = 0.7,
    probe_every: int = 50,
    prompt: int = 128,
    output: int = 192,
    requests: int = 300,
) -> Outcome:
    """Poisson requests of equal lengths on one replica, batched continuously, K chosen at every step."""
    programs = {k: LLAMA_8B_H100.program(k) for k in range(most + 1)}
    control = SmartSpec(programs, decay=decay, prior=prior, probe_every=probe_every)
    load = Workload(Poisson(requests_per_s), Fixed(prompt), Fixed(output))
    ran = serve(programs, control.watching(Iid(rate)), load, ROOMY, rng, num_requests=requests, policy=control)
    return Outcome(ran, (), ())


def _compose(setting: Setting) -> Composition:
    candidate, _ = setting.best(setting.drafters(*CHAINS))
    most = setting.most(candidate, setting.count("most"))
    programs = {k: setting.deployment.program(candidate, k) for k in range(most + 1)}
    process = candidate.process
    numbers = {"decay": setting.numbers["decay"], "prior": setting.numbers["prior"]}
    probe_every = setting.count("probe_every")

    def policy() -> tuple[Policy, AcceptanceProcess]:
        control = SmartSpec(programs, **numbers, probe_every=probe_every)
        assert process is not None
        return control, control.watching(process)

    return on_the_replica(
        setting, candidate, programs, process, ran_with=f"{candidate.short}, K = 0..{most} each step", policy=policy
    )


SYSTEM = System(
    name="smartspec",
    title="Optimizing Speculative Decoding for Serving Large Language Models Using Goodput",
    paper="2406.14066",
    year=2024,
    lossless="yes",
    topology="drafter and target on one replica, continuous batching",
    pipeline="pick K by goodput -> draft x K -> verify -> commit -> update the acceptance average",
    rule="K maximises expected tokens of the batch over seconds of the step, 0 included",
    parameters=(
        Parameter("rate", 0.7, "acceptance per position", "assumed"),
        Parameter("requests_per_s", 20.0, "request rate", "assumed"),
        Parameter("most", 5, "longest draft considered", "the fixed length of the paper's comparison"),
        Parameter("decay", 0.99, "what a step keeps of the moving average", "assumed: not found"),
        Parameter("prior", 0.7, "acceptance before anything was tested", "assumed"),
        Parameter("probe_every", 50, "steps at K = 0 between probes of one token", "assumed"),
        Parameter("prompt", 128, "prompt tokens", "assumed"),
        Parameter("output", 192, "output tokens", "assumed"),
        Parameter("requests", 300, "requests simulated", "-"),
    ),
    assumptions=(
        "step time is linear in tokens and cache, coefficients from data sheets (the paper's were not found)",
        "one K for the whole batch",
    ),
    batches="continuous batching is what it is about",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("most", 5, "longest draft considered", "the fixed length of the paper's comparison"),
        Parameter("decay", 0.99, "what a step keeps of the moving average", "assumed: not found in the paper"),
        Parameter("prior", 0.7, "acceptance before anything was tested", "assumed"),
        Parameter("probe_every", 50, "steps at K = 0 between probes of one token", "assumed"),
    ),
    study="smartspec",
)
