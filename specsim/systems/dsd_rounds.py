"""What DSD's rounds take and send, drafted on a device or beside the target, and where they run (2511.21669)."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from specsim.simulation.links import LinkLaw
from specsim.simulation.program import Pass, RoundProgram
from specsim.simulation.timed import timed_pass, timed_program
from specsim.simulation.topology import LinkSpec, ServerSpec, Topology

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

Mode = Literal["distributed", "fused", "switched"]
"""Drafts come from the devices, from a drafter beside the target, or round by round from either."""

FUSED = 1000
"""Added to a window where rounds switch: the kind of one that is drafted beside the target."""

PROMPTS = 2 * FUSED
"""The kind that computes prompts where rounds switch, for both drafters."""

MOMENT_S = 1e-9
"""A pass that only stands where a reply arrives must take time."""

ROUND_HEADER, PROMPT_HEADER, REPLY = 128.0, 512.0, 256.0
"""Bytes of a message beside its tokens, 2 each, in the released simulator."""


@dataclass(frozen=True)
class Costs:
    """Seconds: a drafted token on a device, and in the cloud; a target's batch, each sequence and position in it;
    a prompt token on a target, and on a drafter. All assumed: a 1B drafter, a 70B target.

    A batch of n sequences with windows up to k takes base + n (sequence + (k + 1) position).
    """

    draft_s: float = 5e-3
    cloud_draft_s: float = 5e-3
    base_s: float = 50e-3
    sequence_s: float = 0.3e-3
    position_s: float = 0.05e-3
    prefill_s_per_token: float = 0.1e-3
    draft_prefill_s_per_token: float = 0.03e-3

    def verify_s(self, sequences: ArrayLike, k: ArrayLike) -> Floats:
        """A batch of sequences with windows up to ``k``."""
        positions = (np.asarray(k) + 1) * self.position_s
        return np.asarray(self.base_s + np.asarray(sequences, dtype=np.float64) * (self.sequence_s + positions))

    def round_s(self, k: Ints, rtt_s: float) -> Floats:
        """A round with window ``k`` drafted at the edge, while nobody queues."""
        return np.asarray(k * self.draft_s + rtt_s + self.verify_s(1, k))

    def fused_s(self, k: Ints) -> Floats:
        """A round with window ``k`` drafted in the cloud, while nobody queues."""
        return np.asarray(k * self.cloud_draft_s + self.verify_s(1, k))


def programs_of(windows: Iterable[int], costs: Costs, mode: Mode, *, mean_prompt: float) -> dict[int, RoundProgram]:
    """Rounds by window; where they switch, by kind: windows, windows + FUSED, and PROMPTS."""
    if mode == "distributed":
        return {k: _apart(k, costs, mean_prompt) for k in windows}
    if mode == "fused":
        return {k: _together(k, costs) for k in windows}
    kinds: dict[int, RoundProgram] = {}
    for k in windows:
        kinds[k] = _delivered(_apart(k, costs, mean_prompt, beside=True), mean_prompt)
        kinds[k + FUSED] = replace(_together(k, costs), kind=k + FUSED)
    return {**kinds, PROMPTS: replace(kinds[min(kinds)], kind=PROMPTS)}


def place_of(mode: Mode, drafters: int, cloud: ServerSpec, law: LinkLaw) -> Topology:
    """The targets, and the devices with a link each way where they draft.

    A fused round crosses no link. So where rounds switch, one that is drafted on the device has its reply in its
    program, and has paid both ways when the next begins, wherever that is: as if the target decided, where m rounds on
    the device between fused ones take m ways up and m ways down.
    """
    if mode == "fused":
        return Topology((cloud,))
    devices, links = ServerSpec("edge", drafters), (LinkSpec("edge", "cloud", law), LinkSpec("cloud", "edge", law))
    if mode == "distributed":
        return Topology((devices, cloud), links, home="edge", reply_bytes=REPLY)
    return Topology((devices, cloud), links)


def _apart(k: int, costs: Costs, mean_prompt: float, *, beside: bool = False) -> RoundProgram:
    """beside: prompts are computed for a drafter beside the target too."""
    draft = _draft(k, costs, costs.draft_s, "edge")
    target = _verify(k, costs, costs.draft_prefill_s_per_token if beside else 0.0)
    sent = replace(target, bytes_in=2.0 * k + ROUND_HEADER, prompt_bytes_in=2.0 + PROMPT_HEADER / mean_prompt)
    return timed_program(f"window {k}, drafted on the device", k, draft, sent)


def _together(k: int, costs: Costs) -> RoundProgram:
    draft = _draft(k, costs, costs.cloud_draft_s, "cloud")
    return timed_program(f"window {k}, drafted beside the target", k, draft, _verify(k, costs))


def _delivered(program: RoundProgram, mean_prompt: float) -> RoundProgram:
    seen = timed_pass(
        "seen",
        MOMENT_S,
        device="edge",
        after=("verify",),
        bytes_in=REPLY,
        prompt_bytes_in=REPLY / mean_prompt,
        prefill_s_per_token=MOMENT_S,
    )
    return replace(program, passes=(*program.passes, seen))


def _draft(k: int, costs: Costs, seconds: float, device: str) -> Pass:
    prompt_s = costs.draft_prefill_s_per_token
    return timed_pass("draft", seconds, device=device, repeats=k, prefill_s_per_token=prompt_s)


def _verify(k: int, costs: Costs, more_prompt_s: float = 0.0) -> Pass:
    return timed_pass(
        "verify",
        lambda n, kv: costs.verify_s(n, k) + 0.0 * np.asarray(kv),
        device="cloud",
        after=("draft",),
        prefill_s_per_token=costs.prefill_s_per_token + more_prompt_s,
    )
