"""What the machine is: CUDA or CPU, its memory and caches, what can be told of its clocks, and versions."""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from specsim.errors import InputError

SHIPPED = (
    ("H100 80GB HBM3", "h100_sxm"),
    ("H200", "h200_sxm"),
    ("A100-SXM4-80GB", "a100_sxm"),
    ("B200", "b200_sxm"),
    ("L40S", "l40s"),
)
"""What drivers call the GPUs whose datasheets ship (part of the name): H100 PCIe and NVL are others."""


@dataclass(frozen=True)
class Device:
    """A device that kernels run on; ``identity`` is what must be equal for samples to belong together."""

    kind: str
    name: str
    memory_bytes: int
    cache_bytes: int
    multiprocessors: int
    threads: int
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def identity(self) -> dict[str, Any]:
        """Everything that a kernel's time depends on, as plain values."""
        return asdict(self)

    @property
    def shipped(self) -> str | None:
        """The name under which this GPU's datasheet ships, or None."""
        if self.kind != "cuda":
            return None
        return next((name for part, name in SHIPPED if part in self.name), None)


def torch_or_error() -> Any:
    """The torch module; InputError with the remedy where it isn't installed."""
    try:
        import torch
    except ImportError:
        raise InputError("calibration needs PyTorch: pip install 'llm-specsim[calibrate]'") from None
    return torch


def detect(wanted: str = "auto", *, threads: int | None = None) -> Device:
    """The device ``wanted`` ("auto", "cuda" or "cpu"); InputError where there is no CUDA.

    threads: on a CPU, of PyTorch's (default: the processors that this process may use).
    """
    torch = torch_or_error()
    if wanted not in ("auto", "cuda", "cpu"):
        raise InputError(f"{wanted!r} is not a device; give auto, cuda or cpu", field="--device")
    if wanted == "cuda" and not torch.cuda.is_available():
        raise InputError("PyTorch sees no CUDA device here; give --device cpu, or install a CUDA build of torch")
    versions = {"torch": torch.__version__, "python": platform.python_version()}
    if wanted != "cpu" and torch.cuda.is_available():
        p = torch.cuda.get_device_properties(0)
        versions |= {"cuda": str(torch.version.cuda), "cudnn": str(torch.backends.cudnn.version())}
        versions["driver"] = _smi("driver_version") or "unknown"
        cache = int(getattr(p, "L2_cache_size", 0)) or 50 << 20
        return Device("cuda", p.name, int(p.total_memory), cache, int(p.multi_processor_count), 0, versions)
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))
    count = len(allowed) if threads is None else threads
    if not 1 <= count <= len(allowed):
        raise InputError(f"{count} threads: this process may use 1 to {len(allowed)} processors", field="--threads")
    versions["capability"] = str(torch.backends.cpu.get_cpu_capability())
    return Device("cpu", _processor(), _memory(), _last_level_cache(), count, count, versions)


@contextmanager
def pinned(device: Device) -> Iterator[None]:
    """On a CPU: the device's number of threads, on as many processors, until the block ends."""
    if device.kind != "cpu":
        yield
        return
    import torch

    before, allowed = torch.get_num_threads(), None
    torch.set_num_threads(device.threads)
    if hasattr(os, "sched_setaffinity"):
        allowed = os.sched_getaffinity(0)
        os.sched_setaffinity(0, sorted(allowed)[-device.threads :])
    try:
        yield
    finally:
        torch.set_num_threads(before)
        if allowed is not None:
            os.sched_setaffinity(0, allowed)


def clocks(device: Device) -> dict[str, str]:
    """What the device says of its clocks now, as text by name; empty where it says nothing."""
    if device.kind == "cuda":
        fields = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")
        found = dict(zip(fields, _smi(",".join(fields)).split(", "), strict=False))
        # Drivers of 2023 renamed it, and one unknown field fails a whole query.
        found["throttled"] = _smi("clocks_event_reasons.active") or _smi("clocks_throttle_reasons.active")
        return {name: value for name, value in found.items() if value}
    out = {"load": f"{os.getloadavg()[0]:.2f}"} if hasattr(os, "getloadavg") else {}
    for line in _lines(Path("/proc/cpuinfo")):
        if line.startswith("cpu MHz"):
            return out | {"cpu_mhz": line.partition(":")[2].strip()}
    return out


def free_bytes(device: Device) -> int:
    """Memory that is free now."""
    if device.kind == "cuda":
        import torch

        held = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()  # kept by PyTorch for what comes next
        return int(torch.cuda.mem_get_info()[0]) + int(held)
    for line in _lines(Path("/proc/meminfo")):
        if line.startswith("MemAvailable"):
            return int(line.split()[1]) * 1024
    return device.memory_bytes // 2


def _smi(fields: str) -> str:
    command = ["nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader", "--id=0"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def _processor() -> str:
    found = [line.partition(":")[2].strip() for line in _lines(Path("/proc/cpuinfo")) if line.startswith("model name")]
    return found[0] if found else platform.processor() or platform.machine()


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 8 << 30


def _last_level_cache() -> int:
    sizes = [32 << 20]  # where the system doesn't say: larger than most, so that rotation still leaves it
    for path in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = "".join(_lines(path)).strip()
        if text.endswith("K"):
            sizes.append(int(text[:-1]) << 10)
    return max(sizes)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []
