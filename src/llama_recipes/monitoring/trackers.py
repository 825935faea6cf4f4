"""Who hears of a run, and what: every line of metrics.jsonl, and at the end results.json."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol


class Tracker(Protocol):
    """Hears of one run, on the process that writes; what it raises ends the run."""

    def write(self, record: Mapping[str, Any]) -> None:
        """A line of metrics.jsonl, which has it already: `step`, then `loss` or `eval_loss`."""

    def finish(self, results: Mapping[str, Any]) -> None:
        """The run is over, however it ended: what results.json holds."""


class Trackers:
    """All who listen, in their order, as one of them."""

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)

    def write(self, record: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.write(record)

    def finish(self, results: Mapping[str, Any]) -> None:
        for tracker in self._trackers:
            tracker.finish(results)
