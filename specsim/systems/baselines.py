"""What serving engines run today: plain decoding, and chains from heads, multi-token layers and n-gram lookup."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from specsim.systems.composition import Composition, fixed_chain, on_the_replica
from specsim.systems.descriptor import System

if TYPE_CHECKING:
    from specsim.planning.setting import Setting

BATCHES = "continuous batching, as the engine does it"


def _plain(setting: Setting) -> Composition:
    program = setting.deployment.program(None, 0)
    return on_the_replica(setting, None, {0: program}, None, ran_with="no drafter")


def _chained(*methods: str) -> Callable[[Setting], Composition]:
    return partial(_chain, methods=methods)


def _chain(setting: Setting, methods: tuple[str, ...]) -> Composition:
    return fixed_chain(setting, *methods)


PLAIN = System(
    name="plain",
    title="Decoding without speculation: what every system is compared with",
    paper="",
    year=2017,
    lossless="yes",
    topology="target on one replica",
    pipeline="decode one token -> commit",
    rule="every token is drawn from the target's law",
    parameters=(),
    assumptions=("none beyond the profile's",),
    batches=BATCHES,
    simulate=None,
    compose=_plain,
)

EAGLE = System(
    name="eagle",
    title="EAGLE: Speculative Sampling Requires Rethinking Feature Uncertainty",
    paper="2401.15077",
    year=2024,
    lossless="yes",
    topology="head and target on one replica",
    pipeline="head x K on the target's last hidden states -> verify -> commit",
    rule="min(1, p/q) and the residual after a rejection",
    parameters=(),
    assumptions=("a chain, as vLLM runs it: the paper drafts a fixed tree",),
    batches=BATCHES,
    simulate=None,
    compose=_chained("eagle"),
)

EAGLE_3 = System(
    name="eagle3",
    title="EAGLE-3: Scaling up Inference Acceleration of Large Language Models via Training-Time Test",
    paper="2503.01840",
    year=2025,
    lossless="yes",
    topology="head and target on one replica",
    pipeline="head x K on three fused hidden states -> verify -> commit",
    rule="min(1, p/q) and the residual after a rejection",
    parameters=(),
    assumptions=("a chain, as vLLM runs it: the paper drafts EAGLE-2's dynamic tree",),
    batches=BATCHES,
    simulate=None,
    compose=_chained("eagle3"),
)

MEDUSA = System(
    name="medusa",
    title="Medusa: Simple LLM Inference Acceleration Framework with Multiple Decoding Heads",
    paper="2401.10774",
    year=2024,
    lossless="yes",
    topology="heads and target on one replica",
    pipeline="K heads side by side in one pass -> verify -> commit",
    rule="min(1, p/q) and the residual after a rejection",
    parameters=(),
    assumptions=(
        "the likeliest token of each head, as vLLM runs it: the paper drafts a tree of their best",
        "rejection sampling: the paper's typical acceptance is not lossless",
    ),
    batches=BATCHES,
    simulate=None,
    compose=_chained("medusa"),
)

NGRAM = System(
    name="ngram",
    title="Prompt lookup decoding: what followed the same words before",
    paper="",
    year=2023,
    lossless="yes",
    topology="lookup on the host, target on one replica",
    pipeline="look the last words up -> copy K tokens that followed -> verify -> commit",
    rule="a copied token stands where the target would have drawn it",
    parameters=(),
    assumptions=("the share of rounds with a match is read off the survival curve",),
    batches=BATCHES,
    simulate=None,
    compose=_chained("ngram"),
)

MTP = System(
    name="mtp",
    title="DeepSeek-V3 Technical Report: multi-token prediction layers as drafters",
    paper="2412.19437",
    year=2024,
    lossless="yes",
    topology="prediction layer and target on one replica",
    pipeline="prediction layer x K -> verify -> commit",
    rule="min(1, p/q) and the residual after a rejection",
    parameters=(),
    assumptions=("one layer, run again for every further token, as vLLM does",),
    batches=BATCHES,
    simulate=None,
    compose=_chained("mtp"),
)

BASELINES = (PLAIN, EAGLE, EAGLE_3, MEDUSA, NGRAM, MTP)
