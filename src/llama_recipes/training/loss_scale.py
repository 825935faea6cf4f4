"""Scaling of the loss for fp16, whose gradients otherwise vanish below its smallest number.

Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740, with the numbers of PyTorch's
GradScaler. That one looks at the gradients of its own process: processes that share a model have to
halve their scales together, which here the norm of the whole gradient decides.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from torch import Tensor

_GROWTH_STEPS = 2000


@dataclass
class LossScale:
    """enabled: without it the scale is 1. good_steps: since the scale changed."""

    enabled: bool = False
    scale: float = 65536.0
    good_steps: int = 0

    def scaled(self, loss: Tensor) -> Tensor:
        return loss * self.scale if self.enabled else loss

    def unscale(self, gradients: Iterable[Tensor | None]) -> None:
        if self.enabled:
            for gradient in gradients:
                if gradient is not None:
                    gradient.mul_(1 / self.scale)

    def halve(self) -> bool:
        """After gradients that left the range; False where there is nothing left to halve."""
        if not self.enabled or self.scale <= 1:
            return False
        self.scale, self.good_steps = self.scale / 2, 0
        return True

    def count(self) -> None:
        """After a step that was made: the scale doubles after enough of them."""
        self.good_steps += 1
        if self.good_steps == _GROWTH_STEPS:
            self.scale, self.good_steps = self.scale * 2, 0
