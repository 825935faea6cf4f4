"""What a run shows to a person: a live bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

_SECONDS_BETWEEN_LINES = 5.0


class Screen:
    """Lines and progress on `console`; one that is not a terminal gets no control characters.

    warnings: all that were given, in their order.
    """

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(highlight=False)
        self.warnings: list[str] = []
        self._progress: Progress | None = None
        self._task = TaskID(0)
        self._done_before = self._total_steps = 0
        self._started = self._next_line = 0.0

    def line(self, text: str) -> None:
        self._print(text)

    def warn(self, text: str) -> None:
        self.warnings.append(text)
        self._print(f"Warning: {text}", style="yellow")

    def _print(self, text: str, style: str | None = None) -> None:
        # Brackets and colons of a text are its own. soft_wrap: a log file is not folded to the
        # width of a terminal that is not there.
        self.console.print(text, style=style, markup=False, emoji=False, soft_wrap=True)

    @contextmanager
    def training(self, total_steps: int, *, done: int = 0) -> Iterator[None]:
        """Show the steps of a run while the block trains. done: steps that were made before it."""
        self._total_steps, self._done_before = total_steps, done
        self._started = time.monotonic()
        if not self.console.is_terminal:
            yield
            return
        with Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=self.console,
        ) as self._progress:
            self._task = self._progress.add_task(
                "Training", total=total_steps, completed=done, note=""
            )
            try:
                yield
            finally:
                self._progress = None

    def step(
        self, *, epoch: int, epochs: int, step: int, loss: float, tokens_per_second: float
    ) -> None:
        """A finished optimizer step; epoch and step count from 1, loss in nats per token."""
        if self._progress is not None:
            self._progress.update(
                self._task,
                completed=step,
                description=f"Training Epoch: {epoch}/{epochs}",
                note=f"loss: {loss:.4f}  {tokens_per_second:,.0f} tokens/s",
            )
            return
        now = time.monotonic()
        if now < self._next_line and step != self._total_steps:
            return
        self._next_line = now + _SECONDS_BETWEEN_LINES
        seconds_a_step = (now - self._started) / (step - self._done_before)
        left = seconds_a_step * (self._total_steps - step)
        self.line(
            f"Training Epoch: {epoch}/{epochs}, step {step}/{self._total_steps} completed"
            f" (loss: {loss:.4f}, {tokens_per_second:,.0f} tokens/s, {duration(left)} left)"
        )


def duration(seconds: float) -> str:
    """1:02:03 or 2:03."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
