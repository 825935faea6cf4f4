"""How fast this machine multiplies matrices, `python -m benchmarks.matrix_rate fp32 [bf16]`.

What every FLOP of a model is held against: `F.linear` on large products, the best of several, with
as many threads as a run takes.
"""

from __future__ import annotations

import json
import sys
import time

_SIZES = ((2048, 10), (4096, 3))
"""Rows, inputs and outputs of a product, and how often it is made."""


def gflops(precision: str) -> float:
    """Billions of floating-point operations a second; precision: fp32 or bf16."""
    import torch
    import torch.nn.functional as F

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    best = 0.0
    with torch.inference_mode():
        for size, times in _SIZES:
            x, weight = (torch.randn(size, size).to(dtype) for _ in range(2))
            F.linear(x, weight)
            for _ in range(times):
                started = time.perf_counter()
                F.linear(x, weight)
                best = max(best, 2e-9 * size**3 / (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    print(json.dumps({precision: gflops(precision) for precision in sys.argv[1:]}))
