"""How fast a device multiplies matrices: what the operations of a model are held against.

Known NVIDIA GPUs have it from their data sheets, for dense matrices; of every other device it is
measured.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F

_FP16, _BF16, _FP32 = torch.float16, torch.bfloat16, torch.float32

_DATA_SHEETS: tuple[tuple[str, dict[torch.dtype, float]], ...] = (
    ("H100 PCIe", {_FP16: 756.0, _BF16: 756.0, _FP32: 51.0}),
    ("H100 NVL", {_FP16: 835.5, _BF16: 835.5, _FP32: 60.0}),
    ("H100", {_FP16: 989.5, _BF16: 989.5, _FP32: 67.0}),
    ("H200", {_FP16: 989.5, _BF16: 989.5, _FP32: 67.0}),
    ("A100", {_FP16: 312.0, _BF16: 312.0, _FP32: 19.5}),
    ("A40", {_FP16: 149.7, _BF16: 149.7, _FP32: 37.4}),
    ("A30", {_FP16: 165.0, _BF16: 165.0, _FP32: 10.3}),
    ("A10", {_FP16: 125.0, _BF16: 125.0, _FP32: 31.2}),
    ("L40S", {_FP16: 362.0, _BF16: 362.0, _FP32: 91.6}),
    ("L4", {_FP16: 121.0, _BF16: 121.0, _FP32: 30.3}),
    ("V100", {_FP16: 125.0, _FP32: 15.7}),
    ("T4", {_FP16: 65.0, _FP32: 8.1}),
)
"""TFLOP/s by the words of a GPU's name, the longer ones first. With sparsity a data sheet names
twice as much; fp32 is that of the plain cores, for PyTorch rounds nothing to TF32 by default."""

_LARGEST = 8192
_LONG_ENOUGH_SECONDS = 0.1


@dataclass(frozen=True)
class MatrixRate:
    """source: where the figure is from, as the end of a sentence."""

    tflops: float
    source: str


def matrix_rate(device: torch.device, dtype: torch.dtype) -> MatrixRate:
    """Of products in `dtype`; measuring takes about a second, once in a process."""
    if device.type == "cuda":
        known = data_sheet(torch.cuda.get_device_name(device), dtype)
        if known is not None:
            return known
    return _measured(device, dtype)


def data_sheet(name: str, dtype: torch.dtype) -> MatrixRate | None:
    """None for a GPU, or a part of one, that no sheet here speaks of."""
    if "MIG" in name:
        return None
    for words, rates in _DATA_SHEETS:
        if re.search(rf"\b{words}\b", name) and dtype in rates:
            return MatrixRate(rates[dtype], f"NVIDIA's data sheet of the {words}, dense")
    return None


@cache
def _measured(device: torch.device, dtype: torch.dtype) -> MatrixRate:
    size, best = 256, 0.0
    while True:
        size *= 2
        rate = measured_tflops(size, 3, device=device, dtype=dtype)
        best = max(best, rate)
        if size == _LARGEST or 2e-12 * size**3 / rate > _LONG_ENOUGH_SECONDS:
            kind = str(dtype).removeprefix("torch.")
            return MatrixRate(best, f"measured with products of {size} x {size} in {kind}")


def measured_tflops(size: int, times: int, *, device: torch.device, dtype: torch.dtype) -> float:
    """The best of several `F.linear` with as many rows, inputs and outputs, in TFLOP/s.

    On a processor with as many threads as PyTorch uses. Draws from no generator of the run's.
    """
    generator = torch.Generator(device).manual_seed(0)
    best = 0.0
    with torch.inference_mode():
        x, weight = (
            torch.randn(size, size, device=device, generator=generator).to(dtype) for _ in range(2)
        )
        F.linear(x, weight)
        _wait(device)
        for _ in range(times):
            started = time.perf_counter()
            F.linear(x, weight)
            _wait(device)
            best = max(best, 2e-12 * size**3 / (time.perf_counter() - started))
    return best


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
