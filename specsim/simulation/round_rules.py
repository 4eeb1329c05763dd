"""What a round drafts and what comes of it, stream by stream: the commit rule of the expanded executor."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from specsim.acceptance.process import AcceptanceProcess
from specsim.acceptance.signals import SignalProcess, Signals
from specsim.drafting.adaptive import LengthController
from specsim.drafting.stopping import LengthPolicy
from specsim.errors import InputError
from specsim.simulation.rounds import BLOCK, RoundSource
from specsim.simulation.workload import Requests


class RoundRule(Protocol):
    """Asked twice a round, for one stream at a time, in the order in which rounds happen.

    ``length(stream)`` when the round begins: how many tokens it drafts (or its kind), a key of the programs.
    ``settle(stream, k)`` at its commit, with that key: (accepted, emitted), accepted in 0..drafted, the correction or
    bonus counted in emitted alone, which is accepted (no bonus) up to accepted + the program's ``bonus``, 1 unless it
    says more. A third number: tokens that this round, or one before, drafted ahead and no round will verify.
    """

    def length(self, stream: int) -> int:
        """Tokens that the next round drafts."""
        ...

    def settle(self, stream: int, k: int) -> tuple[int, int] | tuple[int, int, int]:
        """Accepted and emitted tokens of a round that drafted ``k``, and those drafted ahead in vain."""
        ...


class FixedLength:
    """``k`` tokens every round, the accepted prefix and one more; the very draws of the folded executor.

    prompt_cached: all tokens come from rounds (else a request's first one from its prefill).
    """

    def __init__(
        self,
        process: AcceptanceProcess | None,
        k: int,
        requests: Requests,
        rng: np.random.Generator,
        *,
        prompt_cached: bool = False,
    ) -> None:
        drawn = replace(requests, output_tokens=requests.output_tokens + 1) if prompt_cached else requests
        self._k, self._source = k, RoundSource(process, k, drawn, rng)
        self._left: dict[int, list[int]] = {}

    def length(self, stream: int) -> int:  # noqa: ARG002 - always the same
        """The fixed length."""
        return self._k

    def settle(self, stream: int, k: int) -> tuple[int, int]:  # noqa: ARG002 - drawn before
        """The next round drawn for this stream."""
        left = self._left.get(stream)
        if left is None:
            drawn = self._source.block(stream // BLOCK)
            for row, count in enumerate(drawn.count.tolist()):
                self._left[drawn.first + row] = drawn.emitted[row, :count].tolist()[::-1]
            left = self._left[stream]
        emitted = left.pop()
        return emitted - 1, emitted


class DrawnRounds:
    """Accepted counts of any length for streams of one process; many rounds ahead where rounds are independent."""

    def __init__(
        self, process: AcceptanceProcess, streams: int, rng: np.random.Generator, *, ahead: int = 1024
    ) -> None:
        self._process, self._rng, self._ahead = process, rng, ahead
        self._latent: NDArray[Any] = process.start(streams, rng)
        self._memoryless = self._latent.size == 0
        self._drawn: dict[int, list[int]] = {}

    def accepted(self, stream: int, k: int) -> int:
        """How many of ``k`` drafted tokens survive in this stream's next round."""
        if k == 0:
            return 0
        if not self._memoryless:
            accepted, after = self._process.verify(self._latent[[stream]], k, self._rng)
            self._latent[[stream]] = after
            return int(accepted[0, 0])
        drawn = self._drawn.get(k)
        if not drawn:
            counts, _ = self._process.verify(self._latent[:1], k, self._rng, rounds=self._ahead)
            drawn = self._drawn[k] = counts[0].tolist()
        return drawn.pop()


class ChainRounds:
    """``k`` tokens every round, the accepted prefix and one more, from draws that streams share."""

    def __init__(self, process: AcceptanceProcess, k: int, streams: int, rng: np.random.Generator) -> None:
        self._k, self._drawn = k, DrawnRounds(process, streams, rng)

    def length(self, stream: int) -> int:  # noqa: ARG002 - always the same
        """The fixed length."""
        return self._k

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """A fresh draw."""
        accepted = self._drawn.accepted(stream, k)
        return accepted, accepted + 1


class SignalRounds:
    """Lengths that a policy reads off the drafter's signals, and what survives of them, drawn jointly.

    Rounds of a process without a latent state are drawn ``ahead`` at a time; others one by one.
    """

    def __init__(
        self,
        process: SignalProcess,
        policy: LengthPolicy,
        streams: int,
        rng: np.random.Generator,
        *,
        ahead: int = 1024,
    ) -> None:
        self._process, self._policy, self._rng, self._ahead = process, policy, rng, ahead
        self._latent: NDArray[Any] = process.start(streams, rng)
        self._memoryless = self._latent.size == 0
        self._drawn: list[tuple[int, int]] = []
        self._now: dict[int, int] = {}

    def length(self, stream: int) -> int:
        """What the policy says of this round's draft."""
        if self._memoryless:
            if not self._drawn:
                rows = np.zeros((self._ahead, *self._latent.shape[1:]))
                lengths, accepted, _ = self._round(rows)
                self._drawn = list(zip(lengths.tolist(), accepted.tolist(), strict=True))
            k, accepted_now = self._drawn.pop()
        else:
            lengths, accepted, after = self._round(self._latent[[stream]])
            self._latent[[stream]] = after
            k, accepted_now = int(lengths[0]), int(accepted[0])
        self._now[stream] = accepted_now
        return k

    def settle(self, stream: int, k: int) -> tuple[int, int]:  # noqa: ARG002 - drawn with its length
        """What survives of it."""
        accepted = self._now[stream]
        return accepted, accepted + 1

    def _round(self, latent: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
        drafted = self._process.draft(latent, self._policy.most, self._rng)
        lengths = self._policy.lengths(drafted.signals)
        if lengths.min(initial=0) < 0:
            raise InputError(
                f"asks for {int(lengths.min())} drafted tokens; give 0 or more",
                field=f"policy {type(self._policy).__name__}",
            )
        accepted, after = self._process.settle(drafted, lengths, self._rng)
        return lengths, accepted, after


class ControlledRounds:
    """Lengths of a controller that learns from what was accepted; one round at a time, a state a stream."""

    def __init__(
        self, process: AcceptanceProcess, controller: LengthController, streams: int, rng: np.random.Generator
    ) -> None:
        self._drawn, self._controller = DrawnRounds(process, streams, rng), controller
        self._state = controller.start(streams)
        blank = np.zeros((1, controller.most))
        self._signals = Signals(blank, blank, blank)

    def length(self, stream: int) -> int:
        """The controller's length for this stream; it sees no signals."""
        return int(self._controller.lengths(self._state[[stream]], self._signals)[0])

    def settle(self, stream: int, k: int) -> tuple[int, int]:
        """What survives, and the controller learns it."""
        accepted = self._drawn.accepted(stream, k)
        self._state[[stream]] = self._controller.learn(
            self._state[[stream]], self._signals, np.array([k]), np.array([accepted])
        )
        return accepted, accepted + 1
