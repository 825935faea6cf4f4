"""The learning rate as a pure function of step and epoch, so that resuming needs no state."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Schedule:
    """Warm-up from 0 over `warmup_steps`, then the shape that `kind` names.

    gamma: constant within an epoch, multiplied by `gamma` after each.
    constant: the peak. linear, cosine: from the peak to 0 at `total_steps`.
    """

    kind: Literal["gamma", "constant", "linear", "cosine"]
    peak: float
    warmup_steps: int
    total_steps: int
    gamma: float

    def at(self, step: int, epoch: int) -> float:
        """Learning rate of optimizer step `step` (from 0) in `epoch` (from 0)."""
        if step < self.warmup_steps:
            return self.peak * (step + 1) / self.warmup_steps
        if self.kind == "constant":
            return self.peak
        if self.kind == "gamma":
            return self.peak * self.gamma**epoch
        done = (step - self.warmup_steps) / max(1, self.total_steps - self.warmup_steps)
        done = min(done, 1.0)
        if self.kind == "linear":
            return self.peak * (1.0 - done)
        return self.peak * 0.5 * (1.0 + math.cos(math.pi * done))
