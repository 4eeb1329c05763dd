"""What a sampler does with rows that are no laws: it may refuse them, but must not answer with tokens that don't exist.

Not part of the default check: on a GPU such rows can break the process's device for good.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from specsim.verification.batched import Floats
from specsim.verification.claim import Trial
from specsim.verification.guarded import Batch, Guarded, SamplerFault
from specsim.verification.verdict import Finding


def hostile_findings(trial: Trial, sampler: Guarded, rng: np.random.Generator) -> Iterator[Finding]:
    """Findings where rows of NaN, negative, infinite, empty or unnormalised numbers give impossible answers.

    A sampler that raises is safe. Raises SamplerFault where its time is up.
    """
    for group in trial.groups:
        _, batch = group.draw(np.full(len(group.cases), 20), rng, declared=trial.claim.declares_drafts)
        for name, spoilt in _spoilt(batch):
            try:
                sampler(spoilt, rng)
            except SamplerFault as fault:
                if fault.finding.name == "time_budget":
                    raise SamplerFault(Finding("time_budget", f"{name}: {fault.finding.line}", "stops")) from None
                if fault.finding.name == "mutates_inputs":
                    raise
                if fault.finding.name != "raises":
                    yield Finding(f"unsafe_on_{name}_rows", f"{fault.finding.name}: {fault.finding.line}")


def _spoilt(batch: Batch) -> Iterator[tuple[str, Batch]]:
    def with_target(rows: Floats) -> Batch:
        target = batch.target.copy()
        target[::2] = rows[::2]
        return Batch(target, batch.draft, batch.tokens)

    p = batch.target
    yield "nan", with_target(np.full_like(p, np.nan))
    yield "negative", with_target(-p)
    yield "infinite", with_target(np.where(p > 0, np.inf, 0.0))
    yield "empty", with_target(np.zeros_like(p))
    yield "unnormalised", with_target(0.5 * p)
    if batch.draft is not None and batch.draft.size:
        draft = batch.draft.copy()
        draft[::2] = np.nan
        yield "nan_draft", Batch(batch.target, draft, batch.tokens)
