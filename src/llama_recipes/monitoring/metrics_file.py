"""The original's file of all losses and perplexities, and its plots, with --save_metrics."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from llama_recipes.monitoring.curves import curves
from llama_recipes.monitoring.plots import draw
from llama_recipes.monitoring.run_log import finite, read_metrics
from llama_recipes.monitoring.trackers import Publish
from llama_recipes.packages import require


def metrics_path(folder: Path, rank: int | None, now: datetime) -> Path:
    """The file of a run in `folder`: the one that is there, for a run that goes on, or a new one.

    Named as the original's; rank is None for a process that trains alone.
    """
    there = sorted(folder.glob("metrics_data_*.json"))
    return there[-1] if there else folder / f"metrics_data_{rank}-{now:%Y-%m-%d_%H-%M-%S}.json"


def eight_lists(records: Sequence[Mapping[str, Any]]) -> dict[str, list[float | None]]:
    """`{train,val}_{step,epoch}_{loss,perplexity}`; None where a value was not finite."""
    found: dict[str, list[float | None]] = {}
    for measure in ("loss", "perplexity"):
        for name, curve in curves(records).items():
            values = curve.losses if measure == "loss" else curve.perplexities
            found[f"{name}_{measure}"] = [v if math.isfinite(v) else None for v in values]
    return found


class MetricsFile:
    """A tracker that writes `path` after each evaluation and at the end; there its plots too.

    earlier: the lines of metrics.jsonl that the run goes on behind. What goes wrong is a warning,
    once: the file can be made anew from metrics.jsonl.
    """

    def __init__(
        self,
        path: Path,
        *,
        earlier: Sequence[Mapping[str, Any]],
        publish: Publish,
        warn: Callable[[str], None],
    ) -> None:
        self._path, self._publish, self._warn = path, publish, warn
        self._records = [dict(record) for record in earlier]
        self._has_failed = False

    def write(self, record: Mapping[str, Any]) -> None:
        self._records.append(finite(record))
        if "eval_loss" in record:
            self._try(_write_lists)

    def finish(self, results: Mapping[str, Any]) -> None:
        self._try(_write_lists)
        self._try(_write_plots)

    def _try(self, write: Callable[[Path, Sequence[Mapping[str, Any]], Publish], None]) -> None:
        try:
            write(self._path, self._records, self._publish)
        except Exception as error:  # a mistake of ours in a plot ends no training either
            if not self._has_failed:
                reason = error.strerror if isinstance(error, OSError) else None
                self._warn(
                    f"{self._path} or its plots could not be written: {reason or error}. The"
                    f" training goes on; make them later with llama-recipes report"
                    f" {shlex.quote(str(self._path.parent))}."
                )
            self._has_failed = True


def rebuild(folder: Path, publish: Publish) -> None:
    """Write a run's file of losses and its plots anew, if any. Raises OSError, ConfigError."""
    for path in sorted(folder.glob("metrics_data_*.json")):
        records = read_metrics(folder).lines
        _write_lists(path, records, publish)
        require("matplotlib", why="The plots of --save_metrics were left out: they are drawn with")
        _write_plots(path, records, publish)


def _write_lists(path: Path, records: Sequence[Mapping[str, Any]], publish: Publish) -> None:
    publish(path, (json.dumps(eight_lists(records)) + "\n").encode())


def _write_plots(path: Path, records: Sequence[Mapping[str, Any]], publish: Publish) -> None:
    for name, content in draw(records).items():
        publish(path.with_name(f"{path.stem}_{name}"), content)
