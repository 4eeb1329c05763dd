"""SpecForge#339: a mixture of experts that speculation slowed down, and what is predicted of it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from specsim.cost.drafter import load_drafter
from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.simulation.program import Batch
from specsim.systems.draft_tree import draft_tree
from studies.speculation_harness import Measurement, Setting

MOE_CONTEXT = 1000
"""Assumed for SpecForge#339: MT-Bench answered by a model that thinks first; it hardly matters."""


def mixtures(table: list[Measurement]) -> list[Sign]:
    """Qwen3-30B-A3B on two H100 under SGLang, chains and trees of an EAGLE-3 head."""
    mine = [row for row in table if "SpecForge#339" in row["source"]]
    plain_tokens_per_s = {int(row["batch"]): float(row["value"]) for row in mine if row["method"] == "none"}
    target = load_model("Qwen/Qwen3-30B-A3B")
    profile = load_profile("h100_sxm", engine="sglang", dtype="bf16")
    setting = Setting(target, profile, load_engine("sglang"), tensor_parallel=2)
    drafter = load_drafter("eagle3", target=target)
    out = []
    for row in filter(is_sign, mine):
        steps, branches, tokens = (int(number) for number in re.findall(r"\d+", row["shape"]))
        program = draft_tree(
            target,
            drafter,
            steps=steps,
            branches=branches,
            tokens=tokens,
            profile=profile,
            engine=setting.engine,
            tensor_parallel=2,
        )
        n, length, rate = int(row["batch"]), float(row["accept_len"]), float(row["value"])
        batch = Batch(n, n * MOE_CONTEXT)
        before, spent = setting.program(None, 0).time(batch), program.time(batch)
        more = float(spent.terms["verify.experts"].seconds - before.terms["decode.experts"].seconds)
        grown = float(spent.total_s - before.total_s)
        out.append(
            Sign(
                n,
                steps,
                branches,
                tokens,
                length,
                rate / plain_tokens_per_s[n],
                length * float(before.total_s / spent.total_s),
                n * length / rate,
                float(spent.total_s),
                more / grown,
            )
        )
    return out


@dataclass(frozen=True)
class Sign:
    """A mixture of experts that speculation slowed down: ``steps`` x ``branches``, ``tokens`` verified."""

    batch: int
    steps: int
    branches: int
    tokens: int
    length: float
    measured: float
    predicted: float
    measured_round_s: float
    predicted_round_s: float
    expert_share: float


def is_sign(row: Measurement) -> bool:
    return "SpecForge#339" in row["source"] and row["method"] != "none"
