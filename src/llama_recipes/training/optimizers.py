"""The optimizer over what trains, and nothing else."""

from __future__ import annotations

from torch import nn
from torch.optim import AdamW, Optimizer


def make_optimizer(model: nn.Module, *, lr: float, weight_decay: float) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101) in one fused kernel.

    Its two moments have the dtype of the weights: float32 for all that trains.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    return AdamW(trainable, lr=lr, weight_decay=weight_decay, fused=True)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
