"""One rank that runs several jobs one after the other: importing takes longer than any of them.

python -m support.rank_worker JOBS.json, with torchrun's variables in the environment. A job has
flags, the exit code that it should end with, and perhaps a signal or a NaN: in which rank, and in
which of the micro-batches that it computes, or of the batches that it evaluates. `has_bf16`: it is
told that this processor multiplies bf16, as `told_of_bf16` does. `slow`: name of what rank 0 takes
a while for, one of `SLOW` → seconds.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from benchmarks.traffic import counted
from llama_recipes.finetuning import main
from llama_recipes.model.safetensors_folder import SafetensorsFolder
from llama_recipes.monitoring.trackers import Trackers
from llama_recipes.parallel.ranks import end
from llama_recipes.training import evaluate, resuming, step
from support.sixteen_bits import told_of_bf16


def run(path: Path) -> None:
    rank = os.environ["RANK"]
    torch.set_num_threads(1)
    for number, job in enumerate(json.loads(path.read_text())):
        output = path.with_name(f"{number}-{rank}.log")
        if "signal" in job:
            in_micro_batch(job["signal"], lambda how=job["signal"]: send(how["name"]))
        if "nan" in job:
            in_micro_batch(job["nan"], lambda: float("nan"))
        READ.clear()
        with (
            output.open("w", buffering=1) as file,
            redirect_stdout(file),
            redirect_stderr(file),
            counted() as received,
            told_of_bf16() if job.get("has_bf16") else nullcontext(),
            slowed(job.get("slow", {}) if rank == "0" else {}),
        ):
            code = main(job["flags"])
        facts = {"received": dict(received), "read": sum(READ.values())}
        path.with_name(f"{number}-{rank}.facts").write_text(json.dumps(facts))
        step.batch_loss = evaluate.batch_loss = BATCH_LOSS
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


def send(name: str) -> float:
    os.kill(os.getpid(), getattr(signal, name))
    return 1.0


SLOW = {
    "finding a checkpoint": (resuming, "_find"),
    "telling the trackers": (Trackers, "finish"),
}


@contextmanager
def slowed(what: dict[str, float]) -> Iterator[None]:
    with ExitStack() as stack:
        for name, seconds in what.items():
            owner, function = SLOW[name]
            stack.enter_context(patch.object(owner, function, slow(owner, function, seconds)))
        yield


def slow(owner: Any, function: str, seconds: float) -> Callable[..., Any]:
    act = getattr(owner, function)

    def later(*arguments: Any, **more: Any) -> Any:
        time.sleep(seconds)
        found = act(*arguments, **more)
        print(f"{function} ended at {time.time()}", flush=True)
        return found

    return later


def in_micro_batch(where: dict, act: Callable[[], float]) -> None:
    """Multiply the loss of that micro-batch of that rank with what `act` gives.

    where: `rank`, and `micro_batch` or `evaluated`, the number of the batch.
    """
    count = 0
    place = step if "micro_batch" in where else evaluate
    wanted = where.get("micro_batch", where.get("evaluated"))

    def batch_loss(*arguments):
        nonlocal count
        count += 1
        here = count == wanted and os.environ["RANK"] == str(where["rank"])
        factor = act() if here else 1.0
        return factor * BATCH_LOSS(*arguments)

    place.batch_loss = batch_loss


if __name__ == "__main__":
    faulthandler.enable()  # SIGABRT: where does it hang
    run(Path(sys.argv[1]))
    end(0)
