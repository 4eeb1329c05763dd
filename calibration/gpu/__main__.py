"""``python3 -m calibration.gpu --out FOLDER``: everything one GPU must be asked, most valuable first, in 9 minutes."""

from __future__ import annotations

import argparse
import platform
import subprocess
import sys
import time
from pathlib import Path

import torch

from calibration.gpu.attention import Layout, Surface, measure_flex, measure_prefill, measure_surface
from calibration.gpu.models import LiveGrid, build, measure_live, measure_steps, one_layer
from calibration.gpu.products import measure_products, measure_sampling, measure_small
from calibration.gpu.session import Session
from calibration.gpu.timing import Timer
from specsim.cost.model import load_model
from specsim.cost.model_shape import ModelShape

TOKENS = (*range(1, 18), 32, 33, 64, 65, 128, 129, 256, 257, 512, 1024)
LAYOUTS = (
    Layout("Llama-3.1-8B", 32, 8, 128),
    Layout("Llama-3.1-70B TP4", 16, 2, 128),
    Layout("Llama-3.2-1B", 32, 8, 64),
    Layout("Qwen3-0.6B", 16, 8, 128),
)
FULL = Surface(
    queries=(1, 2, 3, 4, 5, 6, 8, 9, 12, 16),
    batches=(1, 2, 4, 8, 16, 32, 64, 128),
    cached=(512, 1024, 2048, 4096, 8192, 16384, 32768),
    coarse=((1, 2, 4, 5, 8, 16), (1, 8, 32, 128), (512, 2048, 8192, 32768)),
    most_tokens=600_000,
)
SMALL = Surface((1, 3), (1, 2), (32,), ((1,), (1,), (32,)), 1000)


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
    torch.set_grad_enabled(False)
    if asked.device == "cpu":
        torch.set_num_threads(1)
    device = torch.device("cuda", torch.cuda.current_device()) if asked.device == "cuda" else torch.device("cpu")
    timer = Timer(device, samples=2, sample_s=0.0, most_calls=2) if asked.tiny else Timer(device)
    session = Session(timer, asked.out)
    session.machine = {"tiny": asked.tiny, "begin": describe(device)}
    session.note(f"{session.machine['begin'].get('name')}, torch {torch.__version__}")
    (tiny if asked.tiny else full)(session, asked.seconds)
    session.machine["end"] = describe(device)
    session.machine["seconds"] = round(session.elapsed_s, 1)
    session.note("done")
    session.save()
    return 0


def full(session: Session, seconds: float) -> None:
    """The whole plan; each part has a share of the time, and what one leaves the next may use."""
    big, small = load_model("meta-llama/Llama-3.1-8B"), load_model("meta-llama/Llama-3.2-1B")
    huge, least = load_model("meta-llama/Llama-3.1-70B"), load_model("Qwen/Qwen3-0.6B")
    head = one_layer(big)
    share = seconds / 505.0
    with session.part("verify surface, first layout"):
        measure_surface(session, FULL, LAYOUTS[:1], 80 * share)
    with session.part("products"):
        measure_products(session, ((big, 1), (small, 1), (huge, 4), (least, 1)), TOKENS, 150 * share)
    with session.part("whole passes"):
        steps = [(n, 1) for n in (1, 4, 16, 64, 128, 256)] + [(n, 4) for n in (1, 4, 16, 32, 64)]
        measure_steps(session, big, steps, 1024, 185 * share)
    with session.part("drafting passes"):
        for shape in (head, small, least):
            measure_steps(session, shape, [(n, q) for q in (1, 2) for n in (1, 4, 16, 64)], 1024, 215 * share)
    with session.part("live engine"):
        target = build(session, big)
        for number, draft in enumerate((small, head)):
            drafter = build(session, draft)
            grid = LiveGrid((1, 16, 64, 4, 8, 32), (1024, 4096), (0, 1, 2, 3, 4, 6, 8), rounds=16, repeats=2)
            measure_live(session, target, drafter, grid, (300 + 85 * number) * share)
            del drafter
        del target
    with session.part("sampling and small work"):
        measure_sampling(session, big.vocab, (1, 4, 16, 64), (0, 1, 4, 8), 405 * share)
        measure_small(session, big, (1, 4, 16, 64, 128, 256, 512, 1024), 415 * share)
    with session.part("prefill attention"):
        measure_prefill(session, LAYOUTS, (128, 512, 1024, 2048, 4096, 8192, 16384), 425 * share)
    with session.part("verify surface, other layouts"):
        measure_surface(session, FULL, LAYOUTS[1:], 480 * share)
    with session.part("flex attention"):  # compiles for each point: last
        points = [(1, 4096, 1), (1, 4096, 5), (16, 4096, 5), (1, 16384, 5), (64, 1024, 5)]
        measure_flex(session, LAYOUTS[0], points, 495 * share)


def tiny(session: Session, seconds: float) -> None:
    """Every part but the compiled one at sizes that take seconds on a CPU."""
    shape = ModelShape("tiny", 2, 64, heads=4, kv_heads=2, head_dim=16, vocab=256, intermediate=96)
    with session.part("verify surface"):
        measure_surface(session, SMALL, (Layout("tiny", 4, 2, 16),), seconds)
    with session.part("products"):
        measure_products(session, ((shape, 1),), (1, 2), seconds)
    with session.part("whole passes"):
        measure_steps(session, shape, [(1, 1), (2, 3)], 16, seconds)
    with session.part("live engine"):
        target, drafter = build(session, shape), build(session, one_layer(shape))
        measure_live(session, target, drafter, LiveGrid((1, 2), (16,), (0, 2), rounds=3, repeats=1), seconds)
    with session.part("sampling and small work"):
        measure_sampling(session, shape.vocab, (2,), (0, 2), seconds)
        measure_small(session, shape, (1, 2), seconds)
    with session.part("prefill attention"):
        measure_prefill(session, (Layout("tiny", 4, 2, 16),), (16,), seconds)


def describe(device: torch.device) -> dict[str, object]:
    """The device as it is now: name, driver, clocks, temperature, what else uses it, and versions."""
    out: dict[str, object] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "device": device.type,
        "name": platform.processor() or platform.machine(),
    }
    if device.type != "cuda":
        return out
    properties = torch.cuda.get_device_properties(device)
    out |= {
        "name": properties.name,
        "memory_bytes": properties.total_memory,
        "multiprocessors": properties.multi_processor_count,
        "last_level_cache_bytes": getattr(properties, "L2_cache_size", None),
        "cuda": torch.version.cuda,
        "cudnn": torch.backends.cudnn.version(),
        "memory_free_bytes": torch.cuda.mem_get_info(device)[0],
    }
    names = "driver_version,clocks.sm,clocks.mem,clocks.max.sm,temperature.gpu,power.draw,power.limit,utilization.gpu"
    try:
        asked = ["nvidia-smi", f"--query-gpu={names}", "--format=csv,noheader", f"--id={device.index}"]
        line = subprocess.run(asked, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
        out |= dict(zip(names.split(","), (part.strip() for part in line.split(",")), strict=False))
    except (OSError, subprocess.SubprocessError) as error:
        out["nvidia-smi"] = f"not read: {error}"
    return out


if __name__ == "__main__":
    sys.exit(main())
