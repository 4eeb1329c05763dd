"""The round program against the engine that it describes."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from calibration.live.engine import decode  # noqa: E402
from calibration.live.micro import Idle  # noqa: E402
from calibration.live.program import live_round  # noqa: E402
from specsim.cost.shapes import StepShape, StepTime, Term  # noqa: E402
from specsim.simulation.program import Batch  # noqa: E402


class Recorded(Idle):
    """An idle model that writes down its passes: sequences, tokens each, rows of laws, span."""

    def laws(self, tokens: torch.Tensor, start: torch.Tensor, *, span: int, rows: str = "all") -> torch.Tensor:
        self.__dict__.setdefault("seen", Counter())[*tokens.shape, 1 if rows == "last" else tokens.shape[1], span] += 1
        return super().laws(tokens, start, span=span, rows=rows)


def one_second(_: StepShape) -> StepTime:
    return StepTime({"pass": Term(np.asarray(1.0), "pass", np.asarray(0, dtype=np.int8))})


@pytest.mark.parametrize("k", [0, 1, 2, 5])
def test_the_program_has_the_passes_that_the_engine_executes(k: int) -> None:
    """First round of equal sequences: same tokens, same rows of laws, same span, as often."""
    batch, context = 3, 20
    target, draft = Recorded(30, 4), Recorded(30, 4)
    prompts = np.ones((batch, context), dtype=np.int64)
    decode(target, draft, prompts, k=k, rounds=1, rng=np.random.default_rng(0), prefill="assume")
    prices = dict.fromkeys(("decode", "verify", "draft_first", "draft", "host"), one_second)
    program = live_round(k, **prices)
    planned: dict[str, Counter[tuple[float, ...]]] = {"target": Counter(), "drafter": Counter()}
    for each in program.passes:
        (segment,) = each.shape(Batch(batch, batch * context)).segments
        tokens, rows = (float(x) / batch for x in (segment.query_tokens, segment.logit_rows))
        planned[each.model][float(segment.sequences), tokens, rows, float(segment.kv_max)] += each.repeats
    assert planned["target"] == target.seen
    assert planned["drafter"] == getattr(draft, "seen", Counter())
    assert program.seconds(Batch(batch, batch * context)) == pytest.approx(k + 1 + 1)


def test_sequences_of_unequal_length_attend_to_the_longest() -> None:
    program = live_round(2, **dict.fromkeys(("decode", "verify", "draft_first", "draft", "host"), one_second))
    for each in program.passes:
        (segment,) = each.shape(Batch(2, 300, kv_max=200)).segments
        assert float(segment.kv_max) == 203
        assert float(segment.kv_tokens) == 300
