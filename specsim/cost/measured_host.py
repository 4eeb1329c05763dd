"""The host's work around passes where it was measured: eager PyTorch, a round of draft, verify, reject, commit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.cost.engine import Engine, HostCost
from specsim.cost.shapes import Floats


@dataclass(frozen=True)
class MeasuredHost:
    """Seconds of a round's host and sampling work, linear in drafted tokens K, sequences B and vocabulary V.

    round_s: once a round; draft_s: a drafted token; sequence_s: a sequence; sequence_draft_s: a sequence and drafted
    token; entry_s: a logit of the target's rows that need none but sampling (B V); draft_entry_s: a logit drafted,
    verified and rejected (B K V). pass_s: around each forward pass (embedding, positions, mask, last norm).
    launch_s: host time of an eager operation where a device runs behind the host; 0 on a CPU, where it is part of
    every kernel's own time. Fitted to measurements, all at least 0.
    """

    round_s: float
    draft_s: float
    sequence_s: float
    sequence_draft_s: float
    entry_s: float
    draft_entry_s: float
    pass_s: float
    launch_s: float

    def host_s(self, sequences: ArrayLike, drafted: ArrayLike) -> Floats:
        """Seconds of bookkeeping a round; ``drafted`` tokens a sequence."""
        b, k = np.asarray(sequences, dtype=np.float64), np.asarray(drafted, dtype=np.float64)
        return np.asarray(self.round_s + self.draft_s * k + b * (self.sequence_s + self.sequence_draft_s * k))

    def sampling_s(self, sequences: ArrayLike, drafted: ArrayLike, vocab: int) -> Floats:
        """Seconds a round that grow with the vocabulary: sampling each drafted token, the rejection, the last token."""
        b, k = np.asarray(sequences, dtype=np.float64), np.asarray(drafted, dtype=np.float64)
        return np.asarray(b * vocab * (self.entry_s + self.draft_entry_s * k))

    def engine(self) -> Engine:
        """Eager PyTorch's rules with this host: nothing captured, nothing padded."""
        source = "measured on this machine"
        return Engine(
            name="torch",
            version="",
            block_size=16,
            graph_sizes=(),
            graph_unit="tokens",
            mixed="eager",
            rules_source="eager execution: no captured graphs",
            schedule=HostCost(self.round_s + self.pass_s, self.sequence_s, 0.8, 1.25, source),
            sampling=HostCost(0.0, 0.0, 1.0, 1.0, source),
            launch_s=self.launch_s,
            launch_source=source,
        )
