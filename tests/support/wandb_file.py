"""What a run of W&B wrote on this machine, read back from its .wandb file.

The file is a log in LevelDB's format (https://github.com/google/leveldb/blob/main/doc/log_format.md)
behind a header of seven bytes, and holds W&B's own protobuf records.
"""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wandb.proto.wandb_internal_pb2 import Record

_BLOCK, _PREFIX = 32768, 7
_FULL, _LAST = 1, 4


@dataclass
class Written:
    """rows: what was logged, by the number of its row. exit_code: None where nothing ended it."""

    run_id: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    rows: dict[int, dict[str, Any]] = field(default_factory=dict)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, str] = field(default_factory=dict)
    preempting: bool = False
    exit_code: int | None = None


def written_runs(folder: Path, *, patience_seconds: float = 30.0) -> list[Written]:
    """The parts of a run below `folder`, the earliest first.

    W&B's own process writes the file, a moment behind what it is told: it is waited for.
    """
    limit = time.monotonic() + patience_seconds
    while True:
        files = sorted(
            folder.glob("wandb/offline-run-*/*.wandb")
        )  # their folders begin with a date
        runs = [read_run(path) for path in files]
        if all(run.exit_code is not None for run in runs) or time.monotonic() > limit:
            return runs
        time.sleep(0.02)


def read_run(path: Path) -> Written:
    found = Written()
    for content in _contents(path.read_bytes()):
        record = Record.FromString(content)
        kind = record.WhichOneof("record_type")
        if kind == "run":
            run = record.run
            found.run_id = run.run_id
            found.given = {
                "project": run.project,
                "entity": run.entity,
                "job_type": run.job_type,
                "tags": list(run.tags),
                "group": run.run_group,
                "notes": run.notes,
            }
            _update(found.config, run.config.update)
        elif kind == "config":
            _update(found.config, record.config.update)
        elif kind == "history":
            row: dict[str, Any] = {}
            _update(row, record.history.item)
            number = row.pop("_step")
            assert number not in found.rows, f"row {number} twice in {path}"
            found.rows[number] = {k: v for k, v in row.items() if not k.startswith("_")}
        elif kind == "summary":
            _update(found.summary, record.summary.update)
        elif kind == "metric":
            found.metrics[record.metric.glob_name or record.metric.name] = record.metric.step_metric
        elif kind == "preempting":
            found.preempting = True
        elif kind == "exit":
            found.exit_code = record.exit.exit_code
    return found


def _update(target: dict[str, Any], items: Any) -> None:
    for item in items:
        names = list(item.nested_key) or [item.key]
        place = target
        for name in names[:-1]:
            place = place.setdefault(name, {})
        place[names[-1]] = json.loads(item.value_json)


def _contents(data: bytes) -> Iterator[bytes]:
    assert data[:4] in (b":W&B", b"")
    at, parts = _PREFIX, b""
    while at + _PREFIX <= len(data):
        if _BLOCK - at % _BLOCK < _PREFIX:  # no record begins where no prefix fits
            at += _BLOCK - at % _BLOCK
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + _PREFIX : at + _PREFIX + length]
        at += _PREFIX + length
        if kind in (_FULL, _LAST):
            yield parts
            parts = b""
