"""One rank that runs several jobs one after the other: importing takes longer than any of them.

python -m support.rank_worker JOBS.json, with torchrun's variables in the environment. A job has
flags, a port of its own, the exit code that it should end with, and perhaps a signal: which one,
which rank sends it to itself, and in which of the micro-batches that it computes.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import torch

from benchmarks.traffic import counted
from llama_recipes.finetuning import main
from llama_recipes.model.safetensors_folder import SafetensorsFolder
from llama_recipes.training import step


def run(path: Path) -> None:
    rank = os.environ["RANK"]
    torch.set_num_threads(1)
    for number, job in enumerate(json.loads(path.read_text())):
        os.environ["MASTER_PORT"] = str(job["port"])
        output = path.with_name(f"{number}-{rank}.log")
        if "signal" in job:
            signal_in(job["signal"])
        READ.clear()
        with (
            output.open("w", buffering=1) as file,
            redirect_stdout(file),
            redirect_stderr(file),
            counted() as received,
        ):
            code = main(job["flags"])
        facts = {"received": dict(received), "read": sum(READ.values())}
        path.with_name(f"{number}-{rank}.facts").write_text(json.dumps(facts))
        step.batch_loss = BATCH_LOSS
        if code != job["code"]:  # the others may be waiting for this one
            sys.exit(f"job {number} ended with {code}, not {job['code']}")


READ: Counter[str] = Counter()
"""Bytes of each tensor that this process took from the model's files, whole rows alone: a
fingerprint looks at single ones."""

_read = SafetensorsFolder.read


def counting_read(self, key, start=0, stop=None):
    rows = _read(self, key, start, stop)
    if len(rows) > 1:
        READ[key] += rows.numel() * rows.itemsize
    return rows


SafetensorsFolder.read = counting_read

BATCH_LOSS = step.batch_loss


def signal_in(how: dict) -> None:
    """Send this process a signal in the middle of its micro-batch of that number."""
    count = 0

    def batch_loss(*arguments):
        nonlocal count
        count += 1
        if count == how["micro_batch"] and os.environ["RANK"] == str(how["rank"]):
            os.kill(os.getpid(), getattr(signal, how["name"]))
        return BATCH_LOSS(*arguments)

    step.batch_loss = batch_loss


if __name__ == "__main__":
    run(Path(sys.argv[1]))
