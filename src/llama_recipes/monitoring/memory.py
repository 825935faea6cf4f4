"""Peak memory by the kernel's and the driver's own counters: nothing is sampled."""

from __future__ import annotations

import resource
import sys

import torch

GIB = 2**30


def peak_memory_gib(device: torch.device) -> float:
    """Highest memory so far in GiB: allocated on a GPU, resident in this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / GIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / GIB if sys.platform == "darwin" else peak * 1024 / GIB


def available_memory_gib(device: torch.device) -> float | None:
    """Memory in GiB that this process can still take; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / GIB
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
            fields = dict(line.split(":", 1) for line in lines)
        return int(fields["MemAvailable"].split()[0]) * 1024 / GIB
    except (OSError, KeyError):
        return None
