"""What torchrun tells a process through its environment: the only reader of os.environ."""

from __future__ import annotations

import os


def world_size() -> int:
    """Processes that train together: 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))
