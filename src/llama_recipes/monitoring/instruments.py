"""What may stand around the optimizer steps of a run, to look at them and change nothing."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Protocol


class Instrument(Protocol):
    """Every process has its own, and calls it alike; what it raises ends the run."""

    def around(self, step: int) -> AbstractContextManager[object]:
        """Entered before optimizer step `step`, from 1, is computed; left when it is made or not.

        What leaves it with an error was not made.
        """

    def made(self, step: int, *, tokens: int, seconds: float) -> None:
        """Step `step` changed the weights: tokens of all processes, without padding.

        seconds: from the step before, with the wait for data. May talk to the other processes.
        """

    def end(self) -> None:
        """No step follows, however training ended: this process may be the only one to get here."""

    def figures(self) -> dict[str, Any]:
        """What was found out so far, for results.json."""


class Nothing:
    """Looks at nothing, and costs nothing."""

    def around(self, step: int) -> AbstractContextManager[object]:
        return nullcontext()

    def made(self, step: int, *, tokens: int, seconds: float) -> None:
        pass

    def end(self) -> None:
        pass

    def figures(self) -> dict[str, Any]:
        return {}
