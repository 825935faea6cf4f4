"""A run that is killed at a system call of a save goes on, and ends as one that was not."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from support.tiny_folder import jsonl, sums, tiny_folder
from support.traced import kill_at, needs_strace

DRAFT, OLD = ".draft-step-00000003", ".draft-step-00000002-old"
CALLS = {
    "mkdir": DRAFT,
    "openat": f"{DRAFT}/manifest.json",
    "write": f"{DRAFT}/state.json",
    "fsync": f"{DRAFT}/weights.safetensors",
    "renameat": f"{DRAFT}/weights.safetensors",
    "rename": DRAFT,
    "unlinkat": OLD,
    "rmdir": OLD,
}
"""Of the third save, one of each kind: the call and what it is made for."""
IN_MAKE_TEST = "rename"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    folder = tmp_path_factory.mktemp("inputs")
    return [
        *(sys.executable, "-m", "llama_recipes.finetuning", "--dataset=file_dataset"),
        f"--model_name={tiny_folder(folder / 'model')}",
        f"--train_file={jsonl(folder / 'train.jsonl', sums(10))}",
        *("--no_run_validation", "--use_peft", "--lora_dropout=0.2", "--lr=1e-2"),
        *("--batching_strategy=padding", "--batch_size_training=2", "--context_length=128"),
        *("--num_epochs=1", "--checkpoint_every=1", "--keep_checkpoints=1", "--resume=auto"),
    ]


def run(command: list[str], folder: Path, *before: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*before, *command, f"--output_dir={folder}"],
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        capture_output=True,
        text=True,
        check=False,
    )


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Of the result and of the last checkpoint, the optimizer's state and the generators too."""
    return {
        f"{path.relative_to(folder)}:{key}": value
        for path in sorted(folder.rglob("*.safetensors"))
        for key, value in load_file(path).items()
    }


@pytest.fixture(scope="module")
def whole(command, tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "result"
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    return weights(folder)


@needs_strace
@pytest.mark.parametrize(
    "call",
    [pytest.param(c, marks=[] if c == IN_MAKE_TEST else pytest.mark.faults) for c in CALLS],
)
def test_killed_in_a_save_it_goes_on_and_ends_equal(
    call, command, whole, tmp_path, record_property
):
    folder = tmp_path / "result"
    place = folder / "checkpoints" / CALLS[call]
    strace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
    done = run(command, folder, *strace, "-P", str(place), *kill_at(call, 1))
    assert done.returncode == -9, done.stderr
    record_property("kills", 1)
    saved = 3 if CALLS[call] == OLD else 2
    done = run(command, folder)
    assert done.returncode == 0, done.stderr
    assert f"Going on after step {saved}, from" in done.stdout
    found = weights(folder)
    assert found.keys() == whole.keys()
    assert all(torch.equal(found[key], value) for key, value in whole.items())
    (left,) = (folder / "checkpoints").iterdir()
    assert left.name == "step-00000005"
