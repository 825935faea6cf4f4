"""Causal attention within documents, by native/attention.cpp.

Shapes: N tokens, H heads, K key/value heads, d head dimension.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llama_recipes.kernels.library import call


def document_attention(q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
    """q [N, H, d], k and v [N, K, d] → [N, H, d].

    starts: int64 [documents + 1], the first token of each document and N.
    """
    out: Tensor = _DocumentAttention.apply(q, k, v, starts)  # type: ignore[no-untyped-call]
    return out


class _DocumentAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, starts: Tensor) -> Tensor:
        q, k, v = q.contiguous(), k.contiguous(), v.contiguous()
        out = torch.empty_like(q)
        log_sum = torch.empty(q.shape[1], q.shape[0])
        shape = _shape(q, k, starts)
        call("attention_forward", q.dtype, *shape, q, k, v, out, log_sum)
        ctx.save_for_backward(q, k, v, out, log_sum, starts)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        q, k, v, out, log_sum, starts = ctx.saved_tensors
        grad_out = grad_outputs[0].contiguous()
        grads = torch.empty_like(q), torch.empty_like(k), torch.empty_like(v)
        shape = _shape(q, k, starts)
        call("attention_backward", q.dtype, *shape, q, k, v, out, log_sum, grad_out, *grads)
        return *grads, None


def _shape(q: Tensor, k: Tensor, starts: Tensor) -> tuple[Any, ...]:
    heads, dim = q.shape[1:]
    scale, threads = float(dim) ** -0.5, torch.get_num_threads()
    return starts, len(starts) - 1, heads, k.shape[1], dim, scale, threads
