"""Which device computes, and in which number format."""

from __future__ import annotations

import torch


def choose_device(local_rank: int = 0) -> torch.device:
    """The accelerator of this process among those that PyTorch sees, else the CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return (
        torch.device("cpu") if accelerator is None else torch.device(accelerator.type, local_rank)
    )


def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware; emulated ones are slower than fp32.

    On a CPU: the AMX or AVX512-BF16 instructions, or Arm's bf16 extension.
    """
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        return bool(
            torch.cpu._is_avx512_bf16_supported()
            or torch.cpu._is_amx_tile_supported()
            or _arm_has_bf16()
        )
    return True


def _arm_has_bf16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii") as lines:  # noqa: PTH123
            features = [line for line in lines if line.startswith("Features")]
    except OSError:
        return False
    return any("bf16" in line.split() for line in features)
