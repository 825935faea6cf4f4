"""What the C library does with memory that was freed; nothing here where it is not glibc."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import cast

_M_MMAP_THRESHOLD = -3
"""mallopt's name for it: from this size on a block is mapped by itself, and unmapped when freed."""

_THRESHOLD_BYTES = 2**18


def give_back_at_once() -> bool:
    """From here on, freed blocks go back to the system instead of being kept for the next time.

    glibc raises its threshold with every large block that is freed, up to 32 MiB: activations and
    gradients of many sizes then share one heap, whose holes stay resident. Setting the threshold
    keeps it where it is (mallopt(3)). Every block is new memory then, which takes time.

    Blocks that were freed before are still used first: call it before there are large ones.
    Returns whether it is so.
    """
    set_option = _function("mallopt")
    return set_option is not None and bool(set_option(_M_MMAP_THRESHOLD, _THRESHOLD_BYTES))


def give_back() -> None:
    """Whatever is free now goes back to the system: what reading model and data has left."""
    trim = _function("malloc_trim")
    if trim is not None:
        trim(0)


def _function(name: str) -> Callable[..., int] | None:
    try:
        return cast(Callable[..., int], getattr(ctypes.CDLL(None), name))
    except (OSError, AttributeError, TypeError):  # musl, macOS, Windows
        return None
