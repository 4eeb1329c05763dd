"""Where decentralised speculation gains: the paper's idealisation, honest costs, and links of a data centre."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np

from specsim.systems import decentralized
from specsim.systems.reproduction import Check, Given, Reproduction, Row
from specsim.theory.iid import leviathan_speedup
from specsim.theory.tokens import expected_tokens_iid

CASES = ((3, 3.0, 0.66), (4, 5.0, 0.66), (8, 10.0, 0.66), (4, 5.0, 0.8))
"""Nodes, link over step, acceptance."""

TOKENS = 120_000


def reproduce() -> Reproduction:
    rows = []
    for nodes, link, alpha in CASES:
        k = float(expected_tokens_iid(alpha, 8))
        # The idealisation: drafting is free, and a round computes as long as its k tokens would one by one.
        ideal = _speedup(alpha=alpha, nodes=nodes, link_s=link, verify_s=k, draft_s=0.0)
        law = decentralized.speedup(k, (nodes - 1) * link)
        rows.append(
            Row(f"idealised, N = {nodes}, link {link:g} steps, {k:.2f} tokens a round", law, ideal, 0.01, "law")
        )
        honest = _speedup(alpha=alpha, nodes=nodes, link_s=link)
        exact = k * (1 + (nodes - 1) * link) / (1.0 + 8 * 0.05 + (nodes - 1) * link)
        rows.append(Row("the same with a flat verification and a drafter that takes time", exact, honest, 0.01, "law"))
    fast = _speedup(alpha=0.614, nodes=4, link_s=2e-4)
    plain = float(leviathan_speedup(0.614, 8, 0.05))
    rows.append(Row("N = 4, links of 2e-4 steps: ordinary speculation", plain, fast, 0.01, "law"))
    free = _speedup(alpha=0.614, nodes=4, link_s=2e-4, draft_s=0.0)
    rows.append(Row("HumanEval, alpha 0.614, free drafts: speedup (alpha solved from it)", 2.56, free, 0.02))
    law = decentralized.speedup(float(expected_tokens_iid(0.614, 8)), 3 * 2e-4)
    slow = [_speedup(alpha=0.66, nodes=4, link_s=link, verify_s=2.84, draft_s=0.0) for link in (0.5, 5, 50, 500)]
    checks = (
        Check(
            "the gain rises with the link and tends to the tokens a round",
            ", ".join(f"{s:.2f}" for s in slow),
            all(b > a for a, b in pairwise(slow)) and abs(slow[-1] / 2.87 - 1) < 0.03,
        ),
        Check("on links of a data centre the paper's own formula gives no gain", f"{law:.3f}", law < 1.01),
    )
    return Reproduction(
        "decentralized",
        "the closed form, and where its gain comes from",
        tuple(rows),
        checks,
        (
            Given("gamma", "8", "published", "the vendor's article"),
            Given("nodes, links, acceptance", "a grid", "assumed", "N, t0, t1 and k are not published"),
            Given("alpha 0.614", "one row", "fitted", "solved from 2.56 with free drafts: calibration"),
            Given("drafting step", "0.05 steps", "assumed", "-"),
        ),
        (
            (
                "The test bed is reported to have InfiniBand-class links (microseconds against a shard's milliseconds):"
                " there the formula gives no gain, and a speedup of 2.56 is ordinary speculative decoding."
            ),
        ),
    )


def _speedup(**case: Any) -> float:
    fast = decentralized.simulate(np.random.default_rng(3), tokens=TOKENS, **case)
    plain = decentralized.simulate(np.random.default_rng(3), gamma=0, tokens=200, **_plain(case))
    return fast.tokens_per_s / plain.tokens_per_s


def _plain(case: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in case.items() if name in ("nodes", "link_s")}
