"""SPEED: a decoder of shared layers guesses its next token early and sends it through the same layers meanwhile."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import simpy

from specsim.cost.shapes import ForwardShape, Segment, StepShape, StepTime
from specsim.cost.step import StepCost
from specsim.errors import InputError
from specsim.simulation.free_run import finish, streams
from specsim.simulation.ledger import Ledger
from specsim.simulation.outcome import Outcome
from specsim.simulation.pricing import Pricer
from specsim.simulation.program import Batch, Pass, RoundProgram
from specsim.simulation.servers import Job, Server
from specsim.simulation.timed import no_host
from specsim.simulation.workload import Requests
from specsim.systems.alone import Alone, one_by_one
from specsim.systems.composition import Composition
from specsim.systems.descriptor import Parameter, System, rate_in_range

if TYPE_CHECKING:
    from specsim.planning.setting import Setting


def ticks_per_token(right: float, depth: int, guess_at: int) -> float:
    """Ticks a token, j + (1 - a)(r - j): it starts j ticks after the one before it if the guess was right, else r."""
    return guess_at + (1.0 - right) * (depth - guess_at)


def simulate(
    rng: np.random.Generator,
    *,
    right: float = 0.929,
    depth: int = 4,
    guess_at: int = 1,
    tick_s: float = 1.0,
    tokens: int = 20_000,
) -> Outcome:
    """One stream through a pipeline of ceil(depth / guess_at) tokens; a wrong guess flushes the younger ones.

    A tick passes all tokens in flight once through the shared group. Raises InputError for a guess after the end.
    """
    rate_in_range(right, "right")
    if not 1 <= guess_at <= depth:
        raise InputError(f"{guess_at} must lie in 1..depth = {depth}", field="guess_at")
    env, ledger = simpy.Environment(), Ledger(streams(1, tokens))
    group = Server(env, "shared layers", lambda jobs: tick_s)  # noqa: ARG005 - memory-bound: flat in the tokens
    pipe = Pipeline(right, depth, guess_at, rng)

    def tick(_: Job) -> None:
        ended = pipe.tick()
        if ended is not None:
            ledger.waste(0, ended.flushed)
            if ledger.commit(0, env.now, drafted=ended.kept, accepted=ended.kept, emitted=1, stage="last traversal"):
                return
        group.submit(Job("pipeline", len(pipe.ages), tick))

    group.submit(Job("pipeline", 1, tick))
    return finish(env, ledger, [group])


class Ended(NamedTuple):
    """A token that has been through all its traversals: whether the guess after it was right, and what it flushed."""

    kept: bool
    flushed: int


class Pipeline:
    """Tokens of one stream in flight through a shared group of layers; ``ages``: traversals of each, oldest first."""

    def __init__(self, right: float, depth: int, guess_at: int, rng: np.random.Generator) -> None:
        self._right, self._depth, self._guess_at, self._rng = right, depth, guess_at, rng
        self.ages: list[int] = []
        self._guesses: list[bool] = []  # whether the guess after each is right
        self.rows = 0
        """Rows of logits that the last tick computed: a guess, and the token that ended."""
        self._enter()

    def tick(self) -> Ended | None:
        """All in flight pass the group once; the next token enters on a guess, or on the token itself."""
        self.ages = [age + 1 for age in self.ages]
        guesses = self.ages[-1] == self._guess_at
        ended = None
        if self.ages[0] == self._depth:
            guesses = guesses and self._guess_at < self._depth
            self.ages.pop(0)
            kept = self._guesses.pop(0)
            ended = Ended(kept, 0 if kept else max(1, len(self.ages)))
            if not kept:
                self.ages, self._guesses = [], []
        self.rows = int(guesses) + int(ended is not None)
        if not self.ages or self.ages[-1] == self._guess_at:
            self._enter()
        return ended

    def _enter(self) -> None:
        self.ages.append(0)
        self._guesses.append(bool(self._rng.random() < self._right))


HEAD = -1
"""Key of rows of logits in the tally of work; 0: whole passes over prompts; n: a group's pass over n tokens."""


