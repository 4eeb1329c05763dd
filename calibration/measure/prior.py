"""A kernel's law from few points: efficiencies and knee are drawn to those of GPUs that were measured well."""

from __future__ import annotations

import numpy as np
from scipy.optimize import least_squares

from calibration.laws import law_at
from specsim.cost.law import Law
from specsim.cost.shapes import Floats

# ln(efficiency of bandwidth), ln(efficiency of arithmetic), ln(exponent - 1): mean and standard deviation over the
# products of the H100, H200, A100 and B200 profiles that ship (python -m calibration.measure.prior prints them; the
# deviations of the efficiencies doubled, since those four are of one maker).
MEAN = np.array([-0.22, -0.26, 0.18])
SD = np.array([0.09, 0.15, 0.6])
SEEN_SD = np.array([1.0, 1.0, 0.6])
"""Where the peaks are rates that were seen, not a datasheet's: efficiencies against them may be anything."""
NOISE = 0.08
"""Scatter of ln(time) around the law that a point is taken to have: half the law's median error, about its scale."""


def cautious_law(
    moved: Floats,
    flops: Floats,
    seconds: Floats,
    *,
    bandwidth: float,
    peak: float,
    blocks: Floats | None = None,
    mean: Floats = MEAN,
    sd: Floats = SD,
) -> Law:
    """The law of greatest posterior density (soft L1 errors), within the peaks in bytes/s and operations/s.

    With many points it is the plain fit; with few, what they don't tell comes from the prior ``mean`` and ``sd``.
    """
    pieces = np.zeros(seconds.size) if blocks is None else blocks
    target = np.log(seconds)

    def residual(x: Floats) -> Floats:
        law = law_at(x, bandwidth=bandwidth, peak=peak)
        left = (np.log(law.seconds(moved, flops, pieces)) - target) / NOISE
        robust = np.sign(left) * np.sqrt(2.0 * (np.sqrt(1.0 + left**2) - 1.0))
        return np.concatenate([robust, (x[1:4] - mean) / sd])

    low, high = [np.log(1e-9), np.log(0.02), np.log(0.02), -4.0], [np.log(1.0), 0.0, 0.0, np.log(9.0)]
    start = [float(np.log(0.5 * seconds.min())), *mean]
    if blocks is not None:
        low, high, start = [*low, np.log(1e-12)], [*high, np.log(1e-3)], [*start, np.log(1e-8)]
    start = np.clip(start, np.array(low) + 1e-6, np.array(high) - 1e-6).tolist()
    return law_at(least_squares(residual, start, bounds=(low, high)).x, bandwidth=bandwidth, peak=peak)


def main() -> None:
    """Print ln efficiencies and exponents of the shipped profiles' products, with mean and standard deviation."""
    from specsim.cost.law import ARITHMETIC
    from specsim.cost.profile import load_profile

    rows = []
    for gpu in ("h100_sxm", "h200_sxm", "a100_sxm", "b200_sxm"):
        for engine in ("vllm", "sglang", "trtllm"):
            profile = load_profile(gpu, engine=engine, dtype="bf16")
            law, hardware = profile.gemm["bf16"].law, profile.hardware
            rows.append(
                [
                    np.log(law.bandwidth_bytes_per_s / hardware.memory_bandwidth_bytes_per_s),
                    np.log(law.flops_per_s / hardware.peak(ARITHMETIC["bf16"])),
                    np.log(law.exponent - 1.0),
                ]
            )
            print(gpu, engine, *(f"{x:+.3f}" for x in rows[-1]))
    print("mean", np.mean(rows, axis=0), "sd", np.std(rows, axis=0, ddof=1))


if __name__ == "__main__":
    main()
