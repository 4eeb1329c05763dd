"""Speculation as the measurements ran it: a model on a GPU, the authors' traffic, their harness of copied prompts."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from specsim.acceptance.conversions import iid_rate_from_length, survival_from_conditional
from specsim.cost.drafter import Drafter, load_drafter, lookup_proposal_rate
from specsim.cost.drafting import load_draft_host
from specsim.cost.engine import Engine, load_engine
from specsim.cost.model import ModelShape, load_model
from specsim.cost.profile import Profile, load_profile
from specsim.simulation.program import Batch, PrefillChunk, RoundProgram
from specsim.systems.draft_verify import draft_verify
from specsim.theory.iid import leviathan_speedup

OFFLINE_BUDGET = 16384
"""Tokens in an iteration of vLLM's offline engine on GPUs of 70 GiB and more (its default for the LLM class)."""

Measurement = dict[str, str]
Rounds = Callable[[Batch], np.ndarray]


@dataclass(frozen=True)
class Setting:
    """A target on a GPU under an engine."""

    target: ModelShape
    profile: Profile
    engine: Engine
    tensor_parallel: int = 1

    def program(self, drafter: Drafter | None, k: int) -> RoundProgram:
        return draft_verify(
            self.target, drafter, k=k, profile=self.profile, engine=self.engine, tensor_parallel=self.tensor_parallel
        )


@dataclass(frozen=True)
class Traffic:
    """Requests of one dataset in the authors' acceptance traces: mean lengths, and acceptance at one draft length."""

    prompt: float
    output: float
    by_token: float
    by_request: float
    conditional: tuple[float, ...]

    @property
    def proposal_rate(self) -> float:
        """Share of rounds in which a lookup proposes, if its first token is right as often as its second."""
        return lookup_proposal_rate(survival_from_conditional(self.conditional))


@cache
def llama() -> Setting:
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    return Setting(load_model("meta-llama/Llama-3.1-8B-Instruct"), profile, load_engine("vllm"))


def rows(root: Path) -> list[Measurement]:
    with (root / "measured_speculation.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def traffic(root: Path, dataset: str, method: str, k: int) -> Traffic:
    with (root / "llama31_8b_acceptance_summary.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if (row["dataset"], row["method"], int(row["k"])) == (dataset, method, k):
                rates = tuple(float(rate) for rate in row["cond_accept_by_pos"].split())
                names = ("prompt_len", "gen_len", "AL_token", "AL_req_mean")
                prompt, output, by_token, by_request = (float(row[name]) for name in names)
                return Traffic(prompt, output, by_token, by_request, rates)
    raise LookupError(f"no acceptance of {method} on {dataset} at {k}")


def copies_speedup(
    root: Path, dataset: str, method: str, batch: int, k: int, *, setting: Setting
) -> tuple[float, float]:
    """Speedup in the harness of arXiv 2601.11580, by acceptance weighted by requests, and by tokens.

    A batch is one prompt many times over, run to its end; a bar is the mean over requests of tokens per second, over
    that without speculation. So copies accept in step, prefill counts, and the request-weighted length is the one.
    """
    drafter = load_drafter(method, target=setting.target)
    seen = traffic(root, dataset, "ngram" if method == "ngram" else "eagle", k)
    plain, program = setting.program(None, 0), setting.program(drafter, k)
    before = run_seconds(plain, plain.seconds, batch, seen, 1.0)
    rounds = lockstep(setting, program, drafter, seen.proposal_rate)
    by_request, by_token = (run_seconds(program, rounds, batch, seen, x) for x in (seen.by_request, seen.by_token))
    return before / by_request, before / by_token


def lockstep(setting: Setting, program: RoundProgram, drafter: Drafter, proposal_rate: float) -> Rounds:
    """Seconds of a mean round of copies: all of them look up a proposal, or none does and they decode plainly."""
    if drafter.method != "ngram":
        return program.seconds
    plain, host = setting.program(None, 0), load_draft_host(setting.engine)

    def seconds(batch: Batch) -> np.ndarray:
        missed = plain.seconds(batch) + host.lookup(batch.sequences, batch.kv_tokens).seconds
        return proposal_rate * program.seconds(batch) + (1.0 - proposal_rate) * missed

    return seconds


def run_seconds(program: RoundProgram, rounds: Rounds, batch: int, seen: Traffic, length: float) -> float:
    """Seconds to answer ``batch`` copies of the mean request: its prefill, then rounds over a growing cache."""
    prefill = sum(
        float(program.seconds(Batch(0, 0, prefill=step))) for step in prefill_steps(batch, round(seen.prompt))
    )
    context = seen.prompt + np.linspace(0.0, seen.output, 33)
    each = np.mean(rounds(Batch(np.full(context.shape, float(batch)), batch * context)))
    return prefill + float(each) * (seen.output - 1.0) / length


def prefill_steps(batch: int, prompt: int) -> Iterator[tuple[PrefillChunk, ...]]:
    """Iterations that prefill ``batch`` prompts together, each filled up to the token budget."""
    chunks: list[PrefillChunk] = []
    room = OFFLINE_BUDGET
    for _ in range(batch):
        past = 0
        while past < prompt:
            take = min(prompt - past, room)
            chunks.append(PrefillChunk(take, past, last=past + take == prompt))
            past, room = past + take, room - take
            if room == 0:
                yield tuple(chunks)
                chunks, room = [], OFFLINE_BUDGET
    if chunks:
        yield tuple(chunks)


def textbook(target: ModelShape, drafter: Drafter, k: int, length: float) -> float:
    """Leviathan et al.: one i.i.d. rate from the acceptance length, cost by the ratio of the parameters read."""
    rate = float(iid_rate_from_length(length, k))
    ratio = 0.0
    if drafter.on_gpu:
        ratio = sum(item.n * item.k * item.count for item in drafter.next_pass(k).linears) / target.parameters
    return float(leviathan_speedup(rate, k, ratio))
