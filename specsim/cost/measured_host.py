"""The host's work around passes where it was measured: eager PyTorch, a round of draft, verify, reject, commit."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from specsim.cost.engine import Engine, HostCost
from specsim.cost.shapes import Floats


@dataclass(frozen=True)
class MeasuredHost:
    """Seconds of a round around its passes, in drafted tokens K, sequences B and vocabulary V; fitted, at least 0.

    Bookkeeping is ``round_s + draft_s K + sequence_s B + sequence_draft_s B K``, and ``speculate_s`` where K > 0.
    Drawing K tokens and one more is ``draw_s + draw_draft_s K + entry_s B V + draft_entry_s B K V``, and rejecting
    ``reject_s`` where K > 0. A pass adds ``pass_s + pass_row_s R + score_s E`` of embedding, positions, mask and last
    norm (R query tokens; E scores that are masked, R times the span, once and for each head of a group), and a softmax
    of its L rows of logits, ``softmax_s + softmax_entry_s L V``.
    launch_s: host time of an eager operation where a device runs behind the host; 0 on a CPU, where it is part of
    every kernel's own time.
    """

    round_s: float
    speculate_s: float
    draft_s: float
    sequence_s: float
    sequence_draft_s: float
    draw_s: float
    reject_s: float
    draw_draft_s: float
    entry_s: float
    draft_entry_s: float
    softmax_s: float
    softmax_entry_s: float
    pass_s: float
    pass_row_s: float
    score_s: float
    launch_s: float

    def host_s(self, sequences: ArrayLike, drafted: ArrayLike) -> Floats:
        """Seconds of bookkeeping a round; ``drafted`` tokens a sequence."""
        b, k = np.asarray(sequences, dtype=np.float64), np.asarray(drafted, dtype=np.float64)
        each = b * (self.sequence_s + self.sequence_draft_s * k)
        return np.asarray(self.round_s + self.speculate_s * (k > 0.0) + self.draft_s * k + each)

    def drawing_s(self, sequences: ArrayLike, drafted: ArrayLike, vocab: int) -> Floats:
        """Seconds a round of drawing each drafted token, rejecting, and drawing the last one."""
        b, k = np.asarray(sequences, dtype=np.float64), np.asarray(drafted, dtype=np.float64)
        entries = b * vocab * (self.entry_s + self.draft_entry_s * k)
        return np.asarray(self.draw_s + self.reject_s * (k > 0.0) + self.draw_draft_s * k + entries)

    def around_pass_s(self, query_tokens: ArrayLike, scores: ArrayLike) -> Floats:
        """Seconds around the layers of one pass: before the first and after the last."""
        rows, entries = np.asarray(query_tokens, dtype=np.float64), np.asarray(scores, dtype=np.float64)
        return np.asarray(self.pass_s + self.pass_row_s * rows + self.score_s * entries)

    def softmax_of_s(self, logit_rows: ArrayLike, vocab: int) -> Floats:
        """Seconds in which rows of logits become laws."""
        rows = np.asarray(logit_rows, dtype=np.float64)
        return np.asarray(self.softmax_s + self.softmax_entry_s * rows * vocab)

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
            sampling=HostCost(self.draw_s + self.softmax_s, 0.0, 0.8, 1.25, source),
            launch_s=self.launch_s,
            launch_source=source,
        )
