"""A function over many items on all cores: in order, in bounded memory, no process left over."""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from llama_recipes.errors import DataError

Item = TypeVar("Item")
Result = TypeVar("Result")

CHUNK = 512
"""Items a worker takes at a time."""
ALONE = 8 * CHUNK
"""Items done in this process before others are started: each needs seconds to import."""


def in_order(
    function: Callable[[Sequence[Item]], list[Result]], items: Iterator[Item]
) -> Iterator[Result]:
    """`function` over chunks of `items`, in several processes from the item on at which that pays.

    function: maps a chunk to as many results; it is sent to each process once.
    Raises DataError where one of the processes is lost.
    """
    chunks = iter(lambda: list(islice(items, CHUNK)), [])
    yield from chain.from_iterable(map(function, islice(chunks, ALONE // CHUNK)))
    first = next(chunks, None)
    if first is None:
        return
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    waiting: deque[Future[list[Result]]] = deque()
    # Spawned, not forked: a tokenizer's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(
        workers, mp_context=context, initializer=_begin, initargs=(function,)
    )
    try:
        with pool:
            for chunk in chain([first], chunks):
                waiting.append(pool.submit(_call, chunk))
                if len(waiting) > 2 * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
    except BrokenProcessPool as error:
        raise DataError(
            "A process that tokenised the data set ended before its time: the machine may be short"
            " of memory. Where a script of yours started the run, it has to be a file whose call"
            ' stands under if __name__ == "__main__":, for each process reads it again.'
        ) from error


_function: Callable[[Sequence[Any]], list[Any]]


def _begin(function: Callable[[Sequence[Any]], list[Any]]) -> None:
    """In a worker: hold the function, and end with the process that started this one."""
    global _function
    _function = function
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    # Where the parent is killed, nothing else tells a worker: it would wait for work for ever.
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def _call(chunk: Sequence[Any]) -> list[Any]:
    return _function(chunk)
