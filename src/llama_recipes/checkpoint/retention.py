"""Which checkpoints of a run stay.

A run has parts: each start of the program that goes on with it is the next one. Where a part goes
on from an earlier checkpoint than the newest, those behind that one are of a way that is given up.
What cannot be deleted is no reason to end a run: it is tried again after the next save.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

from llama_recipes.checkpoint.folder import Published, delete, published


def next_part(root: Path) -> int:
    """The number of a part that begins now: higher than those that saved what is below `root`."""
    parts = [each.part for each in published(root) if each.part < math.inf]
    return int(max(parts, default=0)) + 1


def retire(root: Path, *, part: int, after: int, run_id: str) -> None:
    """Delete what earlier parts of this run saved behind step `after`, once `part` saved its own.

    `part` went on from `after`. Killed in the middle, what is left is older than what `part` saved.
    """
    with suppress(OSError):
        for each in _own(root, run_id):
            if each.part < part and each.step > after:
                delete(each.path)


def prune(root: Path, *, keep: int, never: int | None, run_id: str) -> None:
    """Delete all but the `keep` newest of this run, and the one of step `never`."""
    with suppress(OSError):
        for each in _own(root, run_id)[:-keep]:
            if each.step != never:
                delete(each.path)


def _own(root: Path, run_id: str) -> list[Published]:
    return [each for each in published(root) if each.run_id == run_id]
