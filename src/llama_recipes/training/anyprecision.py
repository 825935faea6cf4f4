"""AdamW whose moments are kept in bf16, with Kahan summation for weights that are in bf16 too.

The method of torchdistx's AnyPrecisionAdamW: the moments are updated and used in float32, and kept
in bf16. A bf16 weight has 8 bits: steps of less than 1/256 of it would be lost, so the part of each
step that rounding took is kept beside the weight and added to the next one (Kahan 1965,
https://doi.org/10.1145/363707.363723).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer


class AnyPrecisionAdamW(Optimizer):
    """Decoupled weight decay as in torch.optim.AdamW.

    kahan: keep what rounding takes from each step of a weight below float32, in the weight's dtype.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        weight_decay: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        kahan: bool = False,
        moment_dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})
        self.betas, self.eps = betas, eps
        self.kahan, self.moment_dtype = kahan, moment_dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        assert closure is None
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is not None:
                    self._update(weight, group["lr"], group["weight_decay"])

    def _update(self, weight: Tensor, lr: float, weight_decay: float) -> None:
        state = self.state[weight]
        if not state:
            self._start(weight, state)
        state["step"] += 1
        (beta1, beta2), grad = self.betas, weight.grad
        assert grad is not None
        grad = grad.float()
        mean = state["exp_avg"].float().lerp_(grad, 1 - beta1)
        square = state["exp_avg_sq"].float().mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["exp_avg"].copy_(mean)
        state["exp_avg_sq"].copy_(square)
        count = int(state["step"])
        # Out of place: moments in float32 are the state itself.
        scale = square.sqrt().div_(math.sqrt(1 - beta2**count)).add_(self.eps)
        step = mean.div(scale).mul_(-lr / (1 - beta1**count))
        if weight_decay:
            step.add_(weight, alpha=-lr * weight_decay)
        _add(weight, step, state.get("lost"))

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """As PyTorch's, which gives all state the dtype of its weight, and back."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in "exp_avg", "exp_avg_sq":
                state[name] = state[name].to(self.moment_dtype)

    def _start(self, weight: Tensor, state: dict[str, Any]) -> None:
        state["step"] = torch.zeros(())
        for name in "exp_avg", "exp_avg_sq":
            state[name] = torch.zeros_like(weight, dtype=self.moment_dtype)
        if self.kahan and weight.dtype.itemsize < 4:
            state["lost"] = torch.zeros_like(weight)


def _add(weight: Tensor, step: Tensor, lost: Tensor | None) -> None:
    """weight += step, in float32 before it is rounded; with `lost`, what earlier rounding took."""
    exact = step.add_(weight) if lost is None else step.add_(lost).add_(weight)
    rounded = exact.to(weight.dtype)
    if lost is not None:
        lost.copy_(exact - rounded.float())
    weight.copy_(rounded)
