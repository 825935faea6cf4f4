"""Which weights a run keeps: the best by evaluation loss, and the last where they differ."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Protocol


class SaveFn(Protocol):
    def __call__(self, *, step: int, best: bool) -> None:
        """Write the weights after `step`: as the run's result, or beside it as its last state."""


@dataclass
class Selection:
    """Without evaluation losses the last weights are the result.

    save: None where nothing is to be saved. patience: evaluations in a row without a better loss
    after which training should stop; 0 means never.
    """

    save: SaveFn | None
    patience: int = 0
    best_loss: float = math.inf
    best_step: int | None = None
    saved_step: int | None = None
    without_gain: int = 0
    save_seconds: list[float] = field(default_factory=list)

    def offer(self, step: int, loss: float | None) -> bool:
        """Take note of the weights after `step`, saving them if they are the best so far."""
        better = loss is None or loss < self.best_loss
        self.without_gain = 0 if better else self.without_gain + 1
        if better:
            # Saved first: where that is interrupted, these are not the best that were saved.
            self._save(step, best=True)
            self.best_loss = math.inf if loss is None else loss
            self.best_step = step
        return better

    @property
    def exhausted(self) -> bool:
        return 0 < self.patience <= self.without_gain

    def keep_last(self, step: int) -> None:
        """Save the weights after `step` beside the best ones, unless they are the best ones."""
        if step and self.saved_step != step:
            self._save(step, best=self.best_step is None)

    def forget_best(self) -> None:
        """Its weights are lost: the next ones that are offered are the best so far."""
        self.best_loss, self.best_step = math.inf, None

    def _save(self, step: int, *, best: bool) -> None:
        if self.save is None:
            return
        started = time.perf_counter()
        self.save(step=step, best=best)
        self.saved_step = step
        self.save_seconds.append(time.perf_counter() - started)
