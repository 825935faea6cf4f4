"""What a process is told, and tells its libraries, through its environment.

The only file that touches os.environ; it imports nothing heavy, for `share_processor` has to come
before torch.
"""

from __future__ import annotations

import os


def world_size() -> int:
    """Processes that train together: 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def share_processor() -> None:
    """Let threads sleep soon when they wait for each other. Call it before torch is imported.

    GNU OpenMP's threads otherwise spin for a long time at the end of every small piece of work; on
    a processor that has anything else to do they spin in the way of the thread that they wait for.
    Who has set one of these variables has decided already.
    """
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = "1000"
