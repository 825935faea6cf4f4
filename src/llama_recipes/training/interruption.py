"""Signals that ask a run to stop: noted at once, heeded where nothing is half done."""

from __future__ import annotations

import os
import signal
import socket
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
            with _ended_by_a_second():
                yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.number = number
        if self.at_once:
            raise StopRequested(signal.Signals(number).name)


@contextmanager
def _ended_by_a_second() -> Iterator[None]:
    """End the process at a second signal, whatever it does.

    A thread does it: Python calls handlers on the main thread, once that is back from C++, which it
    never is from waiting for a process that does not come. What it is woken by is written in C.
    """
    heard, told = socket.socketpair()
    told.setblocking(False)
    before = signal.set_wakeup_fd(told.fileno())
    thread = threading.Thread(target=_count, args=(heard,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        signal.set_wakeup_fd(before)
        told.close()  # which ends the thread
        thread.join()
        heard.close()


def _count(heard: socket.socket) -> None:
    came = 0
    while number := heard.recv(1):
        came += number[0] in SIGNALS
        if came == 2:
            os._exit(128 + number[0])  # as a shell calls a process that a signal ended
