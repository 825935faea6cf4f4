"""kill -9 at any moment, and a restart: the run ends, bit for bit, as one that was never killed.

A few kills in `make test`; a hundred in `make test-faults`, which writes their count to
tests/faults/kills.json.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.tiny_folder import jsonl, sums, tiny_folder

SUMMARY = Path(__file__).parent / "kills.json"
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


def ended(command: list[str], folder: Path) -> None:
    done = subprocess.run(
        [*command, f"--output_dir={folder}"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


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
    return subprocess.Popen(
        [*command, f"--output_dir={folder}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def begun(run: subprocess.Popen[bytes], folder: Path) -> None:
    """Wait until it is about to make a step, or has ended."""
    results = folder / "results.json"
    before = results.stat().st_mtime_ns if results.exists() else 0
    while run.poll() is None and not (results.exists() and results.stat().st_mtime_ns > before):
        time.sleep(0.01)


def killed(command: list[str], folder: Path, seconds: float) -> bool:
    """Start it and kill it `seconds` after its first step began; whether it was still running."""
    run = start(command, folder)
    begun(run, folder)
    try:
        run.wait(seconds)
    except subprocess.TimeoutExpired:
        os.killpg(run.pid, signal.SIGKILL)
        run.wait()
        return True
    assert run.returncode == 0
    return False


def kill_and_finish(command, whole, folder: Path, moments: random.Random) -> tuple[int, bool]:
    """Kill a run at up to four random moments, then let it end: kills, and whether it is equal."""
    expected, seconds = whole
    kills = 0
    for _ in range(4):
        if not killed(command, folder, moments.uniform(0.0, 0.4) * seconds):
            break
        kills += 1
    ended(command, folder)
    equal = same(content(folder), expected)
    shutil.rmtree(folder)
    return kills, equal


def test_killed_and_resumed_it_ends_equal(command, whole, tmp_path):
    kills, equal = kill_and_finish(command, whole, tmp_path / "result", random.Random(1))
    assert kills >= 1
    assert equal


@pytest.mark.faults
def test_a_hundred_kills(command, whole, tmp_path):
    moments, kills, runs, unequal = random.Random(2), 0, 0, 0
    while kills < 100:
        more, equal = kill_and_finish(command, whole, tmp_path / f"{runs}", moments)
        kills, runs, unequal = kills + more, runs + 1, unequal + (not equal)
    SUMMARY.write_text(json.dumps({"kills": kills, "runs": runs, "unequal": unequal}) + "\n")
    assert unequal == 0
