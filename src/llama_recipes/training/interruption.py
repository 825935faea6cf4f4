"""Signals that ask a run to stop: noted at once, heeded where nothing is half done."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

from llama_recipes.parallel.world import CPU_ALONE, World

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)


class StopRequested(BaseException):
    """Raised where a run heeds a signal. No Exception: nothing on the way may swallow it."""

    def __init__(self, name: str) -> None:
        self.name = name
        super().__init__(name)


class Interruption:
    """`check` raises StopRequested once a signal has come; a second signal ends the process.

    at_once: raise in the middle of whatever runs, as long as nothing of a run could be lost.
    world: the processes that stop together, whichever of them the signal was sent to.
    """

    def __init__(self, world: World = CPU_ALONE) -> None:
        self.at_once = True
        self.number = 0
        self.world = world

    def check(self) -> None:
        number = max(int(number) for (number,) in self.world.exchange([self.number]))
        if number:
            raise StopRequested(signal.Signals(number).name)

    @contextmanager
    def listening(self) -> Iterator[None]:
        if threading.current_thread() is not threading.main_thread():
            yield  # Python hands signals to the main thread alone
            return
        before = {number: signal.signal(number, self._note) for number in SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.number:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        self.number = number
        if self.at_once:
            raise StopRequested(signal.Signals(number).name)
