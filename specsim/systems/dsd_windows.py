"""How far DSD drafts, and on which side: static, released, learned and oracle windows, and a switch (2511.21669)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

import numpy as np

from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.replayed import Replayed
from specsim.drafting.adaptive import LengthController, ShareWindow, SurvivalWindow
from specsim.drafting.learned_window import LearnedWindow, counted, shipped
from specsim.errors import InputError
from specsim.simulation.round_rules import ChainRounds, ControlledRounds, DrawnRounds, RoundRule
from specsim.systems.dsd_rounds import FUSED, Costs, Floats, Ints, Mode

WINDOWS = (1, 2, 3, 4, 6, 8)
"""Windows that the released controller snaps to, where 1 stands for fused mode."""

MOST = max(WINDOWS)
STATIC = 4

DWELL = 1
"""Decisions for which a fused one is kept, whatever they wish: the released code's."""


class Wish(NamedTuple):
    """What a round would draft on the device, what beside the target, and which is faster."""

    apart: int
    fused: int
    wants_fused: bool


class Wishes(Protocol):
    """What a round of a stream wishes, and what comes of the window that it got."""

    def wish(self, stream: int) -> Wish:
        """Asked once a round."""
        ...

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """Accepted and emitted tokens of a round that drafted ``k``."""
        ...


class SwitchedRounds:
    """Rounds of either mode as they are wished, but a fused one is followed by ``dwell`` more at least."""

    def __init__(self, wishes: Wishes, streams: int, *, dwell: int = DWELL) -> None:
        self._wishes, self._dwell, self._left = wishes, dwell, [0] * streams

    def length(self, stream: int) -> int:
        """The window, FUSED added where it is drafted beside the target."""
        wish, left = self._wishes.wish(stream), self._left[stream]
        self._left[stream] = self._dwell if wish.wants_fused else max(left - 1, 0)
        return wish.fused + FUSED if wish.wants_fused or left else wish.apart

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """What survives of its window."""
        return self._wishes.settle(stream, k % FUSED)


class KnownStates:
    """The oracle's rounds: it sees the state of each conversation and wishes what is given for it.

    Without a switch they are rounds by themselves, of the windows that are wished on the device.
    """

    def __init__(self, process: Replayed, wishes: Sequence[Wish], streams: int, rng: np.random.Generator) -> None:
        if len(wishes) <= int(process.states.max()):
            raise InputError(f"{len(wishes)} windows for {int(process.states.max()) + 1} states", field="window")
        self._process, self._wishes, self._rng = process, wishes, rng
        self._at = process.start(streams, rng)

    def wish(self, stream: int) -> Wish:
        """That of the conversation's state."""
        row, place = self._at[stream]
        return self._wishes[int(self._process.states[row, place])]

    def length(self, stream: int) -> int:
        """The window of the conversation's state."""
        return self.wish(stream).apart

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """What survives."""
        accepted, after = self._process.verify(self._at[[stream]], k, self._rng)
        self._at[stream] = after[0]
        return int(accepted[0, 0]), int(accepted[0, 0]) + 1


def oracle_windows(seconds: Floats) -> tuple[int, ...]:
    """The window of most tokens a second in each state, of seconds a token by state and window."""
    return tuple(WINDOWS[best] for best in seconds.argmin(axis=1))


def oracle_wishes(apart_s: Floats, fused_s: Floats) -> tuple[Wish, ...]:
    """The same for both modes, and which of them is faster."""
    faster = (fused_s.min(axis=1) < apart_s.min(axis=1)).tolist()
    return tuple(map(Wish, oracle_windows(apart_s), oracle_windows(fused_s), faster))


class LearnedWishes:
    """The learned window's rounds in either mode, and the faster one at the rate that it predicts."""

    def __init__(
        self,
        process: AcceptanceProcess,
        apart: LearnedWindow,
        fused: LearnedWindow,
        streams: int,
        rng: np.random.Generator,
    ) -> None:
        self._drawn, self._apart, self._fused = DrawnRounds(process, streams, rng), apart, fused
        self._state = apart.start(streams)

    def wish(self, stream: int) -> Wish:
        """The best windows at the predicted rate."""
        state = self._state[[stream]]
        (apart, apart_speed), (fused, fused_speed) = self._apart.fastest(state), self._fused.fastest(state)
        return Wish(int(apart[0]), int(fused[0]), bool(fused_speed[0] > apart_speed[0]))

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """What survives; the network learns it."""
        accepted = self._drawn.accepted(stream, k)
        self._state[[stream]] = counted(self._state[[stream]], np.array([k]), np.array([accepted]))
        return accepted, accepted + 1


def controller(name: str, round_s: Callable[[Ints], Floats], most: int = MOST) -> LengthController:
    """A window policy by name: ``back-off`` and ``threshold`` with the released constants, or ``learned``.

    round_s: seconds of a round by its window, which a learned window knows.
    """
    if name == "back-off":
        return ShareWindow(least=min(2, most), first=min(STATIC, most), most=most, shrink=0.25, grow=0.6)
    if name == "threshold":
        return SurvivalWindow(most=most, risk=0.7)
    if name == "learned":
        return LearnedWindow(shipped(), round_s, most)
    raise InputError(f"{name!r}; use static, back-off, threshold or learned", field="window")


def rounds_of(
    window: str | Sequence[int] | Sequence[Wish],
    mode: Mode,
    process: AcceptanceProcess,
    costs: Costs,
    streams: int,
    rng: np.random.Generator,
    *,
    gamma: int,
    rtt_s: float,
) -> tuple[RoundRule, Sequence[int]]:
    """Rounds of ``streams`` conversations as a window policy wants them, and the windows that it may ask for."""

    def apart_s(k: Ints) -> Floats:
        return costs.round_s(k, rtt_s)

    if not isinstance(window, str):
        return _known(window, mode, process, streams, rng)
    if mode == "switched":
        if window != "learned":
            raise InputError(
                f"{window!r}; rounds switch by the learned window, or by an oracle's wishes", field="window"
            )
        apart, fused = (LearnedWindow(shipped(), law, MOST) for law in (apart_s, costs.fused_s))
        return SwitchedRounds(LearnedWishes(process, apart, fused, streams, rng), streams), range(1, MOST + 1)
    if window == "static":
        return ChainRounds(process, gamma, streams, rng), [gamma]
    policy = controller(window, apart_s if mode == "distributed" else costs.fused_s)
    return ControlledRounds(process, policy, streams, rng), range(1, policy.most + 1)


def _known(
    window: Sequence[int] | Sequence[Wish],
    mode: Mode,
    process: AcceptanceProcess,
    streams: int,
    rng: np.random.Generator,
) -> tuple[RoundRule, Sequence[int]]:
    if not isinstance(process, Replayed):
        raise InputError("windows for states need conversations whose states are known (Replayed)", field="window")
    wishes = [k if isinstance(k, Wish) else Wish(k, k, wants_fused=False) for k in window]
    if any(isinstance(k, Wish) != (mode == "switched") for k in window):
        raise InputError("give a Wish for each state where rounds switch, else a window", field="window")
    rounds, lengths = KnownStates(process, wishes, streams, rng), sorted({k for w in wishes for k in w[:2]})
    return (SwitchedRounds(rounds, streams) if mode == "switched" else rounds), lengths
