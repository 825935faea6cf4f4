"""torchrun with two ranks that train a tiny model, to be watched and disturbed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO

import torch
from safetensors.torch import load_file

from support.tiny_folder import jsonl, sums, tiny_folder

TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
TIMES = ("step_seconds", "tokens_per_second", "peak_memory_gib")


def make_inputs(folder: Path) -> Path:
    """The tiny model and rows that `flags_for` names."""
    tiny_folder(folder / "model")
    jsonl(folder / "train.jsonl", sums(37))
    return folder


def flags_for(inputs: Path, output: Path, *extra: str, epochs: int = 30) -> list[str]:
    return [
        *(f"--model_name={inputs / 'model'}", "--dataset=file_dataset", "--no_run_validation"),
        *(f"--train_file={inputs / 'train.jsonl'}", "--context_length=64", "--enable_fsdp"),
        *("--batch_size_training=1", "--lr=1e-2", "--no_mixed_precision", "--use_peft"),
        *(f"--num_epochs={epochs}", "--checkpoint_every=3", f"--output_dir={output}"),
        *extra,
    ]


@contextmanager
def launched(*words: str) -> Iterator[subprocess.Popen[str]]:
    """torchrun with its two ranks; none of them is left behind."""
    with torchrun([*TORCHRUN, *words], stdout=subprocess.PIPE) as process:
        yield process


@contextmanager
def torchrun(command: Sequence[str], *, stdout: int | IO[str]) -> Iterator[subprocess.Popen[str]]:
    """A torchrun that `command` starts; none of its ranks is left behind."""
    process = subprocess.Popen(
        command, stdout=stdout, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        for pid in [process.pid, *ranks_of(process.pid).values()]:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        process.wait()
        if process.stdout:
            process.stdout.close()


def ranks_of(launcher: int) -> dict[int, int]:
    """Rank → its process, of those that a torchrun started."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
            variables = (folder / "environ").read_bytes().decode(errors="replace").split("\0")
        except (OSError, ProcessLookupError):
            continue
        rank = [v.partition("=")[2] for v in variables if v.startswith("RANK=")]
        if parent == launcher and rank:
            found[int(rank[0])] = int(folder.name)
    return found


def steps(folder: Path) -> int:
    try:
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        return json.loads(lines[-1])["step"] if lines else 0
    except (OSError, ValueError):
        return 0


def wait_until(condition: Callable[[], object], seconds: float = 90) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.02)


def content(folder: Path) -> tuple[list[dict], dict[str, torch.Tensor]]:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    return metrics, load_file(folder / "adapter_model.safetensors")
