"""Cross-entropy straight from hidden states, without ever holding the logits of all tokens.

The logits of a 128k vocabulary are the largest tensor of a training step. Here they exist for one
chunk of supervised tokens at a time: the forward pass computes each chunk's loss and at once its
gradients, which the backward pass only scales (the method of Liger Kernel, Hsu et al. 2024,
https://arxiv.org/abs/2410.10989).

Shapes: S supervised tokens, D hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llama_recipes.kernels import library
from llama_recipes.kernels.loss import cross_entropy_

CHUNK_LOGITS = 2**25
"""Logits held at once: 128 MiB in float32, whatever the vocabulary."""


def cross_entropy_sum(hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
    """Summed (never averaged) negative log-likelihood in nats, a float32 or float64 scalar.

    hidden [S, D], head_weight [V, D], targets [S] (token ids). The product is computed in
    hidden's dtype, the softmax in at least float32.
    """
    loss: Tensor = _LinearCrossEntropy.apply(hidden, head_weight, targets)  # type: ignore[no-untyped-call]
    return loss


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, head_weight: Tensor, targets: Tensor) -> Tensor:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        weight = head_weight.to(hidden.dtype)
        need_hidden, need_weight, _ = ctx.needs_input_grad
        grad_hidden = torch.empty_like(hidden) if need_hidden else None
        grad_weight = torch.zeros_like(head_weight, dtype=wide) if need_weight else None
        loss = torch.zeros((), dtype=wide, device=hidden.device)
        rows = max(1, min(CHUNK_LOGITS // weight.shape[0], hidden.shape[0]))
        # One buffer for all chunks: new memory costs as much as a quarter of the product.
        buffer = hidden.new_empty(rows, weight.shape[0])
        for start in range(0, hidden.shape[0], rows):
            chunk = slice(start, start + rows)
            logits = torch.mm(hidden[chunk], weight.T, out=buffer[: hidden[chunk].shape[0]])
            losses, grad = _differentiated(
                logits, targets[chunk], wanted=need_hidden or need_weight
            )
            loss += losses.sum()
            if grad_hidden is not None:
                grad_hidden[chunk] = grad @ weight
            if grad_weight is not None:
                _add_product_(grad_weight, grad.T, hidden[chunk])
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.weight_dtype = head_weight.dtype
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        (scale,) = grad_outputs
        grad_hidden, grad_weight = ctx.saved_tensors
        if grad_hidden is not None:
            # scale is 1/(supervised tokens): multiplied in float32 before rounding to bf16.
            grad_hidden = (grad_hidden * scale).to(grad_hidden.dtype)
        if grad_weight is not None:
            # In place: another tensor as large as the head would be the peak of a whole step.
            grad_weight = grad_weight.mul_(scale).to(ctx.weight_dtype)
        return grad_hidden, grad_weight, None


def _add_product_(total: Tensor, left: Tensor, right: Tensor) -> None:
    if total.dtype == left.dtype:
        total.addmm_(left, right)
    else:
        total += left @ right


def _differentiated(logits: Tensor, targets: Tensor, *, wanted: bool) -> tuple[Tensor, Tensor]:
    """Losses [S] of logits [S, V], and their derivative where it is wanted: softmax − one-hot.

    The logits' memory is used for it.
    """
    if library.serves(logits):
        return cross_entropy_(logits, targets, differentiate=wanted), logits
    dtype = logits.dtype
    logits = logits.to(torch.promote_types(dtype, torch.float32))
    log_total = logits.logsumexp(dim=-1, keepdim=True)
    losses = log_total - logits.gather(1, targets[:, None])
    if wanted:
        logits.sub_(log_total).exp_()
        logits.scatter_add_(1, targets[:, None], torch.full_like(log_total, -1.0))
    return losses, logits.to(dtype)
