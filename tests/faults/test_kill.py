"""kill -9 at any moment, and a restart: the run ends, bit for bit, as one that was never killed.

Each start after a kill goes on from the newest checkpoint that was published before it: none is
lost. A few kills in `make test`; a hundred in `make test-faults`.
"""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.tiny_folder import jsonl, sums, tiny_folder

TIMES = ("step_seconds", "tokens_per_second", "peak_memory_gib")


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    rows = sums(26)
    return [
        *(sys.executable, "-m", "llama_recipes.finetuning", "--dataset=file_dataset"),
        f"--model_name={tiny_folder(folder / 'model', hidden_size=64, intermediate_size=128)}",
        f"--train_file={jsonl(folder / 'train.jsonl', rows[:20])}",
        f"--validation_file={jsonl(folder / 'validation.jsonl', rows[20:])}",
        *("--use_peft", "--lora_dropout=0.2", "--batching_strategy=padding", "--lr=1e-2"),
        *("--batch_size_training=2", "--gradient_accumulation_steps=2", "--num_epochs=4"),
        *("--checkpoint_every=1", "--context_length=128", "--eval_every=3", "--resume=auto"),
    ]


def content(folder: Path):
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    metrics = [{k: v for k, v in line.items() if k not in TIMES} for line in lines]
    weights = {
        f"{path.relative_to(folder)}:{key}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for key, value in load_file(path).items()
    }
    return metrics, weights


def same(one, other) -> bool:
    return (
        one[0] == other[0]
        and one[1].keys() == other[1].keys()
        and all(torch.equal(value, other[1][key]) for key, value in one[1].items())
    )


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    """What the run leaves, and the seconds that its steps, evaluations and savings take."""
    folder = tmp_path_factory.mktemp("whole") / "result"
    run = start(command, folder)
    begun(run, folder)
    started = time.monotonic()
    assert run.wait() == 0
    return content(folder), time.monotonic() - started


def start(command: list[str], folder: Path) -> subprocess.Popen[bytes]:
    """What it says is in `said(folder)`."""
    with said(folder).open("wb") as log:
        return subprocess.Popen(
            [*command, f"--output_dir={folder}"],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=os.environ | {"PYTHONUNBUFFERED": "1"},  # a kill takes what is not written yet
            start_new_session=True,
        )


def said(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.txt")


def newest(folder: Path) -> int:
    """The highest step that is published; 0: none is."""
    names = (path.name for path in folder.glob("checkpoints/step-*"))
    return max((int(re.findall(r"\d+", name)[0]) for name in names), default=0)


def went_on_from(folder: Path) -> int:
    """The step that the last start went on from; 0: it began anew."""
    found = re.search(r"Going on after step (\d+)", said(folder).read_text())
    return int(found[1]) if found else 0


def begun(run: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until it is about to make a step, or has ended."""
    results = folder / "results.json"
    before = results.stat().st_mtime_ns if results.exists() else 0
    while run.poll() is None and not (results.exists() and results.stat().st_mtime_ns > before):
        time.sleep(0.01)


def killed(command: list[str], folder: Path, seconds: float | None) -> bool:
    """Start it and kill it `seconds` after its first step began; whether it was still running.

    None: it is left alone.
    """
    run = start(command, folder)
    begun(run, folder)
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        return True
    assert run.returncode == 0, said(folder).read_text()
    return False


@dataclass
class Count:
    """resumes: starts that went on from a checkpoint. lost: starts that went on from an earlier one
    than the newest. unequal: runs whose result is not that of the run that was left alone."""

    kills: int = 0
    runs: int = 0
    resumes: int = 0
    lost: int = 0
    unequal: int = 0


def kill_and_finish(command, whole, folder: Path, moments: random.Random, count: Count) -> None:
    """Kill a run at up to four random moments, of a hundred in all, then let it end."""
    expected, seconds = whole
    left, published, going = min(4, 100 - count.kills), 0, True
    while going:
        wait = moments.uniform(0.0, 0.4) * seconds if left else None
        going = killed(command, folder, wait)
        left, count.kills = left - going, count.kills + going
        count.resumes += went_on_from(folder) > 0
        count.lost += went_on_from(folder) < published
        published = newest(folder)
    count.runs += 1
    count.unequal += not same(content(folder), expected)
    shutil.rmtree(folder)


def test_killed_and_resumed_it_ends_equal(command, whole, tmp_path):
    count = Count()
    kill_and_finish(command, whole, tmp_path / "result", random.Random(1), count)
    assert count.kills >= 1
    assert count.resumes >= 1
    assert (count.lost, count.unequal) == (0, 0)


@pytest.mark.faults
def test_a_hundred_kills(command, whole, tmp_path, record_property):
    moments, count = random.Random(2), Count()
    while count.kills < 100:
        kill_and_finish(command, whole, tmp_path / f"{count.runs}", moments, count)
    for name, number in asdict(count).items():
        record_property(name, number)
    assert (count.lost, count.unequal) == (0, 0)
