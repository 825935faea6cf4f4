"""bf16 on processors that have none: what it computes is the same, only slower."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from llama_recipes.running import preflight


@contextmanager
def told_of_bf16() -> Iterator[None]:
    """A run in here computes in bf16 where it is asked to, whatever this machine is best at."""
    asked = preflight.has_bf16
    preflight.has_bf16 = lambda device: True
    try:
        yield
    finally:
        preflight.has_bf16 = asked
