"""Systems of several models, composed on a small scenario and run."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from specsim.planning.comparison import compose
from specsim.planning.deployment import deploy
from specsim.planning.setting import Setting
from specsim.scenario import Scenario
from specsim.simulation.workload import Requests
from specsim.systems.catalogue import system

RATE, LOWER = 0.7, 0.6
RANKS = [0.62, 0.12, 0.05, 0.03]
NUMBERS = {
    "bild": {"correlation": 0.0, "fallback": 0.2, "tolerated": 0.5},
    "adasd": {"correlation": 0.0, "distance_correlation": 0.5},
    "tandem": {"correlation": 0.5},
    "magicdec": {"acceptance_rate": RATE},
    "specformer": {"tokens_per_round": 1.75},
    "hsd": {"lower_rate": LOWER},
    "pyramid-sd": {"qualifier_rate": 0.8, "target_rate": 0.95},
    "staged": {"agreement": 0.6},
    "metasd": {},
    "bias-mitigation": {},
}


def drafter(method="draft_model", rate=RATE, **more):
    model = {"model": "meta-llama/Llama-3.2-1B"} if method == "draft_model" else {}
    acceptance = {"rate": rate, **({"by_rank": RANKS} if method == "draft_model" else {})}
    return {"method": method, **model, "num_speculative_tokens": [3], "acceptance": acceptance, **more}


def deployed(*drafters, prompt=200, **changes):
    return deploy(Scenario.from_dict({
        "target": {"model": "meta-llama/Llama-3.1-8B", "hardware": "h100_sxm"},
        "drafter": list(drafters or (drafter(), drafter("eagle3"), drafter("ngram", 0.3))),
        "workload": {
            "arrivals": {"kind": "closed", "concurrency": 4},
            "prompt_tokens": {"kind": "fixed", "tokens": prompt},
            "output_tokens": {"kind": "fixed", "tokens": 101},
        },
        "serving": {"max_num_seqs": 8},
        "simulation": {"requests": 40},
        **changes,
    }))  # fmt: skip


DEPLOYED = deployed()


def composed(name, deployment=DEPLOYED, **numbers):
    """The system with these numbers of its own; what it is run with is what the scenario would give."""
    scenario = replace(deployment.scenario, systems={name: {**NUMBERS[name], **numbers}})
    return compose(system(name), replace(deployment, scenario=scenario))[0]


def run(made, *, requests=20, output=2001, prompt=200, users=4, seed=0):
    load = Requests(np.zeros(requests), np.full(requests, prompt), np.full(requests, output), users)
    return made.run(load, np.random.default_rng(seed))


def setting(deployment=DEPLOYED):
    return Setting(deployment)
