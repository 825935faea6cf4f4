"""Peak memory by the kernel's and the driver's own counters: nothing is sampled."""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Mapping
from pathlib import Path

import torch

GIB = 2**30


_GPU_PEAKS = {
    "peak_allocated_gib": "allocated_bytes.all.peak",
    "peak_active_gib": "active_bytes.all.peak",
    "peak_reserved_gib": "reserved_bytes.all.peak",
}
"""Our names → those of torch.cuda.memory_stats. Active is what is allocated, and what waits for
other streams; reserved is all that was taken from the device."""


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far in GiB: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    return peak_resident_gib()


def memory_peaks(device: torch.device) -> dict[str, float]:
    """The highest so far in GiB, of this process: resident on the host and, on a GPU, there.

    allocation_retries: how often a GPU had no room until cached memory was given back; each one
    costs time.
    """
    peaks: dict[str, float] = {}
    if device.type == "cuda":
        counters = torch.cuda.memory_stats(device)
        # Another allocator than PyTorch's own leaves some out.
        peaks |= {ours: counters.get(theirs, 0) / GIB for ours, theirs in _GPU_PEAKS.items()}
        peaks["allocation_retries"] = counters.get("num_alloc_retries", 0)
    return peaks | {"peak_resident_gib": peak_resident_gib()}


def in_words(peaks: Mapping[str, float]) -> str:
    """`memory_peaks` in a line: "3.20 GiB allocated, … GiB resident, 0 allocation retries"."""
    gib = [
        f"{peak:.2f} GiB {name.removeprefix('peak_').removesuffix('_gib')}"
        for name, peak in peaks.items()
        if name.endswith("_gib")
    ]
    retries = peaks.get("allocation_retries")
    return ", ".join(gib if retries is None else [*gib, f"{retries:.0f} allocation retries"])


def peak_resident_gib() -> float:
    """Highest memory so far in GiB that this process had in the host's memory."""
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
    # The kernel cuts a process's name after 15 bytes, which may be inside a character.
    lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[name].split()[0])
