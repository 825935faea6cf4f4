"""A run of which one rank gets a signal in the middle of something, the first time it is started.

`torchrun … -m support.disturbed SIGNAL RANK PLACE FLAG …`; PLACE is one of `PLACES`.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from torch import Tensor

from llama_recipes.checkpoint import folder
from llama_recipes.finetuning import main
from llama_recipes.model.llama import DecoderLayer
from llama_recipes.parallel.processes import ManyProcesses
from llama_recipes.parallel.ranks import end
from llama_recipes.running import loading
from llama_recipes.training import loop, step

Act = Callable[..., Any]
Disturb = Callable[[], None]


def before(act: Act, disturb: Disturb, *arguments: Any, **more: Any) -> Any:
    disturb()
    return act(*arguments, **more)


def behind(act: Act, disturb: Disturb, *arguments: Any, **more: Any) -> Any:
    """Of a save: a file is there, the checkpoint is not."""
    result = act(*arguments, **more)
    disturb()
    return result


def on_the_way_back(act: Act, disturb: Disturb, *arguments: Any, **more: Any) -> Any:
    """Once the gradient of what it gives is there, and before anything that needs it."""
    result: Tensor = act(*arguments, **more)
    result.register_hook(lambda gradient: disturb())
    return result


def meanwhile(act: Act, disturb: Disturb, *arguments: Any, **more: Any) -> Any:
    """While it waits for the others, which come later."""
    threading.Timer(0.5, disturb).start()
    return act(*arguments, **more)


PLACES: dict[str, tuple[Any, str, int, Act]] = {
    "loading": (loading, "load_weights", 1, before),
    "forward": (DecoderLayer, "forward", 30, before),
    "backward": (step, "batch_loss", 10, on_the_way_back),
    "collective": (ManyProcesses, "_gather", 40, meanwhile),
    "save": (folder, "save_pieces", 3, behind),
    "evaluation": (loop, "evaluate", 1, before),
}
"""Where: owner and name of a function, which of its calls, and when of it."""


def disturb_in(place: str, rank: str, how: signal.Signals) -> None:
    """Arrange for that rank to get the signal there."""
    owner, name, number, when = PLACES[place]
    act, calls, mine = getattr(owner, name), 0, os.environ["RANK"] == rank

    def disturb() -> None:
        print(f"{how.name} at {time.time()}", flush=True)
        os.kill(os.getpid(), how)

    def disturbed(*arguments: Any, **more: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == number and mine:
            return when(act, disturb, *arguments, **more)
        if calls == number and when is meanwhile:
            time.sleep(1.5)
        return act(*arguments, **more)

    setattr(owner, name, disturbed)


if __name__ == "__main__":
    how, rank, place, *flags = sys.argv[1:]
    if os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
        disturb_in(place, rank, signal.Signals[how])
    end(main(flags))
