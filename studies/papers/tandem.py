"""Tandem transformers: standalone speed and the learned stop, from printed inputs alone."""

from __future__ import annotations

import numpy as np

from specsim.systems import tandem
from specsim.systems.reproduction import Check, Given, Reproduction


def reproduce() -> Reproduction:
    stopped = tandem.simulate(np.random.default_rng(0))
    runs = stopped.result
    seconds = tandem.run_seconds(runs.rounds.sum(), runs.drafted.sum(), tandem.SMALL_OVER_LARGE)
    return Reproduction(
        "tandem",
        "two ratios, nothing fitted",
        tandem.rows(),
        (
            Check(
                "simulated runs take the time that their counts say",
                f"{runs.duration_s:.1f} and {seconds:.1f} large steps",
                abs(runs.duration_s / seconds - 1) < 1e-9,
            ),
        ),
        (
            Given("speed of the small model", "6.40 times the large one's", "published", "TPUv5e, decode"),
            Given("runs of both models on LM1B", "51.53 + 360.73, 54.67 + 271.63", "published", "Table 5"),
            Given("block of the standalone figure", "3", "assumed", "2.75 is printed without it"),
        ),
        ("Table 1's TV must not be fed into the closed form: run counts imply an acceptance of .90, 1 - TV is .859.",),
    )
