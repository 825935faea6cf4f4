"""Who hears of a run, and what: every line of metrics.jsonl, and at the end results.json."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

Publish = Callable[[Path, bytes], None]
"""Replaces the content of a file atomically."""


class Tracker(Protocol):
    """Hears of one run, on the process that writes; what `write` raises ends the run."""

    def write(self, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, which has it already: `step`, then `loss` or `eval_loss`."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """The run is over, however it ended: what results.json holds."""


class Trackers:
    """All who listen, in their order, as one of them; nobody on processes that do not write."""

    def __init__(self, warn: Callable[[str], None]) -> None:
        self._trackers: list[Tracker] = []
        self._warn, self._finished = warn, False

    def add(self, trackers: Sequence[Tracker]) -> None:
        self._trackers += trackers

    def write(self, record: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.write(record)

    def finish(self, results: Mapping[str, Any]) -> None:
        """Only the first call counts: a run ends once, whoever notices it after that.

        Where one of them fails, that is a warning: the others hear of the end too, and the run ends
        as it would have without.
        """
        if self._finished:
            return
        self._finished = True
        for tracker in self._trackers:
            try:
                tracker.finish(results)
            except Exception as error:
                reason = error.strerror if isinstance(error, OSError) else None
                self._warn(
                    f"{type(tracker).__name__} did not take the end of the run: {reason or error}."
                    " metrics.jsonl and results.json have everything."
                )


def named(record: Mapping[str, Any]) -> dict[str, float]:
    """The numbers of a line as trackers call them: `train/loss`, `eval/perplexity`.

    Without `step`, which is where they belong, and without what is not finite.
    """
    part = "train" if "loss" in record else "eval"
    return {
        f"{part}/{key.removeprefix('eval_')}": value
        for key, value in record.items()
        if key != "step" and value is not None and math.isfinite(value)
    }