def _compose(setting: Setting) -> Composition:
    right, depth = setting.number("right", most=1), setting.count("depth")
    guess_at = setting.count("guess_at", most=depth)
    given, serving = setting.deployment, setting.deployment.serving(None, 0)
    cache_tokens = serving.usable_blocks * serving.block_size
    plain, whole = given.program(None, 0), setting.verify_pass(0, device="gpu")
    group = shared_group(given.target.forward(**given.precision), depth)
    cost = StepCost(group, given.profile, given.engine)
    in_flight = -(-depth // guess_at)
    programs = {n: group_pass(group, cost, n) for n in range(1, in_flight + 1)}
    tables = {n: Pricer(program, cache_tokens).decode_table(1) for n, program in programs.items()}
    programs |= {0: plain, HEAD: head_rows(whole)}
    ends = {rows: float(programs[HEAD].seconds(Batch(float(rows), 0.0))) for rows in (1, 2)}
    host_s = float(plain.host(Batch(1.0, 1.0)).total_s)

    def run(requests: Requests, rng: np.random.Generator) -> Outcome:
        serving.check(requests.prompt_tokens, requests.output_tokens, in_flight - 1)
        engine = Alone(plain, key=0, max_tokens=cache_tokens, chunk_tokens=serving.max_num_batched_tokens)

        def serve(ledger: Ledger, i: int, now: float) -> float:
            now += engine.reads(ledger, ledger.prompt[i])
            if ledger.prefilled(i, now):
                return now
            pipe = Pipeline(right, depth, guess_at, rng)
            while True:
                n, cached = len(pipe.ages), ledger.prompt[i] + ledger.emitted[i]
                now += float(np.interp(cached, *tables[n]))
                ledger.tally.decode(n, 1, cached)
                ended = pipe.tick()
                if pipe.rows:
                    now += ends[pipe.rows]
                    ledger.tally.decode(HEAD, pipe.rows, 0.0)
                if ended is None:
                    continue
                now += host_s
                ledger.waste(i, ended.flushed)
                if ledger.commit(i, now, drafted=ended.kept, accepted=ended.kept, emitted=1, stage="last traversal"):
                    return now

        return one_by_one(requests, serve, device="gpu", cache_tokens=cache_tokens)

    replica = setting.replica(None, 0)
    ends_bytes = 2.0 * given.target.embedding_parameters / given.scenario.target.tensor_parallel
    shared = ends_bytes + (replica.weight_bytes - ends_bytes) / depth
    return Composition(
        ran_with=f"{depth} traversals of {group.layers} layers, a guess after {guess_at}, {100 * right:g} % right",
        run=run,
        programs=programs,
        devices=(replace(replica, weight_bytes=shared),),
        assumed=(
            f"the target's layers are {depth} traversals of one group, trained so: an ordinary target shares none",
            "guesses are right independently; a guess reads the LM head",
            "the host's work is done once for each token that ends",
        ),
        one_at_a_time=True,
    )


def shared_group(forward: ForwardShape, depth: int) -> ForwardShape:
    """One of ``depth`` equal parts of a pass's layers, without its LM head. InputError where they can't be equal."""
    layers = [x for x in forward.linears if x.rows == "tokens"]
    counts = [x.count for x in layers] + [x.count for x in forward.attention] + [x.count for x in forward.experts]
    if any(count % depth for count in counts):
        raise InputError(
            f"{depth}; {forward.layers} layers don't make that many equal groups", field="systems.speed.depth"
        )
    return replace(
        forward,
        layers=forward.layers // depth,
        linears=tuple(replace(x, count=x.count // depth) for x in layers),
        attention=tuple(replace(x, count=x.count // depth) for x in forward.attention),
        experts=tuple(replace(x, count=x.count // depth) for x in forward.experts),
        all_reduces=round(forward.all_reduces / depth),
        elementwise_bytes_per_token=forward.elementwise_bytes_per_token / depth,
        elementwise_kernels=round(forward.elementwise_kernels / depth),
    )


def group_pass(group: ForwardShape, cost: StepCost, n: int) -> RoundProgram:
    """A pass of the group over ``n`` tokens of one sequence, each at a traversal of its own."""
    kind: Literal["decode", "verify"] = "decode" if n == 1 else "verify"

    def shape(batch: Batch) -> StepShape:
        sequences = np.asarray(batch.sequences, dtype=np.float64)
        return StepShape((Segment(kind, sequences, sequences * n, batch.kv_tokens, 0.0),))

    name = f"{n} in flight"
    return RoundProgram(name, n, (Pass(name, group.name, shape, cost.cost, forward=group),), no_host)


def head_rows(whole: Pass) -> RoundProgram:
    """Rows of logits alone, as many as sequences."""
    assert whole.forward is not None
    head = tuple(x for x in whole.forward.linears if x.rows == "logits")
    forward = replace(whole.forward, linears=head, attention=(), experts=())

    def shape(batch: Batch) -> StepShape:
        return StepShape((Segment("decode", batch.sequences, batch.sequences, 0.0, batch.sequences),))

    def seconds(step: StepShape) -> StepTime:
        return StepTime({"head": whole.cost(step).terms["head"]})

    return RoundProgram("logits", 0, (Pass("logits", forward.name, shape, seconds, forward=forward),), no_host)


SYSTEM = System(
    name="speed",
    title="SPEED: Speculative Pipelined Execution for Efficient Decoding",
    paper="2310.12072",
    year=2023,
    lossless="yes, greedy only",
    topology="one model on one device, several of its own tokens in flight",
    pipeline="layers x depth, a guess after guess_at -> next token into the same layers; wrong: flush",
    rule="the guess stands if it is the token that full depth gives",
    parameters=(
        Parameter("right", 0.929, "share of guesses that full depth confirms", "solved from a looped model's BBH row"),
        Parameter("depth", 4, "traversals of the shared group a token", "Ouro, R = 4 (LOOPSPEC, Table 1)"),
        Parameter("guess_at", 1, "traversals after which the guess is read", "Ouro, d = 1 (LOOPSPEC, Table 1)"),
        Parameter("tick_s", 1.0, "seconds of a traversal", "unit"),
    ),
    assumptions=(
        "a traversal costs the same whatever the tokens in flight (memory-bound)",
        "guesses are right independently; one guess point",
        "on a wrong guess all younger tokens start again (the paper's invalidation details were not found)",
    ),
    batches="the cost law is batch 1; it cannot batch here",
    simulate=simulate,
    compose=_compose,
    inputs=(
        Parameter("right", None, "share of guesses that full depth confirms", "-"),
        Parameter(
            "depth", None, "traversals of one shared group that the target's layers are; an ordinary one has 1", "-"
        ),
        Parameter("guess_at", 1, "traversals after which the guess is read", "Ouro, d = 1 (LOOPSPEC, Table 1)"),
    ),
    study="speed",
)
