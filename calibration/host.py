"""The host's share of a step, from a published breakdown of vLLM's time without speculation.

``python -m calibration.host`` prints the figures that ``specsim/cost/engines.toml`` quotes.
"""

from __future__ import annotations

import numpy as np

from specsim.cost.engine import load_engine
from specsim.cost.model import load_model
from specsim.cost.profile import load_profile
from specsim.cost.shapes import Floats, Segment, StepShape
from specsim.cost.step import StepCost

# arXiv 2601.11580, Fig. 4, bars "none": Llama-3.1-8B on one H100 80 GB, vLLM 0.10.1, no speculation; percent of the
# time by batch size, read off the vector figure to 0.1.
BATCHES = np.array([1.0, 64.0, 128.0, 512.0])
VERIFICATION_PCT = np.array([85.4, 89.3, 90.6, 92.2])
SAMPLING_PCT = np.array([0.6, 0.3, 0.2, 0.1])
OVERHEAD_PCT = np.array([13.9, 10.4, 9.2, 7.7])

CONTEXTS = (250.0, 500.0, 800.0)
"""Mean cached tokens a sequence; the figure gives none. 512 sequences of over 800 don't fit that GPU's cache (about
410,000 tokens), and the questions answered (GSM8K, ShareGPT and the like) with their answers are hardly below 250."""


def kernels_s(context: float) -> Floats:
    """Seconds of the pass at each batch size, from the shipped profile."""
    profile = load_profile("h100_sxm", engine="vllm", dtype="bf16")
    forward = load_model("meta-llama/Llama-3.1-8B-Instruct").forward()
    n = BATCHES
    step = StepCost(forward, profile, load_engine("vllm")).cost(
        StepShape((Segment("decode", n, n, n * context, n),), mode="graph")
    )
    return step.total_s


def host_s(context: float) -> tuple[Floats, Floats]:
    """Seconds of overhead and of sampling at each batch size: their shares of the step that the kernels imply."""
    step = kernels_s(context) / (VERIFICATION_PCT / 100.0)
    return step * OVERHEAD_PCT / 100.0, step * SAMPLING_PCT / 100.0


def host_law(context: float) -> tuple[float, float]:
    """Least-squares seconds a step and a sequence of the overhead."""
    overhead, _ = host_s(context)
    slope, constant = np.polyfit(BATCHES, overhead, 1)
    return float(constant), float(slope)


def main() -> None:
    """Print overhead and sampling by context and batch size, and the line through them."""
    for context in CONTEXTS:
        overhead, sampling = host_s(context)
        constant, slope = host_law(context)
        print(f"context {context:.0f}: step {constant * 1e3:.3f} ms + {slope * 1e6:.2f} us a sequence")
        for n, o, s in zip(BATCHES, overhead, sampling, strict=True):
            print(f"  batch {n:3.0f}: overhead {o * 1e3:.3f} ms, sampling {s * 1e6:.0f} us")


if __name__ == "__main__":
    main()
