"""A run in TensorBoard's event files, with --use_tensorboard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llama_recipes.monitoring.trackers import named

FOLDER = "tensorboard"
"""In the run's own folder."""


class TensorBoard:
    """A tracker that appends to the event files in `folder`.

    Every line is flushed, so that what is on the disk after a crash is what metrics.jsonl has.

    settings: of the run as YAML. hparams: the settings by name, for the tab of that name.
    earlier: the lines of metrics.jsonl that the run goes on behind.
    """

    def __init__(
        self,
        folder: Path,
        *,
        settings: str,
        hparams: Mapping[str, Any],
        earlier: Sequence[Mapping[str, Any]],
    ) -> None:
        from torch.utils.tensorboard import SummaryWriter

        last = earlier[-1]["step"] if earlier else 0
        # From `last` on, what an earlier part of this run wrote may be of steps that are made
        # again: TensorBoard drops it, and what was of `last` itself is written once more here.
        there = any(folder.glob("events.*"))
        self._writer = SummaryWriter(str(folder), purge_step=last if there else None)
        self._writer.add_text("settings", _as_code(settings), last)
        self._session(hparams)
        for record in earlier:
            if record["step"] >= last or not there:
                self.write(record)

    def _session(self, hparams: Mapping[str, Any]) -> None:
        from torch.utils.tensorboard import summary

        make: Any = summary.hparams
        values = {
            name: value if isinstance(value, bool | int | float) else str(value)
            for name, value in hparams.items()
        }
        shown = dict.fromkeys(("train/loss", "eval/loss", "eval/perplexity"))
        experiment, start, self._end = make(values, shown)
        self._add(experiment)
        self._add(start)

    def _add(self, summary: Any) -> None:
        file: Any = self._writer.file_writer
        file.add_summary(summary)

    def write(self, record: Mapping[str, Any]) -> None:
        for name, value in named(record).items():
            self._writer.add_scalar(name, value, record["step"])
        self._writer.flush()

    def finish(self, results: Mapping[str, Any]) -> None:
        known = {key: value for key, value in results.items() if value is not None}
        rows = "\n".join(f"{key}: {value}" for key, value in known.items())
        self._writer.add_text("results", _as_code(rows), known.get("steps", 0))
        self._add(self._end)
        self._writer.close()


def _as_code(text: str) -> str:
    """TensorBoard reads Markdown, in which indented lines are code."""
    return "\n".join(f"    {line}" for line in text.splitlines())
