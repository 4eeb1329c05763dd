"""Re-translation: three speedups from two constants, and exactness at bias 0."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from specsim.systems import ssbd
from specsim.systems.reproduction import Check, Given, Reproduction

VOCABULARY = 9


def _law(source: int) -> ssbd.NextLaw:
    """A toy translator: the end of the output changes when the source grows."""

    def law(written: Sequence[int]) -> ssbd.Floats:
        last = (*((-1, -1)), *written)[-2:]
        key = [source if len(written) > source - 3 else 0, last[0] + 1, last[1] + 1, len(written)]
        return np.asarray(np.random.default_rng(key).dirichlet(np.ones(VOCABULARY)))

    return law


def reproduce() -> Reproduction:
    same = kept = drafted = 0
    previous: tuple[int, ...] = ()
    for source in range(3, 33):
        law, length = _law(source), source + 2
        plain = ssbd.retranslate(law, (), bias=0.0, length=length).output
        made = ssbd.retranslate(law, previous, bias=0.0, length=length)
        same += made.output == plain
        kept, drafted, previous = kept + made.accepted, drafted + made.drafted, plain
    overhead, saveable = ssbd.fitted_law()
    return Reproduction(
        "ssbd",
        "the previous output as the draft",
        ssbd.rows(),
        (
            Check(
                "bias 0 writes what greedy decoding writes",
                f"{same} of 30 updates, {kept} of {drafted} drafted tokens reused",
                same == 30,
            ),
        ),
        (
            Given("accepted shares and speedups", "six rows", "published", "one transcription of version 2"),
            Given("overhead, saveable share", f"{overhead:.3f}, {saveable:.3f}", "fitted", "to beta 0, 0.2 and 0.5"),
        ),
        (
            (
                "Acceptance belongs to a model and a language pair: two others report failure on encoder-decoder "
                "translation, where a grown source changes the whole output."
            ),
        ),
    )
