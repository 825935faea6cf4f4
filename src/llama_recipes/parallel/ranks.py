"""What a process is told, and tells its libraries, through its environment.

The only file that touches os.environ; it imports nothing heavy, for `share_processor` has to come
before torch.
"""

from __future__ import annotations

import atexit
import os
import signal
import sys
import threading
import time
from functools import cache
from typing import NoReturn

_STARTED_BY = os.getppid()


def is_launched() -> bool:
    """Whether torchrun started this process."""
    return {"RANK", "WORLD_SIZE", "MASTER_ADDR"} <= os.environ.keys()


def rank() -> int:
    """The number of this process among all that train together; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Processes that train together: 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_rank() -> int:
    """The number of this process among those of its host."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def local_world_size() -> int:
    """Processes of this host."""
    return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))


def hosts() -> int:
    """How many hosts there are."""
    return int(os.environ.get("GROUP_WORLD_SIZE", "1"))


def host() -> int:
    """The number of this host among all."""
    return int(os.environ.get("GROUP_RANK", "0"))


def end(code: int) -> NoReturn:
    """End this process with `code`.

    Of several, at once: PyTorch's threads behind a process group sometimes abort a process (exit
    code 134, "terminate called without an active exception") that ends in the ordinary way.
    """
    if world_size() > 1:
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)
    sys.exit(code)


@cache  # one thread, however many runs
def end_with_launcher() -> None:
    """Get SIGTERM once torchrun is gone.

    Killed, torchrun stops nobody: its processes would train on, beside those of the next start.
    Linux's own signal at a parent's death comes again for every thread that the parent had: a
    second one, which would end this process before it has saved.
    """
    if "TORCHELASTIC_RUN_ID" in os.environ:
        threading.Thread(target=_end_without, args=(_STARTED_BY,), daemon=True).start()


def _end_without(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(1)
    os.kill(os.getpid(), signal.SIGTERM)


def share_processor() -> None:
    """Take this process's part of the cores, and let threads sleep soon when they wait.

    Call it before torch is imported. Of several processes on a host each gets as many threads as
    there are cores for it; torchrun leaves one to each, whatever the cores. GNU OpenMP's threads
    otherwise spin for a long time at the end of every small piece of work; on a processor that has
    anything else to do they spin in the way of the thread that they wait for. Who has set one of
    these variables has decided already.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"
    if local_world_size() > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
        os.environ["OMP_NUM_THREADS"] = str(max(1, (cores or 1) // local_world_size()))


def silence_kineto() -> None:
    """Let the library below PyTorch's profiler keep its notes of starts and stops to itself.

    Call it before the first profile. They count there as graver than errors, so that those are
    silenced too; the caller learns of a trace that fails by an exception. Who has set the variable
    has decided already.
    """
    os.environ.setdefault("KINETO_LOG_LEVEL", "6")
