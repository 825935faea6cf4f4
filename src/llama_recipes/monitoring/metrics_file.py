"""The original's file of all losses and perplexities, and its plots, with --save_metrics."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
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


def rebuild(folder: Path, publish: Publish) -> None:
    """Write a run's file of losses and its plots anew, if any. Raises OSError, ConfigError."""
    for path in sorted(folder.glob("metrics_data_*.json")):
        require("matplotlib", why="The plots of --save_metrics are drawn with")
        MetricsFile(path, earlier=read_metrics(folder).lines, publish=publish).finish({})


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

    earlier: the lines of metrics.jsonl that the run goes on behind.
    """

    def __init__(
        self, path: Path, *, earlier: Sequence[Mapping[str, Any]], publish: Publish
    ) -> None:
        self._path, self._publish = path, publish
        self._records = [dict(record) for record in earlier]

    def write(self, record: Mapping[str, Any]) -> None:
        self._records.append(finite(record))
        if "eval_loss" in record:
            self._write()

    def finish(self, results: Mapping[str, Any]) -> None:
        self._write()
        for name, content in draw(self._records).items():
            self._publish(self._path.with_name(f"{self._path.stem}_{name}"), content)

    def _write(self) -> None:
        self._publish(self._path, (json.dumps(eight_lists(self._records)) + "\n").encode())
