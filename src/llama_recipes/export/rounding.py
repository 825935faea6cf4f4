"""What rounding to one of the stored types can make of a number, and nothing else.

Shapes: R rows, I numbers of a row.
"""

from __future__ import annotations

import torch
from torch import Tensor

from llama_recipes.export.encodings import Q8_BLOCK, Encoding
from llama_recipes.export.trained import DTYPES

_SLACK = 1e-6
"""Of a row's largest number: two processes may add up an update in another order."""


def is_rounded(stored: Tensor, exact: Tensor, encoding: Encoding) -> bool:
    """Whether every number of `stored` is the nearest to that of `exact` that `encoding` has.

    Both float32, [R, I] or [I]. In a GGUF file vectors stand in float32 in every encoding, and a
    row that Q8_0's blocks do not fit into in fp16: nearer than asked for is near enough.
    """
    if not bool(stored.isfinite().all()):
        return False
    if encoding == "Q8_0" and exact.ndim > 1 and exact.shape[-1] % Q8_BLOCK == 0:
        return _is_q8(stored.reshape(-1, Q8_BLOCK), exact.reshape(-1, Q8_BLOCK))
    dtype = torch.float16 if encoding == "Q8_0" else DTYPES[encoding]
    room = (exact.to(dtype).float() - exact).abs() + _SLACK * exact.abs().amax(-1, keepdim=True)
    return bool(((stored - exact).abs() <= room).all())


def _is_q8(stored: Tensor, exact: Tensor) -> bool:
    """A block's numbers are whole multiples, up to 127, of one step, which is itself in fp16."""
    step = exact.abs().amax(-1, keepdim=True) / 127
    rounded_step = step.half().float()
    used = rounded_step > 0
    counts = torch.where(used, stored / rounded_step, stored)
    whole = counts.round()
    wanted = torch.where(used, exact / step, torch.zeros_like(exact))
    return bool(((counts - whole).abs() < 1e-3).all()) and bool(
        ((wanted - whole).abs() <= 0.5 + 1e-4).all()
    )
