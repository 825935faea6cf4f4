"""metrics.jsonl: what a run leaves for machines to read, line by line."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeGuard

from llama_recipes.errors import CheckpointError, writing

METRICS_FILE = "metrics.jsonl"


class RunLog:
    """Appends one JSON object a line and flushes it: what was logged survives a crash.

    Without a folder nothing is written. keep: bytes of an earlier part of the run to go on behind;
    what stands after them is forgotten, for it is written again. None: all there is. Raises
    CheckpointError where there is no writing to it.
    """

    def __init__(self, folder: Path | None, *, keep: int | None = None) -> None:
        self._file = None
        if folder is not None:
            with writing(folder / METRICS_FILE, "Make room, or give another --output_dir."):
                self._file = (folder / METRICS_FILE).open("a", encoding="utf-8")
            if keep is not None:
                self._file.truncate(min(keep, self._file.tell()))

    def write(self, record: Mapping[str, Any]) -> None:
        if self._file is not None:
            self._file.write(json.dumps(finite(record), allow_nan=False) + "\n")
            self._file.flush()

    def durable_bytes(self) -> int:
        """Bring what was written to the disk; how much that is."""
        if self._file is None:
            return 0
        os.fsync(self._file.fileno())
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()


class Metrics(NamedTuple):
    """lines: whole ones. cut: how many at the end are not, 0 or 1: a kill may leave one."""

    lines: list[dict[str, Any]]
    cut: int = 0


def read_metrics(folder: Path | None) -> Metrics:
    """A run's metrics.jsonl; no lines where there is no folder, or no file in it.

    Raises CheckpointError where a whole line is not one that a run writes.
    """
    path = folder / METRICS_FILE if folder is not None else None
    if path is None or not path.is_file():
        return Metrics([])
    try:
        *texts, last = path.read_text(encoding="utf-8").split("\n")
    except UnicodeDecodeError as error:
        raise _damaged(path, f"it is not UTF-8 ({error})") from error
    lines = []
    for number, text in enumerate(texts, 1):
        try:
            line = json.loads(text)
        except ValueError:
            line = None
        if not _is_metrics(line):
            raise _damaged(path, f"line {number} is no line of metrics")
        lines.append(line)
    return Metrics(lines, int(bool(last)))


def _is_metrics(line: object) -> TypeGuard[dict[str, Any]]:
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return False
    numbers = (value is None or type(value) in (int, float) for value in line.values())
    return all(numbers) and ("loss" not in line or {"epoch", "supervised_tokens"} <= line.keys())


def _damaged(path: Path, why: str) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged: {why}. Remove the file to go on without what it says."
    )


def finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity: a perplexity that overflows is null."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }


def perplexity(loss: float) -> float:
    """exp(loss), infinite where that overflows. `loss` in nats per token."""
    try:
        return math.exp(loss)
    except OverflowError:
        return math.inf
