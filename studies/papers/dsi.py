"""DSI's server rule against closed forms, how many targets it needs, and that it never loses to plain decoding."""

from __future__ import annotations

import numpy as np

from specsim.systems import dsi
from specsim.systems.reproduction import Check, Given, Reproduction, Row
from specsim.theory.iid import leviathan_speedup
from specsim.theory.structures import dsi_expected_seconds

POINTS = ((0.93, 0.33, 1), (0.8, 0.1, 5), (0.87, 0.67, 1), (0.6, 0.2, 2), (0.95, 0.05, 4))
"""alpha, draft over target time, lookahead."""

SLOW = ((0.3, 0.9, 1), (0.5, 0.6, 3), (0.1, 1.0, 4), (0.9, 0.8, 2))
"""Points where a block takes longer to draft than a target step."""

STRETCHES = 15_000
"""From one wrong token to the next; their number sets the Monte-Carlo error."""


def reproduce() -> Reproduction:
    rows = []
    for alpha, c, k in POINTS:
        need = dsi.servers_needed(k, draft_s=c, target_s=1.0)
        for compares in (False, True):
            made = dsi.simulate(
                np.random.default_rng(7),
                alpha=alpha,
                lookahead=k,
                draft_s=c,
                targets=need + 1,
                tokens=int(STRETCHES / (1 - alpha)),
                compares_bonus=compares,
            )
            law = dsi.seconds_per_token(alpha, k, draft_s=c, target_s=1.0, compares_bonus=compares)
            which = "with" if compares else "without"
            label = f"alpha {alpha}, c {c}, lookahead {k}, {which} the tasks' own next token"
            rows.append(Row(f"{label}: seconds a token", law, 1 / made.tokens_per_s, 0.01, "law"))
        serial = 1.0 / max(float(leviathan_speedup(alpha, g, c)) for g in range(1, 40))
        rows.append(Row(f"alpha {alpha}, c {c}: serial speculation over DSI", None, serial * made.tokens_per_s))
    checks = []
    for alpha, c, k in SLOW:
        made = dsi.simulate(np.random.default_rng(8), alpha=alpha, lookahead=k, draft_s=c, tokens=5_000)
        per_token = made.result.duration_s / 5_000
        checks.append(
            Check(
                f"never slower than plain decoding: alpha {alpha}, c {c}, lookahead {k}",
                f"{per_token:.3f} target steps a token",
                per_token <= 1 + 1e-9,
            )
        )
    theorem = dsi_expected_seconds(0.8, 1000, draft_s=0.2, target_s=1.0) / 1000
    law = dsi.seconds_per_token(0.8, 1, draft_s=0.2, target_s=1.0)
    checks.append(
        Check(
            "at lookahead 1 the law is the paper's theorem", f"{law:.4f} and {theorem:.4f}", abs(law - theorem) < 1e-3
        )
    )
    few = _per_token(targets=2)
    enough = _per_token(targets=dsi.servers_needed(2, draft_s=0.1, target_s=1.0) + 1)
    checks.append(
        Check(
            "fewer targets than ceil(t / (k c)) are slower", f"2: {few:.3f}, enough: {enough:.3f}", few > 1.02 * enough
        )
    )
    return Reproduction(
        "dsi",
        "the server rule",
        tuple(rows),
        tuple(checks),
        (
            Given("server rule", "a task every k drafts, cancelled on a mismatch", "published", "the authors' code"),
            Given("alpha, c, lookahead", "a grid", "assumed", "to test the law"),
            Given("cancelling", "free", "assumed", "-"),
        ),
        (
            (
                "Two readings: the authors' simulator does not compare a task's own next token with the next block's"
                " first; a server that does (the theorem's, at lookahead 1) is never slower. The paper's table gives no"
                " lookahead, so its rows are not rerun."
            ),
        ),
    )


def _per_token(*, targets: int) -> float:
    made = dsi.simulate(np.random.default_rng(9), alpha=0.95, lookahead=2, draft_s=0.1, targets=targets, tokens=20_000)
    return made.result.duration_s / 20_000
