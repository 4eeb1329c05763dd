"""SLED's capacity with and without deadlines: the same system gains or loses by how it forms batches."""

from __future__ import annotations

import numpy as np

from specsim.systems import sled
from specsim.systems.reproduction import Check, Given, Reproduction, Row

FULL, SOME, DEADLINE_S = 128, 24, 0.07
"""Devices that keep the server busy; devices that leave it room; a deadline of about two verifications."""


def reproduce() -> Reproduction:
    rows = []
    plain = _run(FULL, speculative=False)
    full = {mode: _run(FULL, mode=mode) for mode in ("static", "eager")}
    for mode, made in full.items():
        law = made.tokens_a_round * plain.batch_s / made.batch_s
        ours = made.tokens_per_s / plain.tokens_per_s
        rows.append(Row(f"no deadlines, {mode}: capacity over centralised, E t_AR / t_verify", law, ours, 0.05, "law"))
    capacity = full["static"].tokens_per_s / plain.tokens_per_s
    rows.append(Row("no deadlines: capacity over centralised", 2.8, capacity))
    rows.append(Row("tokens a round", None, full["static"].tokens_a_round))
    rows.append(Row("a verification over a decode step", None, full["static"].batch_s / plain.batch_s))
    central = _run(SOME, speculative=False, mode="eager", deadline_s=DEADLINE_S)
    under = {mode: _run(SOME, mode=mode, deadline_s=DEADLINE_S) for mode in ("static", "eager", "deadline")}
    ratio = {mode: made.tokens_per_s / central.tokens_per_s for mode, made in under.items()}
    for mode, made in under.items():
        rows.append(Row(f"70 ms deadline, {SOME} devices, {mode}: in time over centralised", None, ratio[mode]))
        rows.append(Row(f"70 ms deadline, {SOME} devices, {mode}: replies late, %", None, 100 * made.late_share))
    rows.append(
        Row("goodput under deadlines, static over centralised (by a later work's two maxima)", 0.52, ratio["static"])
    )
    lossy = _run(SOME, mode="deadline", deadline_s=DEADLINE_S, loss=0.05)
    checks = (
        Check("without deadlines speculation gains, 2.6 to 2.9 times", f"{capacity:.2f}", 2.6 <= capacity <= 2.9),
        Check("with deadlines and static batches it loses", f"{ratio['static']:.2f}", ratio["static"] < 1),
        Check(
            "batching by deadline restores the gain (so does starting at once, here)",
            f"{ratio['deadline']:.2f}",
            ratio["deadline"] > 1,
        ),
        Check(
            "late and lost replies are survived",
            f"{lossy.lost} lost, {100 * lossy.late_share:.0f} % late, {lossy.tokens_per_s:.0f} tokens/s",
            lossy.lost > 0 and lossy.late_share > 0 and lossy.tokens_per_s > 0.5 * under["deadline"].tokens_per_s,
        ),
    )
    return Reproduction(
        "sled",
        "capacity of an edge server, without and with deadlines",
        tuple(rows),
        checks,
        (
            Given("2.8 times the capacity", "-", "published", "abstract"),
            Given("0.51 and 0.52 under deadlines", "-", "derived", "two maxima of WISP (2601.11652) divided"),
            Given("models, times, links, threshold, batch", "-", "assumed", "none is published"),
            Given(
                "acceptance",
                "0.7, about three tokens a round",
                "assumed",
                "chosen so that the published gain is possible",
            ),
        ),
        ("The absolute figures cannot be rerun: what is tested is the law and the change of sign.",),
    )


def _run(devices: int, **changes: object) -> sled.Served:
    return sled.simulate(np.random.default_rng(5), devices=devices, **changes)  # type: ignore[arg-type]
