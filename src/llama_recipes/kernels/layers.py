"""What stands between a layer's matrix products, by native/layers.cpp, with its derivatives.

Shapes: N tokens, D hidden size, H heads, d head dimension, F feed-forward size, r rank.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from llama_recipes.kernels.library import call


def add_norm(x: Tensor, branch: Tensor | None, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x and branch [N, D] → their sum, and its root-mean-square normalisation times weight [D].

    Without a branch the sum is x itself.
    """
    if branch is None:
        return x, _Norm.apply(x, weight, eps)  # type: ignore[no-untyped-call]
    both: tuple[Tensor, Tensor] = _AddNorm.apply(x, branch, weight, eps)  # type: ignore[no-untyped-call]
    return both


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        _, out = _normalise(ctx, x, None, weight, eps)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        return *_norm_gradients(ctx, grad_outputs[0], None), None


class _AddNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: Tensor, branch: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        return _normalise(ctx, x, branch, weight, eps)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_total, grad_out = grad_outputs
        if grad_out is None:
            return grad_total, grad_total, None, None
        grad_x, grad_weight = _norm_gradients(ctx, grad_out, grad_total)
        return grad_x, grad_x, grad_weight, None


def _normalise(
    ctx: Any, x: Tensor, branch: Tensor | None, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    x, branch = x.contiguous(), None if branch is None else branch.contiguous()
    total = x if branch is None else torch.empty_like(x)
    out = torch.empty_like(x)
    inverse_rms = torch.empty(len(x))
    tensors = x, branch, weight, total, out, inverse_rms
    call("norm_forward", x.dtype, *tensors, *x.shape, eps, torch.get_num_threads())
    ctx.save_for_backward(total, weight, inverse_rms)
    return total, out


def _norm_gradients(
    ctx: Any, grad_out: Tensor, grad_total: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    total, weight, inverse_rms = ctx.saved_tensors
    threads = torch.get_num_threads()
    grad_x = torch.empty_like(total)
    needs_weight = ctx.needs_input_grad[-2]
    shares = torch.zeros(threads, len(weight)) if needs_weight else None
    grads = grad_out.contiguous(), None if grad_total is None else grad_total.contiguous()
    tensors = *grads, total, weight, inverse_rms, grad_x, shares
    call("norm_backward", total.dtype, *tensors, *total.shape, threads)
    return grad_x, None if shares is None else shares.sum(0).to(weight.dtype)


def rotate(x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Heads x [N, H, d] turned by angles [N, 1, d], whose halves are equal."""
    turned: Tensor = _Rotate.apply(x, cosines, sines)  # type: ignore[no-untyped-call]
    return turned


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        ctx.save_for_backward(cosines, sines)
        return _turn(x, cosines, sines, 1.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        cosines, sines = ctx.saved_tensors
        return _turn(grad_outputs[0], cosines, sines, -1.0), None, None


def _turn(x: Tensor, cosines: Tensor, sines: Tensor, direction: float) -> Tensor:
    x = x.contiguous()
    out = torch.empty_like(x)
    call("rotate", x.dtype, x, cosines, sines, out, *x.shape, direction, torch.get_num_threads())
    return out


def swiglu(gate: Tensor, up: Tensor) -> Tensor:
    """silu(gate) · up, all [N, F]."""
    out: Tensor = _SwiGlu.apply(gate, up)  # type: ignore[no-untyped-call]
    return out


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor) -> Tensor:
        gate, up = gate.contiguous(), up.contiguous()
        out = torch.empty_like(gate)
        call("swiglu_forward", gate.dtype, gate, up, out, gate.numel(), torch.get_num_threads())
        ctx.save_for_backward(gate, up)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, Tensor]:
        gate, up = ctx.saved_tensors
        grads = torch.empty_like(gate), torch.empty_like(up)
        tensors = grad_outputs[0].contiguous(), gate, up, *grads
        call("swiglu_backward", gate.dtype, *tensors, gate.numel(), torch.get_num_threads())
        return grads


def add_low_rank(
    y: Tensor, x: Tensor, a: Tensor, b: Tensor, *, scale: float, dropout: float
) -> Tensor:
    """y + scale · B A dropout(x), in y's memory. y [N, out], x [N, in], a [r, in], b [out, r]."""
    out: Tensor = _AddLowRank.apply(y, x, a, b, scale, dropout)  # type: ignore[no-untyped-call]
    return out


class _AddLowRank(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, y: Tensor, x: Tensor, a: Tensor, b: Tensor, scale: float, dropout: float
    ) -> Tensor:
        ctx.scale, ctx.dropout = scale, dropout
        # Drawn from PyTorch's generator: the run's seed, and its saved state, decide the masks.
        ctx.seed = int(torch.randint(2**62, ())) if dropout else 0
        low = _drop(x, ctx) @ a.T
        ctx.mark_dirty(y)
        ctx.save_for_backward(x, a, b, low)
        return y.addmm_(low, b.T, alpha=scale)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, a, b, low = ctx.saved_tensors
        (grad,) = grad_outputs
        grad_low = (grad @ b).mul_(ctx.scale)
        grad_b = (grad.T @ low).mul_(ctx.scale)
        grad_a = grad_low.T @ _drop(x, ctx)
        grad_x = _drop(grad_low @ a, ctx) if ctx.needs_input_grad[1] else None
        return grad, grad_x, grad_a, grad_b, None, None


def _drop(x: Tensor, ctx: Any) -> Tensor:
    """x with the mask that ctx.seed draws; the same in the forward and the backward pass."""
    if not ctx.dropout:
        return x
    x = x.contiguous()
    out = torch.empty_like(x)
    kept = 1 - ctx.dropout
    keep, scale = min(round(kept * 2**32), 2**32 - 1), 1 / kept if kept else 0.0
    call("dropout", x.dtype, x, out, ctx.seed, keep, scale, *x.shape, torch.get_num_threads())
    return out
