"""SpecFormer: throughput from the floor of plain rows, and where a roofline would end the gain."""

from __future__ import annotations

from specsim.systems import specformer
from specsim.systems.reproduction import Check, Given, Reproduction, Row


def reproduce() -> Reproduction:
    chip = specformer.Chip(specformer.A100_FLOPS, specformer.A100_BANDWIDTH)
    rows, checks = list(specformer.rows()), []
    rows.append(Row("A100: FLOPs over bytes", 152.86, chip.ratio, 0.001))
    for k in (2, 4, 8):
        gains = {
            b: specformer.roofline_speedup(8e9, batch=b, k=k, tokens_per_step=1.8, chip=chip) for b in range(1, 512)
        }
        last = max(b for b, g in gains.items() if g > 1.8 - 1e-9)
        crossover = chip.ratio / (k + 1)
        gone = gains[511]
        checks.append(
            Check(
                f"roofline, k = {k}: whole gain up to batch 153 / (k + 1), none at 511",
                f"whole up to {last} ({crossover:.1f}), {gone:.2f} at 511",
                abs(last - crossover) <= 1 and gone < 1,
            )
        )
    return Reproduction(
        "specformer",
        "few tokens, large batches",
        tuple(rows),
        tuple(checks),
        (
            Given("plain tokens/s, tokens per step, theta at batch 1", "Tables 1 and 3", "published", "paper"),
            Given("host floor", "the plain rows' step", "fitted", "to rows without speculation only"),
            Given("theta of Table 1", "1.235", "derived", "its batch 1 row"),
            Given("tokens per step at batch 128", "those of batch 64", "assumed", "not printed"),
        ),
        (
            (
                "theta, the relative step with speculation, is itself measured on a speculative run at batch 1; "
                "batches 16 to 128 are predicted. The steps barely grow with the batch: the stack is host-bound, "
                "and its GPU is not stated."
            ),
        ),
    )
