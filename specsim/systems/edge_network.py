"""Speculation over two base stations: draft on the small one, verify on the macro one, two batches in flight."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import simpy
from numpy.typing import NDArray

from specsim.simulation.free_run import finish
from specsim.simulation.ledger import Ledger
from specsim.simulation.links import Link, LinkLaw
from specsim.simulation.outcome import Outcome
from specsim.simulation.servers import Server
from specsim.simulation.workload import Requests
from specsim.systems import two_stations
from specsim.systems.descriptor import Parameter, System, rate_in_range
from specsim.theory.tokens import expected_tokens_iid
from specsim.theory.uplink import shares_until_last, upload_s

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Model:
    """Layers, hidden and feed-forward width; operations as the paper counts them (two feed-forward matrices)."""

    layers: int
    hidden: int
    feed_forward: int

    def step_flops(self, context: float | Floats) -> float | Floats:
        """One token over a context: J (8 h^2 + 4 (I + 1) h + 4 h f)."""
        h, f = self.hidden, self.feed_forward
        return self.layers * (8 * h**2 + 4 * (context + 1) * h + 4 * h * f)

    def prefill_flops(self, tokens: Floats) -> Floats:
        """A prompt: J (8 I h^2 + 4 I^2 h + 4 I h f)."""
        h, f = self.hidden, self.feed_forward
        return np.asarray(self.layers * (8 * tokens * h**2 + 4 * tokens**2 * h + 4 * tokens * h * f))

    @property
    def weight_bytes(self) -> float:
        """16-bit weights of the matrices counted above."""
        return 2.0 * self.layers * (4 * self.hidden**2 + 2 * self.hidden * self.feed_forward)


@dataclass(frozen=True)
class Node:
    """A station: operations and bytes a second. A pass takes the longer of both, so a small batch is memory-bound."""

    flops_per_s: float
    bytes_per_s: float

    def seconds(self, flops: Floats, model: Model) -> Floats:
        """Seconds of a pass over all weights."""
        return np.maximum(flops / self.flops_per_s, model.weight_bytes / self.bytes_per_s)


@dataclass(frozen=True)
class Stations:
    """Both stations and what joins them. fronthaul: bytes of a drafted token with its law, and bytes/s."""

    draft: Model = Model(2, 768, 3072)
    verify: Model = Model(32, 4096, 11008)
    small: Node = Node(29.8e12, 760e9)
    macro: Node = Node(39.6e12, 432e9)
    token_bytes: float = 64_000.0
    fronthaul_bytes_per_s: float = 1.25e9
    bandwidth_hz: float = 20e6
    bits_per_token: float = 1e4


@dataclass(frozen=True)
class Phase:
    """Seconds of a batch: its first step (prompts included) and later ones; ``move_s`` on the fronthaul."""

    first_draft_s: Floats
    draft_s: Floats
    move_s: Floats
    first_verify_s: Floats
    verify_s: Floats


def phase_of(size: Floats, longest: Floats, length: int, place: Stations) -> Phase:
    """Times of batches of ``size`` tasks, padded to the ``longest`` prompt, that draft ``length`` tokens a step."""
    one = size * place.draft.step_flops(longest)
    checked = size * (length + 1) * place.verify.step_flops(longest)
    draft = length * place.small.seconds(np.asarray(one), place.draft)
    verify = place.macro.seconds(np.asarray(checked), place.verify)
    busy = np.where(size > 0, 1.0, 0.0)
    move = size * length * place.token_bytes / place.fronthaul_bytes_per_s
    prompt_d = place.small.seconds(size * place.draft.prefill_flops(longest), place.draft)
    prompt_v = place.macro.seconds(size * place.verify.prefill_flops(longest), place.verify)
    return Phase(busy * (draft + prompt_d), busy * draft, move, busy * (verify + prompt_v), busy * verify)


def pair_s(a: Phase, b: Phase, steps: int) -> Floats:
    """Seconds of two batches that alternate on both stations: the exact recurrence, first come, first served.

    Step n + 1 of a batch is drafted once its step n is verified; in the steady state a step of both takes
    max(dA + dB, vA + vB, xA + xB, dA + xA + vA, dB + xB + vB).
    """
    small = link = verified_a = verified_b = np.zeros(())
    for n in range(steps):
        da, db = (a.first_draft_s, b.first_draft_s) if n == 0 else (a.draft_s, b.draft_s)
        va, vb = (a.first_verify_s, b.first_verify_s) if n == 0 else (a.verify_s, b.verify_s)
        drafted_a = np.maximum(verified_a, small) + da
        small = np.maximum(verified_b, drafted_a) + db
        moved_a = np.maximum(drafted_a, link) + a.move_s
        link = np.maximum(small, moved_a) + b.move_s
        verified_a = np.maximum(moved_a, verified_b) + va
        verified_b = np.maximum(link, verified_a) + vb
    return np.maximum(verified_a, verified_b)


@dataclass(frozen=True)
class Plan:
    """Draft length, sizes of consecutive batches (two by two; 0: none beside), and the seconds of it all."""

    length: int
    sizes: tuple[int, ...]
    seconds: float


def upload_of(load: Floats, place: Stations, *, uniform: bool = False) -> float:
    """Seconds until a pair's last prompt is up, the bandwidth shared by load or uniformly."""
    shares = np.full(len(load), 1 / len(load)) if uniform else shares_until_last(load)
    return float(upload_s(load, shares, place.bandwidth_hz).max())


