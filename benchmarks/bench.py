"""What every section of a benchmark works with."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import count
from pathlib import Path
from typing import Any

from benchmarks.documents import read_gsm8k, write_rows
from benchmarks.inventory import Step, read_steps
from benchmarks.measure import Ended, spawn
from benchmarks.scale import Scale

CONTEXT = 1024


@dataclass
class Bench:
    """work: a folder for everything that is written meanwhile.

    machine: what machine.py found.
    """

    work: Path
    gsm8k: Path
    scale: Scale
    machine: dict[str, Any] = field(default_factory=dict)
    _numbers: count[int] = field(default_factory=count)
    _started: float = field(default_factory=time.monotonic)

    def say(self, text: str) -> None:
        minutes, seconds = divmod(int(time.monotonic() - self._started), 60)
        print(f"[{minutes:3}:{seconds:02}] {text}", flush=True)

    def new_path(self, name: str) -> Path:
        return self.work / f"{next(self._numbers):03}-{name}"

    def spawn(self, command: Sequence[str], *, name: str, watch: Path | None = None) -> Ended:
        """A process of either side: on the processor, without a network, with caches of its own."""
        return spawn(
            command,
            environment={
                "CUDA_VISIBLE_DEVICES": "",
                "HF_HUB_OFFLINE": "1",
                "HF_HOME": str(self.work / "hf"),
                "XDG_CACHE_HOME": str(self.work / "cache"),
            },
            log=self.new_path(f"{name}.log"),
            watch=watch,
        )

    def own(self, module: str, *arguments: str) -> Any:
        """What a module of this package prints as JSON when it is run as a process."""
        command = [sys.executable, "-m", f"benchmarks.{module}", *arguments]
        return json.loads(self.spawn(command, name=module).output)

    @property
    def precision(self) -> str:
        """What our runs compute in, and so TRL's, where nothing else is said."""
        return "bf16" if self.machine["bf16"] else "fp32"

    @cached_property
    def model(self) -> Path:
        """The model as a folder that both sides read."""
        folder = self.work / "model"
        self.own("inventory", json.dumps({"export_to": str(folder)}))
        return folder

    @cached_property
    def model_config(self) -> dict[str, Any]:
        config: dict[str, Any] = json.loads((self.model / "config.json").read_text())
        return config

    def rows(self, part: str) -> list[dict[str, Any]]:
        return read_gsm8k(self.gsm8k, part, longest_text=self.scale.longest_text)

    def rows_file(self, rows: Sequence[dict[str, Any]]) -> Path:
        return write_rows(self.new_path("rows").with_suffix(".jsonl"), rows)

    def plan(self, file: Path, *, micro_batch: int, accumulation: int) -> list[Step]:
        """The steps that we make of a file; asking also warms our cache of it."""
        job = {
            "model": str(self.model),
            "file": str(file),
            "context": CONTEXT,
            "micro_batch": micro_batch,
            "accumulation": accumulation,
        }
        return read_steps(self.own("inventory", json.dumps(job)))
