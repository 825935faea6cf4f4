"""Where this is measured, `python -m benchmarks.machine`: processor, threads, versions."""

from __future__ import annotations

import json
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = ("torch", "transformers", "trl", "peft", "llama-recipes")
_INSTRUCTIONS = {
    "amx_bf16": "AMX bf16",
    "avx512_bf16": "AVX512-BF16",
    "avx512f": "AVX512",
    "avx2": "AVX2",
    "bf16": "Arm bf16",
}
"""The kernel's flags and their names, of which the first that a processor has says enough."""


def describe() -> dict[str, Any]:
    """bf16: whether bf16 matrices are multiplied in hardware, as our runs ask it."""
    import torch

    from llama_recipes.parallel.device import has_bf16

    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "bf16": has_bf16(torch.device("cpu")),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    pairs = (line.partition(":") for line in lines)
    fields = {name.strip(): value.strip() for name, _, value in pairs}
    name = fields.get("model name", platform.machine())
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    best = next((says for flag, says in _INSTRUCTIONS.items() if flag in flags), None)
    return f"{name} ({best})" if best else name


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    print(json.dumps(describe()))
