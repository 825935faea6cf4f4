"""The optimizer over what trains, and nothing else."""

from __future__ import annotations

from typing import Literal

from torch import nn
from torch.optim import AdamW, Optimizer

from llama_recipes.training.anyprecision import AnyPrecisionAdamW


def make_optimizer(
    model: nn.Module,
    *,
    lr: float,
    weight_decay: float,
    kind: Literal["AdamW", "anyprecision"] = "AdamW",
    kahan: bool = False,
) -> Optimizer:
    """AdamW (Loshchilov & Hutter 2019, https://arxiv.org/abs/1711.05101).

    "AdamW": in one fused kernel; its two moments have the dtype of the weights. "anyprecision": its
    moments in bf16, with Kahan summation where `kahan`.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    if kind == "anyprecision":
        return AnyPrecisionAdamW(trainable, lr=lr, weight_decay=weight_decay, kahan=kahan)
    return AdamW(trainable, lr=lr, weight_decay=weight_decay, fused=True)


def set_lr(optimizer: Optimizer, lr: float) -> None:
    for group in optimizer.param_groups:
        group["lr"] = lr
