"""How the processes of one start find each other in a store that may be older than they are."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from uuid import uuid4

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store

from llama_recipes.errors import ProcessLostError

_LONGEST_PAUSE_SECONDS = 0.25


def meet(store: Store, *, rank: int, size: int, seconds: float) -> Store:
    """The part of `store` that is this start's alone, once all its processes are there.

    torchrun keeps one store over its restarts, with the addresses of processes that are gone. Its
    count of restarts does not tell them apart: each host's agent has a count of its own, which
    leaves out what another one began. So rank 0 gives the start a name, and every other process
    answers to the name that it finds with a word of its own, until its word is answered. A name
    that an earlier start left has nobody to answer.

    Raises ProcessLostError where they do not come together within `seconds`.
    """
    try:
        name = _call(store, rank, size, seconds) if rank == 0 else _answer(store, rank, seconds)
    except dist.DistError as error:
        raise ProcessLostError(
            f"Rank {rank} lost the store where the processes meet, before all were there"
            f" ({str(error).splitlines()[0]}). torchrun names the process that failed first."
        ) from error
    return PrefixStore(name, store)


def _call(store: Store, rank: int, size: int, seconds: float) -> str:
    name = uuid4().hex
    places = {other: _place(name, other) for other in range(1, size)}
    store.set("start", name)
    if not wait_for(lambda: store.check([*places.values()]), seconds):
        missing = [str(other) for other, place in places.items() if not store.check([place])]
        raise _late(rank, f"rank {', '.join(missing)} to start", seconds)
    for place in places.values():
        store.set(_answered(name, store.get(place).decode()), "")
    return name


def _answer(store: Store, rank: int, seconds: float) -> str:
    word, name = uuid4().hex, ""

    def answered() -> bool:
        nonlocal name
        if not store.check(["start"]):
            return False
        found = store.get("start").decode()
        if found != name:
            name = found
            store.set(_place(name, rank), word)
        return bool(store.check([_answered(name, word)]))

    if not wait_for(answered, seconds):
        raise _late(rank, "rank 0, and for all others to start", seconds)
    return name


def _place(name: str, rank: int) -> str:
    return f"{name}/here/{rank}"


def _answered(name: str, word: str) -> str:
    return f"{name}/answered/{word}"


def _late(rank: int, whom: str, seconds: float) -> ProcessLostError:
    return ProcessLostError(
        f"Rank {rank} waited for {whom}, in vain for {seconds:.0f} seconds. Look into what that"
        " process says; where loading takes so long, --timeout_seconds gives it more."
    )


def wait_for(ready: Callable[[], bool], seconds: float = math.inf) -> bool:
    """Whether that came true in time.

    Signals are heeded meanwhile: they are not in a store's own `wait`, which is C++.
    """
    end, pause = time.monotonic() + seconds, 0.005
    while not ready():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
    return True