def plan_batches(
    prompts: NDArray[np.int64],
    efficiency: Floats,
    *,
    output_tokens: int,
    alpha: float,
    place: Stations,
    max_batch: int = 16,
    lengths: tuple[int, ...] = (1, 2, 3, 4, 5, 6, 8),
    fixed_size: int | None = None,
    uniform: bool = False,
) -> Plan:
    """The dynamic programme over batch boundaries and draft length: D[k] = min over pairs that end at k.

    Tasks are served in order of prompt length, pair after pair; a pair begins when its prompts are up. Exact for that
    serving order, since a pair's seconds depend on its own tasks alone. fixed_size: all batches of that size (a rule
    to compare with). uniform: bandwidth in equal shares.
    """
    rate_in_range(alpha)
    order = np.argsort(prompts, kind="stable")
    tokens = prompts[order].astype(np.float64)
    load = tokens * place.bits_per_token / efficiency[order]
    n = len(tokens)
    sizes = [fixed_size] if fixed_size else list(range(1, max_batch + 1))
    triples = [
        (i, min(a, n - i), min(b, n - i - a) if n - i > a else 0)
        for i in range(n)
        for a in sizes
        for b in ([fixed_size] if fixed_size else [0, *sizes])
        if i + a + b <= n or fixed_size
    ]
    table = np.array(sorted(set(triples)), dtype=np.int64)
    start, a, b = table.T
    uploads = np.array([upload_of(load[i : i + x + y], place, uniform=uniform) for i, x, y in table])
    best: Plan | None = None
    for length in lengths:
        steps = int(np.ceil(output_tokens / float(expected_tokens_iid(alpha, length))))
        first = phase_of(a.astype(float), tokens[start + a - 1], length, place)
        second = phase_of(b.astype(float), tokens[start + a + b - 1], length, place)
        seconds = uploads + pair_s(first, second, steps)
        done, back = np.full(n + 1, np.inf), np.zeros(n + 1, dtype=np.int64)
        done[0] = 0.0
        for row in range(len(table)):  # sorted by where they start
            end = start[row] + a[row] + b[row]
            if done[start[row]] + seconds[row] < done[end]:
                done[end], back[end] = done[start[row]] + seconds[row], row
        if best is None or done[n] < best.seconds:
            cut: list[int] = []
            at = n
            while at > 0:
                cut = [int(a[back[at]]), int(b[back[at]]), *cut]
                at = int(start[back[at]])
            best = Plan(length, tuple(cut), float(done[n]))
    assert best is not None
    return best


def simulate(
    rng: np.random.Generator,
    *,
    alpha: float = 0.7,
    tasks: int = 40,
    output_tokens: int = 64,
    max_batch: int = 16,
    place: Stations | None = None,
) -> Outcome:
    """Plan ``tasks`` random tasks and run the plan on servers, a fronthaul and a shared uplink.

    A task is done when its batch is; steps follow the mean acceptance, as in the paper.
    """
    there = place or Stations()
    prompts, efficiency = random_tasks(tasks, rng)
    plan = plan_batches(prompts, efficiency, output_tokens=output_tokens, alpha=alpha, place=there, max_batch=max_batch)
    return run_plan(plan, prompts, efficiency, output_tokens=output_tokens, alpha=alpha, place=there)


def plain_s(prompts: NDArray[np.int64], *, output_tokens: int, place: Stations, max_batch: int = 16) -> float:
    """Seconds of plain decoding on the macro station, batch after batch of ``max_batch``, uploads left out."""
    tokens, total = np.sort(prompts).astype(np.float64), 0.0
    for first in range(0, len(tokens), max_batch):
        part = tokens[first : first + max_batch]
        size, longest = float(len(part)), part[-1]
        total += float(place.macro.seconds(size * place.verify.prefill_flops(longest), place.verify))
        step = np.asarray(size * place.verify.step_flops(longest))
        total += (output_tokens - 1) * float(place.macro.seconds(step, place.verify))
    return total


