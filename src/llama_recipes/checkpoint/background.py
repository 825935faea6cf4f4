"""Work that goes on beside the training: one piece at a time, and its errors are not lost."""

from __future__ import annotations

import threading
from collections.abc import Callable

from llama_recipes.parallel.world import World


class Background:
    """Runs on a thread of its own what every process of `world` runs."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def start(self, work: Callable[[], object]) -> None:
        """Begin `work` when what was begun before has ended; raises what that raised."""
        self.wait()

        def run() -> None:
            try:
                work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint")
        self._thread.start()

    def look(self) -> None:
        """Raise what the work raised, once it has ended on all processes; all call this alike."""
        if self._thread is None:
            return
        ended = self._world.exchange([not self._thread.is_alive()])
        if all(each for (each,) in ended):
            self.wait()

    def wait(self) -> None:
        """Until the work has ended. Raises what it raised."""
        if self._thread is None:
            return
        self._thread.join()
        self._thread, error = None, self._error
        self._error = None
        if error is not None:
            raise error
