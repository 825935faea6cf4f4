"""Causal attention within documents on a GPU: PyTorch's flash attention for unequal lengths.

Written for CUDA devices from compute capability 8.0 on, where it needs PyTorch 2.10; elsewhere SDPA
serves. Not measured yet.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import torch
from torch import Tensor

varlen_attn: Any = None
if torch.cuda.is_available():  # reading it takes a second: it reads PyTorch's compiler
    with suppress(ImportError):
        from torch.nn.attention.varlen import varlen_attn


def serves(q: Tensor) -> bool:
    return (
        varlen_attn is not None
        and q.device.type == "cuda"
        and q.dtype in (torch.bfloat16, torch.float16)
        and torch.cuda.get_device_capability(q.device) >= (8, 0)
        and q.shape[-1] <= 256
        and q.shape[-1] % 8 == 0
    )


def document_attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor, longest: int) -> Tensor:
    """q [N, H, d], k and v [N, K, d], starts [documents + 1] int32 → [N, H, d]."""
    out: Tensor = varlen_attn(
        q,
        k,
        v,
        starts,
        starts,
        longest,
        longest,
        window_size=(-1, 0),  # causal
        enable_gqa=q.shape[1] != k.shape[1],
    )
    return out
