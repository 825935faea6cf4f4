"""How fast this machine multiplies matrices, `python -m benchmarks.matrix_rate fp32 [bf16]`.

What every FLOP of a model is held against: `F.linear` on large products, the best of several, with
as many threads as a run takes.
"""

from __future__ import annotations

import json
import sys

_SIZES = ((2048, 10), (4096, 3))
"""Rows, inputs and outputs of a product, and how often it is made."""


def gflops(precision: str) -> float:
    """Billions of floating-point operations a second; precision: fp32 or bf16."""
    import torch

    from llama_recipes.monitoring.matrix_rate import measured_tflops

    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[precision]
    device = torch.device("cpu")
    return 1000 * max(
        measured_tflops(size, times, device=device, dtype=dtype) for size, times in _SIZES
    )


if __name__ == "__main__":
    print(json.dumps({precision: gflops(precision) for precision in sys.argv[1:]}))
