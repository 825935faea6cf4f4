"""Counts the floating-point operations of one optimizer step, and times the steps around it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import nn

from llama_recipes.monitoring.flop_table import flop_table, tflop_by_module
from llama_recipes.monitoring.flops import Count, counted
from llama_recipes.monitoring.matrix_rate import MatrixRate
from llama_recipes.monitoring.screen import Screen
from llama_recipes.parallel.world import World

_NEIGHBOURS = 2
"""Steps behind the counted one that say how long a step takes."""


@dataclass(frozen=True)
class _Step:
    """tokens: of all processes."""

    number: int
    tokens: int
    seconds: float


class FlopCounter:
    """Counts the step after the `start` first ones of this process, forward and backward.

    Counting slows a step down, so that its time is that of the steps behind it: as many
    floating-point operations a token, times their tokens a second. rate: needed where figures are
    asked for. scale: of the loss; where it falls, the step was computed more than once, and the
    next one is counted in its place.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        start: int,
        rate: MatrixRate | None,
        world: World,
        screen: Screen,
        scale: Callable[[], float] = lambda: 1.0,
    ) -> None:
        self.model, self.start, self.rate = model, start, rate
        self.world, self.screen, self.scale = world, screen, scale
        self._begun = self._first = 0
        self._fresh: Count | None = None  # of a step that may yet turn out not to be one
        self._count: Count | None = None
        self._counted = _Step(0, 0, 0.0)
        self._timed: list[_Step] = []
        self._reported = False

    @contextmanager
    def around(self, step: int) -> Iterator[None]:
        self._begun += 1
        self._first = self._first or step
        self._fresh = None
        if self._count is not None or self._begun <= self.start:
            yield
            return
        scale = self.scale()
        with counted(self.model) as count:
            yield
        if self.scale() >= scale:
            self._fresh = count

    def made(self, step: int, *, tokens: int, seconds: float) -> None:
        made = _Step(step, tokens, seconds)
        if self._fresh is not None:
            self._count = Count.summed(self.world.texts(self._fresh.as_text()))
            self._counted = made
        elif not self._reported:
            self._timed.append(made)
            if self._count is not None and step >= self._counted.number + _NEIGHBOURS:
                self._report(self._count)

    def end(self) -> None:
        if self._count is not None:
            self._report(self._count)
        elif self._begun:
            self.screen.warn("The run ended before the step that --flop_counter was to count.")

    def figures(self) -> dict[str, Any]:
        """model_tflops: TFLOP/s of one device, the original's key. Empty before the count."""
        if self._count is None or self.rate is None:
            return {}
        tflops, tokens_per_second = self._rates(self._count)
        return {
            "model_tflops": tflops,
            "flop_counter": {
                "step": self._counted.number,
                "tokens": self._counted.tokens,
                "model_tflop": self._count.model / 1e12,
                "recomputed_tflop": self._count.recomputed / 1e12,
                "devices": self.world.size,
                "timed_steps": [step.number for step in self._neighbours()],
                "tokens_per_second_per_device": tokens_per_second,
                "matrix_tflops": self.rate.tflops,
                "matrix_tflops_from": self.rate.source,
                "share_of_matrix_rate": None if tflops is None else tflops / self.rate.tflops,
                "tflop_by_module": tflop_by_module(self._count),
            },
        }

    def _neighbours(self) -> list[_Step]:
        """Timed steps behind the counted one: those before it may still be warming up.

        Where a run ends with it, those before; a process's first step only if there is no other.
        """
        near = [s for s in self._timed if abs(s.number - self._counted.number) <= _NEIGHBOURS]
        behind = [step for step in near if step.number > self._counted.number]
        return behind or [s for s in near if s.number != self._first or len(near) == 1]

    def _rates(self, count: Count) -> tuple[float | None, float | None]:
        """TFLOP/s and tokens/s of one device; None where there is no other step to time."""
        steps = self._neighbours()
        seconds = sum(step.seconds for step in steps) * self.world.size
        if not seconds:
            return None, None
        tokens_per_second = sum(step.tokens for step in steps) / seconds
        return count.model / 1e12 / self._counted.tokens * tokens_per_second, tokens_per_second

    def _report(self, count: Count) -> None:
        if self._reported:
            return
        self._reported = True
        size, step = self.world.size, self._counted
        of_all = f", of {size} devices together" if size > 1 else ""
        self.screen.line(f"--> Floating-point operations of optimizer step {step.number}{of_all}:")
        self.screen.line(flop_table(count))
        self.screen.line("The head computes its gradients with its loss: they stand under forward.")
        self.screen.line(
            f"Model: {count.model / 1e12:.6g} TFLOP for {step.tokens:,} tokens; recomputed beside"
            f" that: {count.recomputed / 1e12:.6g} TFLOP."
        )
        tflops, tokens_per_second = self._rates(count)
        if tflops is None or self.rate is None:
            self.screen.line("There is no other step to time, so that there is no TFLOP/s.")
            return
        timed = [str(each.number) for each in self._neighbours()]
        steps = f"step{'s' if len(timed) > 1 else ''} {', '.join(timed)}"
        self.screen.line(
            f"{tflops:.4g} TFLOP/s per device, {tflops / self.rate.tflops:.1%} of its matrix rate"
            f" of {self.rate.tflops:.4g} TFLOP/s ({self.rate.source}); {tokens_per_second:,.0f}"
            f" tokens/s per device. Timed by {steps}: counting slows its own down."
        )
