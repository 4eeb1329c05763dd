"""``python3 -m calibration.gpu --out FOLDER``: everything one GPU must be asked, most valuable first, in 9 minutes."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

import torch

from calibration.gpu.models import LiveGrid, build, layers_of, measure_live, measure_steps
from calibration.gpu.plan import LAYOUTS, Layout, Surface, around, prefills, products
from calibration.gpu.session import Session
from calibration.measure.company import Company
from calibration.measure.device import detect, pinned
from calibration.measure.kernels import Workshop
from calibration.measure.points import TINY, Grid
from specsim.cost.model import load_model
from specsim.cost.model_shape import ModelShape

DTYPES = {"cuda": (torch.bfloat16, "bf16"), "cpu": (torch.float32, "fp32")}
FLEX_S = 90.0
"""Seconds that compiling FlexAttention may take, at the very end."""


def main(arguments: list[str] | None = None) -> int:
    """Measure what the arguments ask for; 2 where the device is not there."""
    parser = argparse.ArgumentParser(prog="calibration/run_gpu.sh", description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="folder for at most 8 files of at most 16 MB")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true", help="the same parts at sizes that take seconds")
    parser.add_argument("--seconds", type=float, default=505.0, help="stop measuring after this time")
    asked = parser.parse_args(arguments)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("error: no CUDA device here; --device cpu --tiny tries the script out", file=sys.stderr)
        return 2
    if asked.device == "cpu" and not asked.tiny:
        print("error: --device cpu: models of a GPU's size don't fit here; add --tiny", file=sys.stderr)
        return 2
    found = detect(asked.device, threads=None if asked.device == "cuda" else 1)
    dtype, name = DTYPES[found.kind]
    beside = Company(2.0 * found.cache_bytes if found.kind == "cuda" else 1.0, 1.0)
    session = Session(found, Workshop(found, dtype, lambda _: beside), asked.out, repeats=2 if asked.tiny else 7)
    date = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    session.machine = {"tiny": asked.tiny, "device": found.identity, "dtype": name, "date": date}
    session.note(f"{found.name}, torch {torch.__version__}")
    with torch.no_grad(), pinned(found):
        (tiny if asked.tiny else full)(session, name, asked.seconds)
    session.machine["seconds"] = round(session.elapsed_s, 1)
    session.note("done")
    session.save()
    return 0


def full(session: Session, dtype: str, seconds: float) -> None:
    """The whole plan; each part has a share of the time, and what one leaves the next may use."""
    big, small = load_model("meta-llama/Llama-3.1-8B"), load_model("meta-llama/Llama-3.2-1B")
    huge, least = load_model("meta-llama/Llama-3.1-70B"), load_model("Qwen/Qwen3-0.6B")
    head, surface, grid = layers_of(big, 1), Surface(), Grid()
    share = seconds / 505.0
    with session.part("verify surface, first layout"):
        session.measure(surface.points(LAYOUTS[:1]), 80 * share)
    with session.part("products"):
        session.measure(products(((big, 1), (small, 1), (huge, 4), (least, 1)), dtype, grid), 150 * share)
    with session.part("whole passes"):
        # Passes of q tokens, and decoding passes both of as many sequences and of as many tokens.
        steps = [(n, q, 1024) for q in (1, 4) for n in (1, 4, 16, 64)] + [(256, 1, 1024)]
        steps += [(n, q, 8192) for q in (1, 4, 2, 8) for n in (32, 8, 16)] + [(128, 1, 1024), (128, 2, 1024)]
        measure_steps(session, big, steps, 190 * share)
    with session.part("drafting passes"):
        for shape in (head, layers_of(big, 2), layers_of(big, 4), small, least):
            measure_steps(session, shape, [(n, q, 1024) for q in (1, 2) for n in (1, 4, 16, 64)], 220 * share)
    with session.part("live engine"):
        target = build(session, big)
        for number, draft in enumerate((small, head)):
            drafter = build(session, draft)
            live = LiveGrid((1, 16, 64, 4, 8, 32), (1024, 4096), (0, 1, 2, 3, 4, 6, 8), rounds=16, repeats=2)
            measure_live(session, target, drafter, live, (300 + 85 * number) * share)
            del drafter
        del target
    with session.part("sampling, host and small work"):
        session.measure(around(big, dtype, grid), 415 * share)
    with session.part("prefill attention"):
        session.measure(prefills(LAYOUTS[:4]), 425 * share)
    with session.part("verify surface, other layouts"):
        session.measure(surface.points(LAYOUTS[1:]), 470 * share)
    with session.part("flex attention"):  # compiles: last
        session.workshop.flex_s = FLEX_S
        coarse = ((1, 5, 16), (1, 16, 64), (1024, 4096, 16384))
        flexed = Surface(*coarse, coarse=((5, 1), (1, 16), (4096,)))
        session.measure(flexed.points(LAYOUTS[:1]), 500 * share, variants=("flex",))


def tiny(session: Session, dtype: str, seconds: float) -> None:
    """Every part but the compiled one at sizes that take seconds on a CPU."""
    shape = ModelShape("tiny", 2, 64, heads=4, kv_heads=2, head_dim=16, vocab=256, intermediate=96)
    layout = Layout("tiny", 4, 2, 16)
    with session.part("verify surface"):
        session.measure(Surface((1, 3), (1, 2), (32, 64), ((1,), (1,), (32,)), 1000).points([layout]), seconds)
    with session.part("products"):
        session.measure(products(((shape, 1),), dtype, TINY), seconds)
    with session.part("whole passes"):
        measure_steps(session, shape, [(1, 1, 16), (2, 2, 16), (4, 1, 16)], seconds)
        measure_steps(session, layers_of(shape, 1), [(1, 1, 16)], seconds)
    with session.part("live engine"):
        target, drafter = build(session, shape), build(session, layers_of(shape, 1))
        measure_live(session, target, drafter, LiveGrid((1, 2), (16,), (0, 2), rounds=3, repeats=1), seconds)
    with session.part("sampling, host and small work"):
        session.measure(around(shape, dtype, TINY), seconds)
    with session.part("prefill attention"):
        session.measure(prefills([layout], TINY.prompts), seconds)


if __name__ == "__main__":
    sys.exit(main())