def random_tasks(tasks: int, rng: np.random.Generator) -> tuple[NDArray[np.int64], Floats]:
    """Prompt lengths, uniform in 64..512, and log2(1 + SNR) for SNRs uniform in 0..20 dB: assumed."""
    return rng.integers(64, 513, tasks), np.log2(1 + 10 ** (rng.uniform(0, 20, tasks) / 10))


def run_plan(
    plan: Plan, prompts: NDArray[np.int64], efficiency: Floats, *, output_tokens: int, alpha: float, place: Stations
) -> Outcome:
    """Events of a plan: uploads that share the uplink by load, then both batches through both stations."""
    order = np.argsort(prompts, kind="stable")
    tokens = prompts[order].astype(np.float64)
    load = tokens * place.bits_per_token / efficiency[order]
    steps = int(np.ceil(output_tokens / float(expected_tokens_iid(alpha, plan.length))))
    n, env = len(tokens), simpy.Environment()
    ledger = Ledger(Requests(np.zeros(n), prompts[order], np.full(n, output_tokens, dtype=np.int64)))
    small, macro = (Server(env, name, lambda jobs: float(jobs[0].what)) for name in ("small station", "macro station"))
    rng = np.random.default_rng(0)  # no draws: neither link has jitter or loss
    uplink = Link(env, "uplink", LinkLaw(bytes_per_s=place.bandwidth_hz, sharing="shared"), rng)
    fronthaul = Link(env, "fronthaul", LinkLaw(bytes_per_s=1.0), rng)  # "bytes" here are seconds on it

    def batch(first: int, size: int, after: simpy.Event) -> simpy.events.ProcessGenerator:
        yield after
        phase = phase_of(np.array(float(size)), tokens[first + size - 1 : first + size][0], plan.length, place)
        for step in range(steps):
            yield small.work(first, float(phase.draft_s if step else phase.first_draft_s))
            yield fronthaul.sending(float(phase.move_s))
            yield macro.work(first, float(phase.verify_s if step else phase.first_verify_s))
        for i in range(first, first + size):
            drafted, kept = steps * plan.length, output_tokens - steps
            ledger.commit(i, env.now, drafted=drafted, accepted=kept, emitted=output_tokens, stage="macro station")

    def serve() -> simpy.events.ProcessGenerator:
        at = 0
        for a, b in zip(plan.sizes[::2], plan.sizes[1::2], strict=True):
            up = [uplink.sending(load[i], float(load[i])) for i in range(at, at + a + b)]
            yield simpy.AllOf(env, up)
            go = env.event().succeed()
            both = [env.process(batch(at, a, go))] + ([env.process(batch(at + a, b, go))] if b else [])
            yield simpy.AllOf(env, both)
            at += a + b

    env.process(serve())
    return finish(env, ledger, [small, macro], [uplink, fronthaul])


SYSTEM = System(
    name="edge-network",
    title="Efficient LLM Inference over Heterogeneous Edge Networks with Speculative Decoding",
    paper="2510.11331",
    year=2025,
    lossless="yes",
    topology="users -> uplink -> small base station (draft) -> fronthaul -> macro base station (verify)",
    pipeline="upload -> [batch A: draft | batch B: verify] <-> [batch B: draft | batch A: verify] -> results",
    rule="min(1, p/q), residual on rejection",
    parameters=(
        Parameter("alpha", 0.7, "acceptance per position", "assumed; not published"),
        Parameter("tasks", 40, "tasks that wait at time 0", "assumed (the paper simulates 100)"),
        Parameter("output_tokens", 64, "tokens of every answer", "assumed"),
        Parameter("max_batch", 16, "tasks of a batch at most", "assumed"),
    ),
    assumptions=(
        "a pass takes the longer of its operations and of reading the weights (operations alone could not gain)",
        "68M drafts on an RTX 3080, 7B verifies on an RTX 4500 Ada (datasheet FP32, bandwidth): pairing assumed",
        "batches are served two by two; the paper's recurrence and bandwidth formula were not found",
        "every task takes ceil(output / mean tokens a round) steps, as in the paper",
    ),
    batches="batches are what it plans",
    simulate=simulate,
    compose=two_stations.compose,
    inputs=(
        Parameter("uplink_bytes_per_s", None, "bandwidth that all users' prompts share", "-"),
        Parameter("fronthaul_s", None, "latency between the stations", "-"),
        Parameter("fronthaul_bytes_per_s", 1.25e9, "bandwidth between them, each way", "assumed: 10 Gbit/s"),
        Parameter("max_batch", 16, "requests of a batch at most; two batches are in flight", "assumed"),
    ),
    study="edge_network",
)
