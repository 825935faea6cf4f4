"""Peak memory by the kernel's and the driver's own counters: nothing is sampled."""

from __future__ import annotations

import math
import resource
import sys
from pathlib import Path

import torch

GIB = 2**30


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far in GiB: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    try:
        return _kilobytes("/proc/self/status", "VmHWM") * 1024 / GIB
    except (OSError, KeyError):
        # On Linux this counts the memory of the process that started this one, too.
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB


def available_memory_gib(device: torch.device) -> float | None:
    """Memory in GiB that this process can still take; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GIB
    try:
        available = _kilobytes("/proc/meminfo", "MemAvailable") * 1024
    except (OSError, KeyError):
        return None
    return min(available, bytes_left_in_container()) / GIB


def ran_out(error: BaseException) -> bool:
    """Whether there was no memory for what failed: a GPU's, or the machine's, for which PyTorch has
    no error of its own."""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    )


def bytes_left_in_container(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """What a container's limit leaves, which the machine's own figure knows nothing of.

    Pages of files do not count as taken, for they are given back when memory is wanted. Infinite
    where there is no limit.
    """
    for folder, limit_file, used_file, prefix in (
        (cgroup, "memory.max", "memory.current", ""),
        (cgroup / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_"),
    ):
        try:
            limit, used = ((folder / name).read_text().strip() for name in (limit_file, used_file))
            lines = (folder / "memory.stat").read_text().splitlines()
        except OSError:
            continue
        if limit == "max":
            return math.inf
        counts = dict(line.split() for line in lines)
        of_files = sum(int(counts[f"{prefix}{kind}_file"]) for kind in ("active", "inactive"))
        return int(limit) - (int(used) - of_files)
    return math.inf


def _kilobytes(path: str, name: str) -> int:
    """A counter of the kernel's. Raises OSError or KeyError where it is not there."""
    lines = Path(path).read_text(encoding="utf-8").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[name].split()[0])
